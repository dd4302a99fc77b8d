"""How a call ended, in the words of its caller, where all that is seen here is that its task was cancelled.

Owns the difference between a call whose time was up and one that nobody wanted any more. Above: spans, metrics and
attempts; below it lies the call's state.
"""

from __future__ import annotations

import asyncio

from aixgo.call import CallState, current
from aixgo.errors import CallCancelled, DeadlineExceeded

EARLY = 0.005
"""Seconds that a timer may come before its time: uvloop counts whole milliseconds."""


def ending(error: BaseException, state: CallState | None = None) -> BaseException:
    """What the caller of a call gets for `error`: itself, but for a cancellation.

    That is DeadlineExceeded once the deadline of `state` (default: the current call's) has come, whoever stopped the
    call, this process or its caller; before that it is CallCancelled.
    """
    if not isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return error
    state = current() if state is None else state
    if state is not None and _is_over(state):
        return DeadlineExceeded("the deadline passed")
    return CallCancelled("cancelled")


def _is_over(state: CallState) -> bool:
    try:
        now = asyncio.get_running_loop().time()
    except RuntimeError:  # in a thread of its own, which no deadline stops
        return False
    return state.deadline - EARLY <= now
