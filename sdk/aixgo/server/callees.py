"""Whom a server calls for its callers: the agents of its own process, or, in a gateway, those of the mesh.

Owns the record of an incoming call, the contract of what answers it, and the first of its two implementations. Above it
lies `calls.py` (limits, deadline, accounting); below it the runtime. The gateway brings the other implementation.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aixgo.agent import Agent, is_ready, pattern_of
from aixgo.call import DEFAULT_TIMEOUT, Budget, CallState
from aixgo.errors import AgentNotFound, AgentUnavailable, AixgoError
from aixgo.events import Event
from aixgo.mailboxes.contract import Letter
from aixgo.message import Message
from aixgo.runtime.base import BaseRuntime
from aixgo.runtime.instance import AgentInfo
from aixgo.security.identity import ANONYMOUS, Caller
from aixgo.telemetry import spans
from aixgo.telemetry.log_fields import serves

NO_TRACE = ("", "", "")


@dataclass(slots=True)
class IncomingCall:
    """One call as a transport hands it over. `timeout` is in seconds; `depth` and `path` are the caller's.

    `trace` is traceparent, tracestate and baggage. `answered_by` is written when the call is served: the instance that
    answers, where that is another than this process. `caller` is who has shown to be calling, `peer` where from.
    """

    agent: str
    message: Message
    call_id: str = ""
    timeout: float = DEFAULT_TIMEOUT
    depth: int = 0
    path: tuple[str, ...] = ()
    session_id: str = ""
    budget: Budget | None = None
    trace: tuple[str, str, str] = NO_TRACE
    answered_by: str = ""
    caller: Caller = ANONYMOUS
    peer: str = ""


class Callees(Protocol):
    """What answers the calls that a server takes. A refusal is an AixgoError whose `accepted` is False."""

    @property
    def max_depth(self) -> int:
        """How many calls may lie inside one another."""
        ...

    @property
    def reads_traces(self) -> bool:
        """Whether a call's trace is of any use here; reading it out of a request costs time."""
        ...

    @property
    def serving(self) -> bool:
        """Whether the process as a whole can answer, as its health says."""
        ...

    def infos(self) -> tuple[AgentInfo, ...]:
        """Who can be called at the moment."""
        ...

    def allowed_callers(self, name: str) -> Sequence[str] | None:
        """Patterns of the identities that may call `name`; None when it says nothing of them."""
        ...

    def accept(self, name: str) -> None:
        """Raise a refusal when a call to `name` cannot be taken. No await lies between it and the call."""
        ...

    def call(self, call: IncomingCall, state: CallState) -> Awaitable[Message]:
        """The reply to a call that was accepted; `state` is its entry. Raises AixgoError."""
        ...

    def stream(self, call: IncomingCall, state: CallState) -> AsyncGenerator[Event]:
        """The events of a call that was accepted, the Result last. Raises AixgoError."""
        ...

    async def deliver(self, name: str, letter: Letter) -> str:
        """Put a letter into the mailbox of `name`, and return the instance that has it, "" being this one."""
        ...


class OwnAgents:
    """The agents of one runtime, in this process."""

    serving = True

    def __init__(self, runtime: BaseRuntime, instance_id: str = "") -> None:
        self._runtime = runtime
        self._agents = runtime.own_agents  # as they come and go
        self._instance_id = instance_id
        self.max_depth = runtime.max_depth

    @property
    def reads_traces(self) -> bool:
        return spans.enabled()

    def infos(self) -> tuple[AgentInfo, ...]:
        return tuple(describe_agent(agent) for name, agent in self._agents.items() if "/" not in name)

    def allowed_callers(self, name: str) -> Sequence[str] | None:
        agent = self._agents.get(name.partition("/")[0] if "/" in name else name)  # unnamed members are their parent's
        return None if agent is None else agent.allow_callers

    def accept(self, name: str) -> None:
        if not is_ready(self._agents.get(name) or self._find(name)):
            raise refused(AgentUnavailable(f"agent {name!r} is not ready", retry_after=1.0))

    def call(self, call: IncomingCall, state: CallState) -> Awaitable[Message]:
        serves(call.call_id)
        return self._runtime.queues.execute(self._agents[call.agent], call.message, state, self._instance_id)

    def stream(self, call: IncomingCall, state: CallState) -> AsyncGenerator[Event]:
        serves(call.call_id)
        agent = self._agents[call.agent]
        return self._runtime.queues.events(agent, call.message, state, instance_id=self._instance_id)

    async def deliver(self, name: str, letter: Letter) -> str:
        self._find(name)
        await self._runtime.deliver(name, letter)
        return ""

    def _find(self, name: str) -> Agent:
        agent = self._agents.get(name)
        if agent is None:
            known = ", ".join(sorted(name for name in self._agents if "/" not in name)) or "none"
            fields = {"agent": name}
            raise refused(AgentNotFound(f"no agent named {name!r} lives here; here: {known}", fields=fields))
        return agent


def describe_agent(agent: Agent) -> AgentInfo:
    """What callers can know of an agent of this process."""
    pattern, members = pattern_of(agent)
    return AgentInfo(agent.name, agent.role, agent.idempotent, pattern, tuple(members), is_ready(agent))


def refused(error: AixgoError) -> AixgoError:
    """`error` as one that says that no agent saw the call."""
    error.accepted = False
    return error
