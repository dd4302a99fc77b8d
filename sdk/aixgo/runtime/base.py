"""What both runtimes are made of: the agents of this process, their mailboxes, and how a call begins and ends.

Subclasses say only how names that are not of this process are reached. Above it: `local.py`, `distributed.py`; below:
`entry.py` (one call), `pump.py` (one stream), `reactive.py`, and the mailboxes of `aixgo.mailboxes`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace
from decimal import Decimal
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from aixgo import call as ambient
from aixgo.agent import Agent, check_name, is_ready
from aixgo.call import DEFAULT_TIMEOUT, MAX_DEPTH, Budget, CallState
from aixgo.errors import AgentNotFound, AixgoError, AlreadyRegistered, InvalidInput, MessageTooLarge, WrongState
from aixgo.events import Event
from aixgo.mailboxes.contract import MEMORY_MESSAGES, SEND_TIMEOUT, Letter, Mailboxes, MailboxPolicy
from aixgo.mailboxes.memory import MemoryMailboxes
from aixgo.message import Message, Payload
from aixgo.runtime.contract import (
    DEFAULT_OPTIONS,
    Broadcast,
    CallOptions,
    Delivery,
    EventStream,
    Outcomes,
    RuntimeHealth,
    RuntimeMetrics,
)
from aixgo.runtime.entry import bounded, until_ready
from aixgo.runtime.metrics import CallMetrics
from aixgo.runtime.parallel import gather
from aixgo.runtime.pump import PumpedStream
from aixgo.runtime.queueing import CallQueues
from aixgo.runtime.reactive import ReactiveTasks
from aixgo.telemetry import spans
from aixgo.telemetry.metrics import AGENT, Reading, observe
from aixgo.usage import NO_USAGE

MAILBOX_SIZE = MEMORY_MESSAGES
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


class BaseRuntime(ABC):
    """The Runtime contract over the agents of this process (see `contract.Runtime` for what each method promises).

    `max_depth` bounds calls inside calls, `max_message_bytes` the text or bytes of one message. `mailboxes` are the
    runtime's own from then on; without them they are in memory, and `mailbox_size` bounds what waits for one agent.
    """

    def __init__(
        self,
        *,
        max_depth: int = MAX_DEPTH,
        mailbox_size: int = MAILBOX_SIZE,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        mailboxes: Mailboxes | None = None,
    ) -> None:
        self._agents: dict[str, Agent] = {}
        self.queues = CallQueues()
        self._mailboxes = mailboxes or MemoryMailboxes(MailboxPolicy(max_messages=mailbox_size))
        self._reactive = ReactiveTasks()
        self._metrics = CallMetrics()
        self._max_depth = max_depth
        self._max_message_bytes = max_message_bytes
        self._running = False
        self._now: Callable[[], float] = _loop_time
        """The clock of deadlines; kept while the runtime is entered, as asking for the loop takes a system call."""

    # agents

    def register(self, agent: Agent) -> None:
        if not isinstance(agent, Agent):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers may err
            raise InvalidInput(f"a {type(agent).__name__} is no Agent; subclass aixgo.Agent, or use @agent")
        check_name(agent.name)
        if agent.name in self._agents:
            raise AlreadyRegistered(
                f"an agent named {agent.name!r} is registered already; unregister it, or rename one"
            )
        self.queues.add(agent)
        self._agents[agent.name] = agent
        self._mailboxes.add(agent.name)
        try:
            agent.bind(self)
        except AixgoError:
            for name in self._family(agent.name):
                self._agents.pop(name).bind(None)
                self.queues.remove(name)
                self._mailboxes.remove(name)
            raise
        if self._running and agent.reactive:
            self._reactive.launch(agent)

    async def unregister(self, name: str) -> None:
        if name not in self._agents:
            raise AgentNotFound(f"no agent named {name!r} is registered here", fields={"agent": name})
        for member in self._family(name):
            agent = self._agents.pop(member)
            self.queues.remove(member)
            self._mailboxes.remove(member)
            await self._reactive.stop(agent)
            agent.bind(None)

    @property
    def own_agents(self) -> Mapping[str, Agent]:
        """The agents of this process by name, unnamed members included."""
        return self._agents

    @property
    def mailboxes(self) -> Mailboxes:
        """The mailboxes behind `send` and `recv`: for their dead letters."""
        return self._mailboxes

    @property
    def max_depth(self) -> int:
        """How many calls may lie inside one another."""
        return self._max_depth

    @property
    def max_message_bytes(self) -> int:
        """The largest message, in bytes."""
        return self._max_message_bytes

    def get_agent(self, name: str) -> Agent:
        agent = self._agents.get(name)
        return agent if agent is not None else self._proxy(name)

    def list_agents(self) -> list[str]:
        return sorted({name for name in self._agents if "/" not in name} | set(self._names_elsewhere()))

    # request and response

    async def call(
        self,
        target: str,
        message: Message | Payload,
        *,
        timeout: float | None = None,
        options: CallOptions = DEFAULT_OPTIONS,
    ) -> Message:
        started = perf_counter()
        ok = False
        try:
            message = self._incoming(message)
            state, timed = self._open(target, message, timeout, options)
            agent = self._agents.get(target)
            if agent is None:
                reply = await self._call_elsewhere(target, message, state, options)
            elif timed:
                reply = await bounded(self._run(agent, message, state, options), state)
            elif is_ready(agent):
                reply = await self.queues.execute(agent, message, state)
            else:
                reply = await self._run(agent, message, state, options)
            ok = True
            return reply
        finally:
            self._metrics.ended(perf_counter() - started, ok)

    async def call_parallel(
        self,
        targets: Sequence[str],
        message: Message | Payload,
        *,
        timeout: float | None = None,
        concurrency: int | None = None,
        options: CallOptions = DEFAULT_OPTIONS,
    ) -> Outcomes:
        shared = Message.of(message)

        async def one(target: str) -> Message:
            return await self.call(target, shared, timeout=timeout, options=options)

        return await gather(targets, one, concurrency)

    def stream(
        self,
        target: str,
        message: Message | Payload,
        *,
        timeout: float | None = None,
        options: CallOptions = DEFAULT_OPTIONS,
    ) -> AbstractAsyncContextManager[EventStream]:
        message = self._incoming(message)
        state, timed = self._open(target, message, timeout, options)
        started = perf_counter()

        def source() -> AsyncGenerator[Event]:
            agent = self._agents.get(target)
            if agent is None:
                return self._stream_elsewhere(target, message, state, options)
            return self.queues.events(agent, message, state, options)

        return PumpedStream(
            source, state, timed=timed, ended=lambda ok: self._metrics.ended(perf_counter() - started, ok)
        )

    # messages

    async def send(self, target: str, message: Message | Payload) -> None:
        message = self._incoming(message)
        above = ambient.current()
        if above is not None and above.session_id and not message.session_id:
            message = message.with_(session_id=above.session_id)
        letter = Letter(message, ambient.current_path(), spans.inject()[0])
        if not await self._put(target, letter):
            await self._send_elsewhere(target, message)
        self._metrics.messages_sent += 1

    async def deliver(self, target: str, letter: Letter) -> None:
        """Put a letter into the mailbox of an agent of this process. Raises as `send` does."""
        if target not in self._agents or not await self._put(target, letter):
            raise self._unknown(target)

    async def recv(self, source: str | None = None) -> AsyncIterator[Delivery]:
        name = source or ambient.reactive_agent()
        if not name:
            raise InvalidInput("recv() outside of an agent's start(): name the agent, recv('name')")
        if name not in self._agents:
            raise self._unknown(name)
        async with aclosing(self._mailboxes.receive(name)) as deliveries:
            async for delivery in deliveries:
                self._metrics.messages_received += 1
                yield delivery

    async def broadcast(self, targets: Sequence[str], message: Message | Payload) -> Broadcast:
        shared = Message.of(message)
        names = list(dict.fromkeys(targets))

        async def one(target: str) -> AixgoError | None:
            try:
                await self.send(target, shared)
            except AixgoError as error:
                return error
            return None

        errors = await asyncio.gather(*(one(name) for name in names))
        failed = {name: error for name, error in zip(names, errors, strict=True) if error is not None}
        return Broadcast(tuple(name for name in names if name not in failed), failed)

    # state

    async def health(self) -> RuntimeHealth:
        ready = {name: is_ready(agent) for name, agent in self._agents.items()}
        return RuntimeHealth(all(ready.values()), ready)

    def metrics(self) -> RuntimeMetrics:
        return self._metrics.snapshot(len(self._agents))

    def readings(self) -> Iterable[Reading]:
        """How full it is, for whoever collects metrics; called from another thread."""
        yield "aixgo.agents", len(self._agents), {}
        for name, waiting in self.queues.waiting():
            yield "aixgo.queue.depth", waiting, {AGENT: name}
        for name, waiting, dead in self._mailboxes.counts():
            yield "aixgo.mailbox.depth", waiting, {AGENT: name}
            yield "aixgo.mailbox.dead_letters", dead, {AGENT: name}

    async def __aenter__(self) -> Self:
        if self._running:
            raise WrongState("this runtime is entered already; make another one")
        self._running = True
        self._now = asyncio.get_running_loop().time
        observe(self)
        await self._opened()
        for agent in self._agents.values():
            if agent.reactive:
                self._reactive.launch(agent)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        self._now = _loop_time
        for agent in list(self._agents.values()):
            await self._reactive.stop(agent)
        await self._closed()
        await self._mailboxes.close()

    # what subclasses say

    @abstractmethod
    async def connect(self, name: str, address: str) -> None: ...

    @abstractmethod
    async def disconnect(self, name: str) -> None: ...

    @abstractmethod
    def _call_elsewhere(
        self, target: str, message: Message, state: CallState, options: CallOptions
    ) -> Coroutine[Any, Any, Message]: ...

    @abstractmethod
    def _stream_elsewhere(
        self, target: str, message: Message, state: CallState, options: CallOptions
    ) -> AsyncGenerator[Event]: ...

    @abstractmethod
    async def _send_elsewhere(self, target: str, message: Message) -> None: ...

    @abstractmethod
    def _proxy(self, name: str) -> Agent: ...

    @abstractmethod
    def _names_elsewhere(self) -> Sequence[str]: ...

    async def _opened(self) -> None:  # noqa: B027  # optional
        """Called when the runtime is entered, before reactive agents start."""

    async def _closed(self) -> None:  # noqa: B027  # optional
        """Called when the runtime is left, after all agents have stopped."""

    def _family(self, name: str) -> list[str]:
        """An agent's name and those of its unnamed members, which come and go with it."""
        return [name, *(other for other in self._agents if other.startswith(f"{name}/"))]

    async def _run(self, agent: Agent, message: Message, state: CallState, options: CallOptions) -> Message:
        await until_ready(agent, state, options)
        return await self.queues.execute(agent, message, state)

    async def _put(self, target: str, letter: Letter) -> bool:
        remaining = ambient.remaining()
        timeout = SEND_TIMEOUT if remaining is None else min(remaining, SEND_TIMEOUT)
        return await self._mailboxes.put(target, letter, timeout)

    def _unknown(self, name: str) -> AgentNotFound:
        known = ", ".join(self.list_agents()[:10]) or "none"
        return AgentNotFound(f"no agent named {name!r}; known: {known}", fields={"agent": name})

    def _incoming(self, message: Message | Payload) -> Message:
        message = message if type(message) is Message else Message.of(message)
        payload = message.payload
        size = len(payload) if isinstance(payload, str) and payload.isascii() else _size(payload)
        if size > self._max_message_bytes:
            raise MessageTooLarge(
                f"the payload has {size} bytes and {self._max_message_bytes} are allowed;"
                " send less, or raise max_message_bytes",
                fields={"limit": self._max_message_bytes},
            )
        return message if message.usage is NO_USAGE else replace(message, usage=NO_USAGE)

    def _open(
        self, target: str, message: Message, timeout: float | None, options: CallOptions
    ) -> tuple[CallState, bool]:
        """The state of a new call entry, and whether its deadline is new and so must be enforced here."""
        above = ambient.current()
        timeout = options.timeout if timeout is None else timeout
        session = options.session_id or message.session_id
        timed = above is None
        if above is None:
            deadline = self._now() + (DEFAULT_TIMEOUT if timeout is None else timeout)
            state = ambient.first_entry(target, deadline, session)
        else:
            state = above.child(target)
            state.check_depth(self._max_depth)
            timed = timeout is not None and self._shorten(state, timeout)
            if session:
                state.session_id = session
        if options.max_tokens is not None or options.max_cost_usd is not None:
            usd = None if options.max_cost_usd is None else Decimal(str(options.max_cost_usd))
            state.budget = Budget(options.max_tokens, usd, above=state.budget)
        return state, timed

    def _shorten(self, state: CallState, timeout: float) -> bool:
        """Let a call end earlier than what it inherits; False when the inherited deadline is the nearer."""
        deadline = self._now() + timeout
        if deadline >= state.deadline:
            return False
        state.deadline = deadline
        return True


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


def _size(payload: Payload) -> int:
    """The bytes of a text or of bytes; 0 for JSON, which is measured where it is encoded."""
    if isinstance(payload, str):
        return len(payload) if payload.isascii() else len(payload.encode(errors="replace"))
    return len(payload) if isinstance(payload, bytes) else 0
