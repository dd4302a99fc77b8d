"""Several calls at once: ordered outcomes, a bound on how many run, and a share of the budget for each.

What `call_parallel` of both runtimes and the members of patterns go through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from aixgo import call as ambient
from aixgo.call import CallState
from aixgo.errors import AixgoError, CallCancelled, DeadlineExceeded, InvalidInput
from aixgo.message import Message
from aixgo.runtime.contract import Outcome, Outcomes
from aixgo.runtime.entry import cancelled_from_outside

Job: TypeAlias = "tuple[str, Callable[[], Awaitable[Message]]]"
"""A target and what calls it."""
Enough: TypeAlias = "Callable[[Sequence[Outcome]], bool]"
"""Told the outcomes so far, in the order in which they came, it says whether the others are still wanted."""

_LATE = "it was not done in time; give the call a longer timeout, or the agent less to do"


async def gather(
    targets: Sequence[str], invoke: Callable[[str], Awaitable[Message]], concurrency: int | None = None
) -> Outcomes:
    """Invoke all targets, at most `concurrency` at once; typed errors become outcomes, cancellation cancels all."""
    return await together([(target, lambda target=target: invoke(target)) for target in targets], concurrency)


async def together(
    jobs: Sequence[Job], concurrency: int | None = None, enough: Enough | None = None, deadline: float | None = None
) -> Outcomes:
    """Do all jobs, at most `concurrency` at once. Outcomes are in the order of the jobs; typed errors become outcomes.

    Cancellation cancels all; so does an exception that is no AixgoError, raised in an ExceptionGroup then. Once
    `enough` says so, what still runs or waits is cancelled and has CallCancelled as its outcome. What is not done by
    `deadline` (of the event loop's clock), where that is earlier than the call's, is cancelled and has
    DeadlineExceeded. Each job gets a share of the budget when it begins: what is left by the number of those that may
    run beside it. What it leaves is there for later ones.
    """
    if concurrency is not None and concurrency < 1:
        raise InvalidInput(f"concurrency is {concurrency}; pass 1 or more, or leave it out")
    crowd = _Crowd(jobs, concurrency or len(jobs), enough, deadline)
    timer = None if deadline is None else asyncio.get_running_loop().call_at(deadline, crowd.expire)
    try:
        async with asyncio.TaskGroup() as group:
            crowd.begin(group)
    finally:
        if timer is not None:
            timer.cancel()
        crowd.close()
    if crowd.failures:
        raise ExceptionGroup("calls beside each other failed by what is no AixgoError", crowd.failures)
    return Outcomes([crowd.outcome(index) for index in range(len(jobs))])


class _Crowd:
    """Jobs that run beside each other."""

    def __init__(self, jobs: Sequence[Job], limit: int, enough: Enough | None, deadline: float | None) -> None:
        self._jobs, self._limit, self._enough, self._deadline = jobs, limit, enough, deadline
        self._expired = False
        self._above = ambient.current()
        self._found: dict[int, Outcome] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._shares: dict[int, CallState | None] = {}
        self._next = 0
        self.failures: list[Exception] = []

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Begin as many jobs as there is room for."""
        while self._next < len(self._jobs) and len(self._running) < self._limit:
            index, self._next = self._next, self._next + 1
            self._shares[index] = self._share(min(self._limit - len(self._running), len(self._jobs) - index))
            self._running[index] = group.create_task(self._do(index, group))

    def outcome(self, index: int) -> Outcome:
        """How a job ended."""
        if index in self._found:
            return self._found[index]
        if self._expired:
            return Outcome(self._jobs[index][0], error=DeadlineExceeded(_LATE))
        return Outcome(self._jobs[index][0], error=CallCancelled("the outcomes of the others were enough"))

    def expire(self) -> None:
        """Cancel what is not done; its outcome is DeadlineExceeded."""
        self._expired = True
        self._stop()

    def close(self) -> None:
        """Return the shares of jobs that were cancelled, some before they ran any of `_do`."""
        for index in list(self._shares):
            self._end(index)

    async def _do(self, index: int, group: asyncio.TaskGroup) -> None:
        try:
            await self._answer(index, group)
        except Exception as error:  # noqa: BLE001  # `together` raises it; over one that it sees itself, a TaskGroup
            # before Python 3.13 forgets that its task was cancelled, or leaves it counted as cancelled (gh-116720)
            self.failures.append(error)
            self._end(index)
            self._stop()

    async def _answer(self, index: int, group: asyncio.TaskGroup) -> None:
        ambient.set_state(self._shares[index])
        target, invoke = self._jobs[index]
        try:
            self._found[index] = Outcome(target, await invoke())
        except AixgoError as error:
            self._found[index] = Outcome(target, error=error)
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            self._found[index] = Outcome(target, error=_of_its_own(error))
        self._end(index)
        if self._enough is not None and self._enough(list(self._found.values())):
            self._stop()
        self.begin(group)

    def _stop(self) -> None:
        self._next = len(self._jobs)
        for task in self._running.values():
            task.cancel()

    def _end(self, index: int) -> None:
        """Return what a job's share has left to the budget that it came from."""
        self._running.pop(index, None)
        share = self._shares.pop(index, None)
        if (
            self._above is not None
            and self._above.budget is not None
            and share is not None
            and share.budget is not None
        ):
            self._above.budget.reclaim(share.budget)

    def _share(self, among: int) -> CallState | None:
        state = self._above
        if state is None:
            return None
        if self._deadline is None and state.budget is None:
            return state
        deadline = state.deadline if self._deadline is None else min(state.deadline, self._deadline)
        budget = None if state.budget is None else state.budget.lend(among)
        return replace(state, deadline=deadline, budget=budget)


def _of_its_own(error: asyncio.CancelledError) -> CallCancelled:
    """The error of a job that awaited something that was cancelled, while nobody cancelled the job."""
    made = CallCancelled("it awaited something that was cancelled")
    made.__cause__ = error
    return made
