"""Several calls at once: ordered outcomes, a bound on how many run, and a share of the budget for each.

What `call_parallel` of both runtimes and the members of patterns go through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from aixgo import call as ambient
from aixgo.call import CallState
from aixgo.errors import AixgoError, InvalidInput
from aixgo.message import Message
from aixgo.runtime.contract import Outcome, Outcomes


async def gather(
    targets: Sequence[str], invoke: Callable[[str], Awaitable[Message]], concurrency: int | None = None
) -> Outcomes:
    """Invoke all targets, at most `concurrency` at once; typed errors become outcomes, cancellation cancels all."""
    if concurrency is not None and concurrency < 1:
        raise InvalidInput(f"concurrency is {concurrency}; pass 1 or more, or leave it out")
    slots = nullcontext() if concurrency is None else asyncio.Semaphore(concurrency)
    above = ambient.current()

    async def one(target: str, share: CallState | None) -> Outcome:
        async with slots:
            ambient.set_state(share)
            try:
                return Outcome(target, await invoke(target))
            except AixgoError as error:
                return Outcome(target, error=error)

    tasks: list[asyncio.Task[Outcome]] = []
    async with asyncio.TaskGroup() as group:
        for target, share in zip(targets, _shares(len(targets)), strict=True):
            tasks.append(group.create_task(one(target, share)))
            # Not in `one`: a task that is cancelled before it begins runs nothing of it.
            tasks[-1].add_done_callback(lambda _, share=share: _reclaim(above, share))
    return Outcomes([task.result() for task in tasks])


def _shares(count: int) -> list[CallState | None]:
    """The current call's state for each of `count` calls that run at once, each with a share of the budget."""
    state = ambient.current()
    if state is None or state.budget is None:
        return [state] * count
    return [replace(state, budget=state.budget.lend(share)) for share in range(count, 0, -1)]


def _reclaim(above: CallState | None, share: CallState | None) -> None:
    """Return what a share has left to the budget that it came from."""
    if above is not None and above.budget is not None and share is not None and share.budget is not None:
        above.budget.reclaim(share.budget)
