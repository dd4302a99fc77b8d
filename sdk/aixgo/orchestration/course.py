"""A plan on its way: which steps run now, and which may begin.

Owns the order and the room for steps; what a step does is passed in. Below: `aixgo.plans` and the members' calls.
Above: the pattern planning.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aixgo.errors import AixgoError
from aixgo.message import Message
from aixgo.orchestration.base import MemberCalls
from aixgo.plans import Step, sorter


class Course:
    """One plan on its way: each step begins when its needs are done and there is room; after a failure none begins.

    Steps that begin together share what is left of the budget, and what one leaves is there for those that begin later:
    a plan in a row has all of it at each step. So steps are begun from here, and not by the steps before them, whose
    share is only a part.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        do: Callable[[Step], Awaitable[Message]],
        calls: MemberCalls,
        concurrency: int | None,
    ) -> None:
        self._steps = {step.id: step for step in steps}
        self._do, self._calls = do, calls
        self._room = concurrency or len(steps)
        self._running = 0
        self._order = sorter(steps)
        self._ready: deque[str] = deque()
        self._ended: asyncio.Queue[str] = asyncio.Queue()
        self._settled: set[str] = set()
        self._failures: dict[str, AixgoError] = {}
        self._late: AixgoError | None = None

    async def run(self) -> Mapping[str, AixgoError]:
        """Run the steps; what failed, by id, in the order in which it did.

        Raises DeadlineExceeded when the pattern's time was up while steps ran: there is none left for a new plan.
        """
        self._order.prepare()
        async with asyncio.TaskGroup() as group:
            while self._begin(group):
                ended = await self._ended.get()
                self._running -= 1
                self._order.done(ended)
        if self._late is not None:
            raise self._late
        return self._failures

    def _begin(self, group: asyncio.TaskGroup) -> bool:
        """Begin what can begin; whether anything runs."""
        if self._failures:
            return self._running > 0
        self._ready.extend(self._order.get_ready())
        batch = [self._ready.popleft() for _ in range(min(self._room - self._running, len(self._ready)))]
        if batch:
            self._running += len(batch)
            group.create_task(self._together(batch))
        return self._running > 0

    async def _together(self, names: Sequence[str]) -> None:
        """Run steps that share a budget. Those that are not settled then were cancelled, because time was up."""
        late: AixgoError | None = None
        try:
            outcomes = await self._calls.together([(name, lambda name=name: self._run(name)) for name in names])
        except AixgoError as error:
            late = error
        else:
            late = next((outcome.error for outcome in outcomes if outcome.target not in self._settled), None)
        self._late = self._late or late
        for name in names:
            if name not in self._settled:
                self._settle(name, late)

    async def _run(self, name: str) -> Message:
        try:
            reply = await self._do(self._steps[name])
        except AixgoError as error:
            self._settle(name, error)
            raise
        self._settle(name, None)
        return reply

    def _settle(self, name: str, error: AixgoError | None) -> None:
        self._settled.add(name)
        if error is not None:
            self._failures[name] = error
        self._ended.put_nowait(name)
