"""The one contract of both runtimes: how agents are found, called, streamed from and messaged.

Owns the Runtime protocol and the records that it speaks of. Below it lie the core; `local.py` and `distributed.py`
implement it; `tests/contract` holds both to it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Protocol, Self, overload, runtime_checkable

from aixgo.agent import Agent
from aixgo.errors import AixgoError
from aixgo.events import Event
from aixgo.message import Message, Payload


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How one call differs from what it inherits. None means: inherit.

    `timeout` is in seconds and can only shorten the inherited deadline. `wait_for_ready` waits for an instance until
    the deadline instead of 2 s. `max_tokens` and `max_cost_usd` bound what the call and all below it may spend.
    `hedge_after` is in seconds: when an idempotent agent of another process has not answered by then, the call goes to
    a second instance too, the first answer counts, and the other attempt is cancelled.
    """

    timeout: float | None = None
    wait_for_ready: bool = False
    session_id: str | None = None
    max_tokens: int | None = None
    max_cost_usd: Decimal | float | None = None
    hedge_after: float | None = None


DEFAULT_OPTIONS = CallOptions()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one of several calls ended: with a message or with an error."""

    target: str
    message: Message | None = None
    error: AixgoError | None = None

    @property
    def ok(self) -> bool:
        """True when there is a message."""
        return self.error is None


class Outcomes(Sequence[Outcome]):
    """The outcomes of `call_parallel`, in the order of its targets."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = tuple(outcomes)

    @property
    def results(self) -> list[Message]:
        """The messages of those that succeeded."""
        return [outcome.message for outcome in self._outcomes if outcome.message is not None]

    @property
    def errors(self) -> list[AixgoError]:
        """The errors of those that failed."""
        return [outcome.error for outcome in self._outcomes if outcome.error is not None]

    @property
    def by_name(self) -> dict[str, Outcome]:
        """The outcomes by target; of a target that was called twice, the last one."""
        return {outcome.target: outcome for outcome in self._outcomes}

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> Outcomes: ...
    def __getitem__(self, index: int | slice) -> Outcome | Outcomes:
        return Outcomes(self._outcomes[index]) if isinstance(index, slice) else self._outcomes[index]

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    def __repr__(self) -> str:
        return f"Outcomes({list(self._outcomes)!r})"


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Whom `broadcast` reached, and why not the others."""

    delivered: tuple[str, ...]
    failed: Mapping[str, AixgoError]


@dataclass(frozen=True, slots=True)
class RuntimeMetrics:
    """What a runtime has done since it was made. Latencies are in seconds, of calls that ended in any way."""

    active_agents: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    calls_succeeded: int = 0
    calls_failed: int = 0
    avg_call_latency: float = 0.0
    p50_call_latency: float = 0.0
    p99_call_latency: float = 0.0


@dataclass(frozen=True, slots=True)
class RuntimeHealth:
    """Whether every agent of this process is ready, and each one's answer."""

    ready: bool
    agents: Mapping[str, bool]


class Delivery(Protocol):
    """A message out of a mailbox. Inside `async with delivery:` a new call tree begins, in a linked trace; leaving the
    block acknowledges the message, leaving it with an exception puts it back for another attempt.
    """

    @property
    def message(self) -> Message:
        """The message."""
        ...

    @property
    def attempt(self) -> int:
        """1 for the first delivery, more for each redelivery."""
        ...

    @property
    def redelivered(self) -> bool:
        """Whether the message may have been worked on before: it is no first attempt, or was replayed when dead."""
        ...

    @property
    def sender(self) -> tuple[str, ...]:
        """The agent path of the sender; empty when it was no agent."""
        ...

    async def __aenter__(self) -> Message: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class EventStream(Protocol):
    """The events of one call: `async with runtime.stream(...) as events: async for event in events: ...`.

    It ends after the Result, or raises the call's error. Leaving the `async with` early cancels the call.
    """

    def __aiter__(self) -> AsyncIterator[Event]: ...

    async def __anext__(self) -> Event: ...

    @property
    def result(self) -> Message | None:
        """The reply, once its Result has come."""
        ...

    @property
    def instance_id(self) -> str:
        """The instance that the call went to, once it is known; empty for an agent of this process."""
        ...


@runtime_checkable
class Runtime(Protocol):
    """Where agents are found and called. Entering it (`async with`) starts reactive agents; leaving it stops all.

    Every call ends in one outcome, a Message or an AixgoError, within its deadline (300 s where none is inherited).
    """

    def register(self, agent: Agent) -> None:
        """Make an agent callable under its name and bind it to this. Raises AlreadyRegistered, InvalidInput."""
        ...

    async def unregister(self, name: str) -> None:
        """Stop an agent of this process and forget it. Raises AgentNotFound."""
        ...

    def get_agent(self, name: str) -> Agent:
        """The agent itself when it lives in this process, else a proxy that calls it. Raises AgentNotFound."""
        ...

    def list_agents(self) -> list[str]:
        """The names that can be called, sorted; unnamed members of patterns are not listed."""
        ...

    async def call(
        self,
        target: str,
        message: Message | Payload,
        *,
        timeout: float | None = None,
        options: CallOptions = DEFAULT_OPTIONS,
    ) -> Message:
        """Call an agent and await its reply. `timeout`, in seconds, is a shorthand for that option."""
        ...

    async def call_parallel(
        self,
        targets: Sequence[str],
        message: Message | Payload,
        *,
        timeout: float | None = None,
        concurrency: int | None = None,
        options: CallOptions = DEFAULT_OPTIONS,
    ) -> Outcomes:
        """Call several agents with one message at the same time, at most `concurrency` at once; raises for none."""
        ...

    def stream(
        self,
        target: str,
        message: Message | Payload,
        *,
        timeout: float | None = None,
        options: CallOptions = DEFAULT_OPTIONS,
    ) -> AbstractAsyncContextManager[EventStream]:
        """Call an agent and see its events as they happen."""
        ...

    async def send(self, target: str, message: Message | Payload) -> None:
        """Put a message into an agent's mailbox, once for its id. Raises AgentNotFound, MailboxFull, Unavailable."""
        ...

    def recv(self, source: str | None = None) -> AsyncIterator[Delivery]:
        """The messages sent to an agent of this process: the one whose `start` runs here, or `source`."""
        ...

    async def broadcast(self, targets: Sequence[str], message: Message | Payload) -> Broadcast:
        """Send to each of the names, going on past failures."""
        ...

    async def connect(self, name: str, address: str) -> None:
        """Call `name` at a fixed host:port from now on. LocalRuntime raises NotSupported."""
        ...

    async def disconnect(self, name: str) -> None:
        """Undo `connect`. LocalRuntime raises NotSupported; an unknown name raises AgentNotFound."""
        ...

    async def health(self) -> RuntimeHealth:
        """Ask each agent of this process whether it is ready."""
        ...

    def metrics(self) -> RuntimeMetrics:
        """What happened so far."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
