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
        self._failures: dict[str, AixgoError] = {}

    async def run(self) -> Mapping[str, AixgoError]:
        """Run the steps; what failed, by id, in the order in which it did."""
        self._order.prepare()
        async with asyncio.TaskGroup() as group:
            while self._begin(group):
                ended = await self._ended.get()
                self._running -= 1
                if ended not in self._failures:
                    self._order.done(ended)
        return self._failures

    def _begin(self, group: asyncio.TaskGroup) -> bool:
        """Begin what can begin; whether anything runs."""
        self._ready.extend(() if self._failures else self._order.get_ready())
        room = 0 if self._failures else self._room - self._running
        batch = [self._ready.popleft() for _ in range(min(room, len(self._ready)))]
        if batch:
            self._running += len(batch)
            group.create_task(self._calls.together([(name, lambda name=name: self._run(name)) for name in batch]))
        return self._running > 0

    async def _run(self, name: str) -> Message:
        try:
            return await self._do(self._steps[name])
        except AixgoError as error:
            self._failures[name] = error
            raise
        finally:
            self._ended.put_nowait(name)
