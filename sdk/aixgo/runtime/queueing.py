"""The calls of agents that have a limit: so many run at once, the others wait their turn or are refused.

Both runtimes and AgentServer send calls through it, so that the limit holds for all who call an agent of this process.
Below it lies the core; above it `base.py`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

from aixgo.agent import Agent
from aixgo.call import CallState
from aixgo.errors import InstanceDraining, InvalidInput, Overloaded
from aixgo.events import Event, Result
from aixgo.message import Message
from aixgo.runtime.contract import DEFAULT_OPTIONS, CallOptions
from aixgo.runtime.entry import agent_events, run_agent, typed
from aixgo.telemetry import metrics

WEIGHT = 0.2
"""Share of the latest call in the mean time that a call takes: the last ten calls make up nine tenths of it."""
UNKNOWN_WAIT = 0.1
"""Seconds after which one that was refused may come back, as long as nobody knows what a call takes: without a word
callers would go on asking, and spend their retries on it."""

Reason = Literal["circle", "queue", "deadline"]
"""Why a call is refused, as metrics have it."""


class CallQueue:
    """At most `most` calls of an agent at once; at most `room` wait, and go first come first served.

    A call that waits leaves when it is cancelled. One that would come too late is refused at once: when, at the mean
    time that recent calls took, it could not both get its turn and end before its deadline. Until a first call has
    ended nobody is refused for that.
    """

    def __init__(self, agent: str, most: int, room: int) -> None:
        if most < 1:
            raise InvalidInput(f"max_concurrent_calls of agent {agent!r} is {most}; 1 is the least, None sets no limit")
        if room < 0:
            raise InvalidInput(f"max_queue of agent {agent!r} is {room}; 0 is the least, and lets no call wait")
        self.most = most
        self.room = room
        self.running = 0
        self._agent = agent
        self._waiting: OrderedDict[asyncio.Future[None], CallState | None] = OrderedDict()  # with those from outside
        self._mean: float | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def estimate(self) -> float:
        """Seconds until one more call would get its turn: recent calls' mean time, for each place in the queue, over
        the number of calls that run at once. 0 while nothing is known.
        """
        return (self._mean or 0.0) * (self.waiting + 1) / self.most

    async def execute(self, agent: Agent, message: Message, state: CallState, instance_id: str = "") -> Message:
        """`entry.run_agent` in its turn; raises Overloaded, not accepted, when it is refused."""
        async with self.turn(state, outside=bool(instance_id)):
            return await run_agent(agent, message, state, instance_id)

    async def events(
        self,
        agent: Agent,
        message: Message,
        state: CallState,
        options: CallOptions = DEFAULT_OPTIONS,
        instance_id: str = "",
    ) -> AsyncGenerator[Event]:
        """`entry.agent_events` in its turn; raises Overloaded, not accepted, when it is refused."""
        last: Result | None = None
        async with (
            self.turn(state, outside=bool(instance_id)),
            aclosing(agent_events(agent, message, state, options, instance_id)) as events,
        ):
            async for event in events:
                if isinstance(event, Result):
                    last = event
                    break
                yield event
        if last is not None:  # outside, because whoever has it may not come back for more
            yield last

    @asynccontextmanager
    async def turn(self, state: CallState, *, outside: bool = False) -> AsyncGenerator[None]:
        """One call's turn, waited for; raises Overloaded, not accepted, when it is refused.

        `outside`: it comes from another process. While it waits `refuse_waiting` may end it with InstanceDraining.
        """
        loop = asyncio.get_running_loop()
        if self.running < self.most and not self._waiting:
            self.running += 1
        else:
            self._check(state, state.deadline - loop.time())
            await self._wait(loop.create_future(), state if outside else None)
        began = loop.time()
        try:
            yield
        finally:
            took = loop.time() - began
            self._mean = took if self._mean is None else self._mean + WEIGHT * (took - self._mean)
            self._leave()

    def refuse_waiting(self, left: float) -> None:
        """The process ends in `left` seconds: refuse calls from outside that could not end until then, not accepted.

        With 0 these are all that wait; with more, those of which that is known, so that their callers do not wait.
        """
        why = f"this instance drains, and the call waited for its turn at agent {self._agent!r}"
        mean = self._mean or 0.0
        for place, (turn, state) in enumerate(list(self._waiting.items()), 1):
            if state is not None and (not left or mean * place / self.most + mean > left):
                del self._waiting[turn]
                metrics.call_refused("draining", self._agent)
                turn.set_exception(typed(InstanceDraining(why), state))

    def _check(self, state: CallState, left: float) -> None:
        if self._agent in state.path[:-1]:
            raise self._refusal(state, "circle", "and a call from inside another one cannot wait for that to end")
        if self.waiting >= self.room:
            raise self._refusal(state, "queue", f"and {self.waiting} wait, as many as may (max_queue)")
        if self.estimate() + (self._mean or 0.0) > left:
            short = f"{self.waiting} wait, and this call's {left:.3g} s would not suffice"
            raise self._refusal(state, "deadline", short)

    def _refusal(self, state: CallState, reason: Reason, why: str) -> Exception:
        metrics.call_refused(reason, self._agent)
        text = f"agent {self._agent!r} has {self.most} calls at once, as many as may (max_concurrent_calls), {why}"
        fields = {"limit": self.most, "queue": self.room, "waiting": self.waiting}
        return typed(Overloaded(text, retry_after=self.estimate() or UNKNOWN_WAIT, fields=fields), state)

    async def _wait(self, turn: asyncio.Future[None], outside: CallState | None) -> None:
        self._waiting[turn] = outside
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, turn) is turn and not turn.cancelled() and turn.exception() is None:
                self._leave()  # it was this call's turn: it is the next one's then
            raise

    def _leave(self) -> None:
        """Hand the turn of a call that has ended to the first that waits."""
        if self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            turn.set_result(None)
        else:
            self.running -= 1


class CallQueues:
    """The way to the agents of one process: through the queues of those that have a limit, straight to the others."""

    def __init__(self) -> None:
        self._by_name: dict[str, CallQueue] = {}

    def add(self, agent: Agent) -> None:
        """Let an agent be called, within the limit that it has. Raises InvalidInput for one that cannot be kept."""
        if agent.max_concurrent_calls is not None:
            self._by_name[agent.name] = CallQueue(agent.name, agent.max_concurrent_calls, agent.max_queue)

    def waiting(self) -> list[tuple[str, int]]:
        """The agents that have a limit, and how many calls wait for each."""
        return [(name, queue.waiting) for name, queue in self._by_name.items()]

    def refuse_waiting(self, left: float) -> None:
        """The process ends in `left` seconds: see CallQueue.refuse_waiting."""
        for queue in self._by_name.values():
            queue.refuse_waiting(left)

    def remove(self, name: str) -> None:
        """Forget an agent's limit. Calls that wait still get their turn."""
        self._by_name.pop(name, None)

    def execute(
        self, agent: Agent, message: Message, state: CallState, instance_id: str = ""
    ) -> Coroutine[Any, Any, Message]:
        """`entry.run_agent`, in the call's turn; raises Overloaded, not accepted, when it gets none."""
        queue = self._by_name.get(agent.name) if self._by_name else None
        return (run_agent if queue is None else queue.execute)(agent, message, state, instance_id)

    def events(
        self,
        agent: Agent,
        message: Message,
        state: CallState,
        options: CallOptions = DEFAULT_OPTIONS,
        instance_id: str = "",
    ) -> AsyncGenerator[Event]:
        """`entry.agent_events`, in the call's turn; raises Overloaded, not accepted, when it gets none."""
        queue = self._by_name.get(agent.name) if self._by_name else None
        return (agent_events if queue is None else queue.events)(agent, message, state, options, instance_id)
