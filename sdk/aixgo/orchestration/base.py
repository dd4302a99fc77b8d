"""What every pattern has in common: it is an agent, it has members, limits, a span, metadata and a stream of events.

Orchestrators hold no models and no stores: whatever needs one is an agent that they call. A pattern implements one
`run(message, calls)`. Here, once for all, are its limits (agents, depth, iterations, time, tokens, USD), its span, the
metadata of its reply, and how its members' events come up. Below it lies the Runtime contract; above it one file per
pattern, and `catalog.py`, which makes them from YAML.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Self

from aixgo import call as ambient
from aixgo.agent import Agent
from aixgo.call import Budget, CallState
from aixgo.errors import (
    AgentNotFound,
    AixgoError,
    BudgetExceeded,
    CallCancelled,
    DeadlineExceeded,
    DepthExceeded,
    InvalidInput,
    LimitExceeded,
)
from aixgo.events import Event, MemberFinished, MemberStarted, Result
from aixgo.message import Message
from aixgo.runtime.contract import EventStream, Outcomes, Runtime
from aixgo.runtime.entry import cancel_task, cancelled_from_outside, own_cancellation, past_deadline
from aixgo.runtime.parallel import Enough, Job, together
from aixgo.telemetry import spans
from aixgo.usage import Ledger, Usage

if TYPE_CHECKING:  # pydantic takes 0.15 s to import
    from aixgo.orchestration.reading import PatternConfig

Member = str | Agent
"""A member: the name of an agent that is found through the runtime, or an agent that lives with its orchestrator."""
Sink = Callable[[Event], Awaitable[None]]
BUFFER = 64
"""Events of members that may wait for the reader of a stream."""
LATE, LATE_SHARE = 1.0, 0.1
"""The last part of a pattern's time, as a share of it but at most so many seconds. A member that runs out of time in it
has used up the pattern's. Members that run at once end before it, by as much again, so that what some of them did is of
use where another one hangs; it is more than the margins by which processes end calls before their callers do.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """How far one orchestration may go. `timeout` is in seconds; None for tokens or USD means no limit of its own."""

    max_agents: int = 100
    max_depth: int = 10
    max_iterations: int = 10
    timeout: float = 300.0
    max_tokens: int | None = 100_000
    max_cost_usd: Decimal | None = None


DEFAULT_LIMITS = Limits()


class Orchestrator(Agent):
    """The base of all patterns. `members` are names or agents; an agent without a name is called `parent/0` and is
    not listed; an agent with one is registered beside its orchestrator.
    """

    pattern: ClassVar[str] = ""
    Config: ClassVar[type[PatternConfig]]
    """Its `config:` in YAML."""

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: Any, limits: Limits) -> Self:
        """An orchestrator from YAML: `agents` are its `agents:`, `config` is a `Config` of its. Raises ConfigError."""
        raise NotImplementedError(f"{cls.__name__} is made from Python only; write its from_config to name it in YAML")

    def __init__(self, name: str, members: Sequence[Member], *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.name = name
        self.role = "orchestrator"
        self.limits = limits
        self._members = tuple(members)
        if not self._members:
            raise InvalidInput(f"{self.pattern} {name!r} has no members; name at least one agent")
        if len(self._members) > limits.max_agents:
            raise LimitExceeded(
                f"{self.pattern} {name!r} has {len(self._members)} agents and {limits.max_agents} are allowed;"
                " remove some, or raise limits.max_agents"
            )

    @abstractmethod
    async def run(self, message: Message, calls: MemberCalls) -> Message:
        """Answer `message` by calling members through `calls`. The base adds the metadata that all patterns have."""

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of its members, each once, in order."""
        return tuple(dict.fromkeys(name_of(member) for member in self._members))

    @property
    def agent_count(self) -> int:
        """How many agents it works with, one that is there twice counted twice."""
        return len(self._members)

    @property
    def idempotent(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]  # here it follows from others
        """True when all members, as far as they are known, are idempotent."""
        return self._runtime is not None and _all_idempotent(self, self._runtime, set())

    def bind(self, runtime: Runtime | None) -> None:
        """Register the members that are agents; names unnamed ones after this orchestrator."""
        super().bind(runtime)
        if runtime is None:
            return
        for index, member in enumerate(self._members):
            if isinstance(member, str):
                continue
            if not member.name:
                member.name = f"{self.name}/{index}"
            if not member.bound_to(runtime):
                runtime.register(member)

    async def execute(self, message: Message) -> Message:
        state = self._own_state()
        if state is None:
            return await self.runtime.call(self.name, message)
        return await self._orchestrate(message, state, None)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """The members' events as they come, each member between MemberStarted and MemberFinished; then the Result."""
        state = self._own_state()
        if state is None:
            async with self.runtime.stream(self.name, message) as events:
                async for event in events:
                    yield event
            return
        waiting: asyncio.Queue[Event | Exception] = asyncio.Queue(BUFFER)
        task = asyncio.get_running_loop().create_task(self._stream_into(waiting, message, state))
        try:
            while True:
                event = await waiting.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Result):
                    return
        finally:
            await cancel_task(task, state)

    async def _stream_into(self, waiting: asyncio.Queue[Event | Exception], message: Message, state: CallState) -> None:
        try:
            last: Event | Exception = Result(await self._orchestrate(message, state, waiting.put), state.path)
        except asyncio.CancelledError as error:
            if cancelled_from_outside():
                raise
            last = own_cancellation(error, state)
        except Exception as error:  # noqa: BLE001  # raised again by the reader, with its traceback
            last = error
        await waiting.put(last)

    def _own_state(self) -> CallState | None:
        """The state of this orchestrator's call; None when it was not called through a runtime."""
        state = ambient.current()
        return state if state is not None and state.path[-1:] == (self.name,) else None

    async def _orchestrate(self, message: Message, state: CallState, sink: Sink | None) -> Message:
        state.check_depth(self.limits.max_depth)
        if self.limits.max_tokens is not None or self.limits.max_cost_usd is not None:
            state.budget = Budget(self.limits.max_tokens, self.limits.max_cost_usd, above=state.budget)
        deadline = asyncio.get_running_loop().time() + self.limits.timeout
        shortened = deadline < state.deadline
        state.deadline = min(deadline, state.deadline)
        attributes = {"pattern": self.pattern, "orchestrator": self.name, "agent_count": self.agent_count}
        with spans.span(f"orchestration.{self.pattern}", attributes) as span:
            calls = MemberCalls(self, self.runtime, state, sink, span)
            try:
                run = self.run(message, calls)
                reply = await (self._within_timeout(run, state) if shortened else run)
            finally:
                span.set("tokens.total", state.ledger.usage.total_tokens)
                if state.ledger.usage.cost_usd is not None:
                    span.set("cost.total_usd", float(state.ledger.usage.cost_usd))
        return reply.with_metadata(
            pattern=self.pattern, agent_count=self.agent_count, **usage_metadata(state.ledger.usage)
        )

    async def _within_timeout(self, run: Awaitable[Message], state: CallState) -> Message:
        """A run with a timer of its own, because limits.timeout ends before the inherited deadline."""
        timer = asyncio.timeout_at(state.deadline)
        try:
            async with timer:
                return await run
        except TimeoutError as late:
            if not timer.expired():
                raise
            raise past_deadline(state) from late


