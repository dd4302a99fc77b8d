"""Hedging: a call that has no answer for a while is made at a second instance too, and the first answer wins.

Owns the race between the two. Which instance the second goes to, and whether it may, is said by `attempts.py`; what is
raced, a reply or the first event of a stream, by `remote.py`, above. The technique: J. Dean and L. A. Barroso, "The
Tail at Scale", CACM 56(2), 2013.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aixgo.errors import AixgoError, BudgetExceeded, Unavailable
from aixgo.runtime.entry import outlasted

LOSER_GRACE = 0.25
"""Seconds that the loser gets to end; it needs 100 ms at the most to learn what it has spent, unless all is busy."""
T = TypeVar("T")


async def race(
    first: Coroutine[Any, Any, T], second: Callable[[], Coroutine[Any, Any, T] | None], after: float
) -> tuple[T, int]:
    """The first answer, and whose it was: 0 or 1. After `after` seconds `second` is asked for its work, or None.

    Where there is none, for example because the first attempt still waits for an instance, it is asked again, each time
    after twice as long. What failed without an answer, see `_answered`, loses as long as the other goes on; without any
    answer the error of the first is raised. When this ends the loser has been cancelled and has ended, so that what it
    spent is recorded.
    """
    loop = asyncio.get_running_loop()
    legs = [loop.create_task(first)]
    try:
        while len(legs) < 2 and not (await asyncio.wait(legs, timeout=after))[0]:
            if (other := second()) is not None:
                legs.append(loop.create_task(other))
            after *= 2
        winner = await _winner(legs)
        return legs[winner].result(), winner
    finally:
        await _end(legs)


async def _winner(legs: list[asyncio.Task[T]]) -> int:
    while True:
        for number, leg in enumerate(legs):
            if leg.done() and _answered(leg, hedge=number > 0):
                return number
        running = [leg for leg in legs if not leg.done()]
        if not running:
            return 0
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)


def _answered(leg: asyncio.Task[Any], *, hedge: bool) -> bool:
    """Whether an attempt ended with an answer: a reply, or an error that an agent raised.

    An instance that is lost or took no call has not answered; nor has a hedge that had too little of the budget left.
    """
    error = None if leg.cancelled() else leg.exception()
    if isinstance(error, AixgoError):
        poor = hedge and isinstance(error, BudgetExceeded)
        return error.accepted and not poor and not isinstance(error, Unavailable)
    return not leg.cancelled()


async def _end(legs: list[asyncio.Task[Any]]) -> None:
    for leg in legs:
        leg.cancel()
    cancelled: asyncio.CancelledError | None = None
    for leg in legs:
        cancelled = await outlasted(leg, LOSER_GRACE) or cancelled
        leg.add_done_callback(_retrieve)
    if cancelled is not None:
        raise cancelled


def _retrieve(leg: asyncio.Task[Any]) -> None:
    if not leg.cancelled():
        leg.exception()
