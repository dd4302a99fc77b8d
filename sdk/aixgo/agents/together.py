"""Several awaitables at once inside one agent: all results, or the first error and nothing left running.

Above: the ready agents that ask a model more than once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")


async def together(asked: Sequence[Coroutine[Any, Any, ResultT]], *, concurrency: int | None = None) -> list[ResultT]:
    """The results in order, at most `concurrency` at once; when one fails the others are cancelled, and its error is
    raised as it is, not in a group.
    """
    if len(asked) == 1:
        return [await asked[0]]
    slots = nullcontext() if concurrency is None else asyncio.Semaphore(concurrency)

    async def one(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
        async with slots:
            return await coroutine

    tasks = [asyncio.ensure_future(one(coroutine)) for coroutine in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for coroutine in asked:
            coroutine.close()  # those that waited for their turn were never begun