class MemberCalls:
    """How one run of a pattern calls its members: through the runtime, their events forwarded when somebody reads."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        runtime: Runtime,
        state: CallState,
        sink: Sink | None,
        span: spans.Span,
    ) -> None:
        self._orchestrator = orchestrator
        self._runtime = runtime
        self._state = state
        self._sink = sink
        self._iterations = 0
        self._cancelled: list[_MemberCall] = []
        self._late = min(LATE, LATE_SHARE * (state.deadline - asyncio.get_running_loop().time()))
        self.span = span

    @property
    def usage(self) -> Usage:
        """What the run has spent so far."""
        return self._state.ledger.usage

    def iterate(self) -> int:
        """Begin another iteration and return its number, from 1; raises LimitExceeded past limits.max_iterations."""
        limit = self._orchestrator.limits.max_iterations
        if self._iterations >= limit:
            raise LimitExceeded(
                f"{self._orchestrator.pattern} {self._orchestrator.name!r} came to no end in {limit} iterations;"
                " raise limits.max_iterations, or make its goal easier to reach",
                fields={"limit": limit},
            )
        self._iterations += 1
        return self._iterations

    async def call(self, member: Member, message: Message) -> Message:
        """One member's reply. Its events go up; its error is raised as it is."""
        return await self._call(name_of(member), message)

    async def parallel(
        self,
        members: Sequence[Member],
        message: Message,
        *,
        concurrency: int | None = None,
        enough: Enough | None = None,
    ) -> Outcomes:
        """All members at once with one message; raises for none of them. See `together` for the rest."""
        return await self.scatter([(member, message) for member in members], concurrency=concurrency, enough=enough)

    async def scatter(
        self,
        work: Sequence[tuple[Member, Message]],
        *,
        concurrency: int | None = None,
        enough: Enough | None = None,
    ) -> Outcomes:
        """Each member with its own message, at once; raises for none of them. See `together` for the rest."""

        def job(name: str, message: Message) -> Job:
            return name, lambda: self._call(name, message)

        jobs = [job(name_of(member), message) for member, message in work]
        return await self.together(jobs, concurrency=concurrency, enough=enough)

    async def together(
        self, jobs: Sequence[Job], *, concurrency: int | None = None, enough: Enough | None = None
    ) -> Outcomes:
        """Work of the pattern's own, each a label and what does it, at once; raises for no AixgoError.

        At most `concurrency` run at the same time, and each has a share of the budget. Once `enough`, told the outcomes
        so far, says so, the rest is cancelled and its outcome is CallCancelled. What is not done shortly before the
        pattern's deadline is cancelled too, and its outcome is DeadlineExceeded; when nothing is done by then, that is
        raised.
        """
        deadline = self._state.deadline - 2 * self._late
        outcomes = await together(jobs, concurrency, enough, deadline)
        await self._tell_cancelled(outcomes)
        if jobs and asyncio.get_running_loop().time() >= deadline and not any(outcome.ok for outcome in outcomes):
            self._late = 2 * self._late  # nothing else is worth beginning
            raise past_deadline(self._state)
        return outcomes

    def fatal(self, error: AixgoError) -> bool:
        """Whether a member's error ends the whole pattern: budget, depth or its time are used up."""
        if isinstance(error, DeadlineExceeded):
            return asyncio.get_running_loop().time() >= self._state.deadline - self._late
        return isinstance(error, (BudgetExceeded, DepthExceeded))

    async def step(self, number: int, member: Member, message: Message) -> Message:
        """One member's reply inside a span `step.{number}.{member}`; an error says the step in its fields."""
        name = name_of(member)
        with spans.span(f"step.{number}.{name}", {"agent": name, "step": number}) as span:
            try:
                reply = await self._call(name, message)
            except AixgoError as error:
                error.fields.setdefault("step", number)
                raise
            span.set("tokens.total", reply.usage.total_tokens)
            if reply.usage.cost_usd is not None:
                span.set("cost.usd", float(reply.usage.cost_usd))
        return reply

    async def _call(self, name: str, message: Message) -> Message:
        if self._sink is None:
            return await self._runtime.call(name, message)
        above = ambient.current() or self._state
        member = _MemberCall((*self._state.path, name), Ledger(above.ledger, self._orchestrator.name))
        await self._sink(MemberStarted(member.path))
        try:
            with ambient.entered(replace(above, ledger=member.ledger)):
                return await self._told(name, message, member, self._sink)
        except asyncio.CancelledError:
            self._cancelled.append(member)
            raise

    async def _told(self, name: str, message: Message, member: _MemberCall, sink: Sink) -> Message:
        """A member's reply; whoever reads the stream is told that it has finished, and how."""
        try:
            reply = await self._forward(name, message, member, sink)
        except AixgoError as error:
            await sink(member.finished(error))
            raise
        await sink(member.finished(reply))
        return reply

    async def _tell_cancelled(self, outcomes: Outcomes) -> None:
        """Finish, for whoever reads the stream, the members that were cancelled because others were enough, or late."""
        while self._cancelled and self._sink is not None:
            member = self._cancelled.pop()
            # An error that came out of a member has a path; one of those that were cancelled here has none.
            late = any(isinstance(each.error, DeadlineExceeded) and not each.error.agent_path for each in outcomes)
            error = past_deadline(self._state) if late else CallCancelled("the outcomes of the others were enough")
            error.agent_path, error.usage = member.path, member.ledger.usage
            await self._sink(member.finished(error))

    async def _forward(self, name: str, message: Message, member: _MemberCall, sink: Sink) -> Message:
        async with self._runtime.stream(name, message) as events:
            member.events = events
            async for event in events:
                if isinstance(event, Result):
                    return event.message
                await sink(event)
        raise AssertionError("a stream ends with a Result or raises")


@dataclass(slots=True)
class _MemberCall:
    """One call of a member that somebody follows. Its ledger says what it spent, however it ends."""

    path: tuple[str, ...]
    ledger: Ledger
    events: EventStream | None = None

    def finished(self, ended: Message | AixgoError) -> MemberFinished:
        """How it ended, as an event."""
        instance_id = self.events.instance_id if self.events else ""
        if isinstance(ended, Message):
            return MemberFinished(ended, path=self.path, instance_id=instance_id)
        return MemberFinished(error=ended, path=self.path, instance_id=instance_id)


def name_of(member: Member) -> str:
    """A member's name."""
    return member if isinstance(member, str) else member.name


def usage_metadata(usage: Usage) -> Mapping[str, Any]:
    """The usage of a run as metadata of its reply; `cost_usd` is None when no price is known."""
    return {
        "cost_usd": None if usage.cost_usd is None else float(usage.cost_usd),
        "tokens_total": usage.total_tokens,
        "tokens_prompt": usage.prompt_tokens,
        "tokens_completion": usage.completion_tokens,
    }


def _all_idempotent(agent: Agent, runtime: Runtime, seen: set[str]) -> bool:
    """Whether an agent and, below orchestrators of this process, all members are; a circle adds nothing."""
    if not isinstance(agent, Orchestrator):
        return agent.idempotent
    for name in agent.agents:
        if name in seen:
            continue
        seen.add(name)
        try:
            member = runtime.get_agent(name)
        except AgentNotFound:
            return False
        if not _all_idempotent(member, runtime, seen):
            return False
    return True
