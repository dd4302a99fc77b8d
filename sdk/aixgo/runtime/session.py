"""The session transport: all calls to an instance over one stream, many frames in one message.

Owns the client's side of AgentService.Session: one stream for each address, opened with the first call to it, and
opened anew with the first call after it was lost, or after this process got another certificate or token: the stream
before ends with its last call. What is large, and instances that do not offer sessions, go to
`plain.py`. The rules are those of `wire/session.py`; a call ends here as one over plain does: with a reply, the
callee's AixgoError, or TransportFailed. Above: `remote.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from enum import StrEnum
from functools import partial
from typing import Any

import grpc
import grpc.aio

from aixgo.errors import AixgoError, ConfigError, DeadlineExceeded, InstanceDraining, InstanceLost, InvalidMessage
from aixgo.events import Event, Result
from aixgo.runtime.channels import ChannelPool, PooledChannel
from aixgo.runtime.deadlines import Deadlines
from aixgo.runtime.grant import Grant
from aixgo.runtime.inbox import Inbox
from aixgo.runtime.instance import Instance
from aixgo.runtime.plain import (
    CANCEL_TIMEOUT,
    LATE_CANCEL_TIMEOUT,
    Headers,
    PlainTransport,
    Reply,
    Transport,
    TransportFailed,
)
from aixgo.usage import NO_USAGE, Usage
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.wire.codec import decode_error, decode_event, decode_message, decode_usage
from aixgo.wire.session import MAX_BYTES_HEADER, SERVED, CallerSession, turn_of
from aixgo.wire.status import from_rpc, from_transport

log = logging.getLogger(__name__)

METHOD = f"/{pb.DESCRIPTOR.services_by_name['AgentService'].full_name}/Session"
"""The stream's method. Its requests are written as they are: the protocol's outbox encodes them."""
LARGE_BYTES = 64 * 1024
"""Bytes of a request above which it goes plain, so that it holds up no other call."""
REFUSAL = 1.0
"""Seconds within which a refusal is told after the headers that came with it."""
TOLD = 8
"""Events that a reader has taken when the protocol is told, which would take as long for each as decoding it does."""


class TransportChoice(StrEnum):
    """How a runtime calls other processes."""

    PLAIN = "plain"
    """One RPC for each call; for callees behind proxies that balance calls."""
    AUTO = "auto"
    """Sessions with the instances that are known to offer them."""
    SESSION = "session"
    """Sessions with every instance, but for those that turn out to offer none."""

    @classmethod
    def of(cls, word: TransportChoice | str) -> TransportChoice:
        """The choice that a word names; raises ConfigError for any other."""
        for choice in cls:
            if word == choice.value:
                return choice
        raise ConfigError(f"transport is {word!r}; write one of {', '.join(choice.value for choice in cls)}")


class SessionTransport:
    """The sessions of one runtime, by address. `eager` tries also addresses of which nobody has said what they offer.

    `loaded` is told how many calls an instance runs; `max_bytes` is the largest message that this side takes.
    """

    def __init__(
        self,
        channels: ChannelPool,
        plain: PlainTransport,
        *,
        max_bytes: int,
        eager: bool,
        loaded: Callable[[str, int], None],
    ) -> None:
        self._channels = channels
        self._max_bytes = max_bytes
        self._eager = eager
        self._loaded = loaded
        self._rotates = channels.rotates
        self._sessions: dict[str, Session] = {}
        self._retired: set[Session] = set()
        self._offers: dict[str, bool] = {}
        self.plain = plain

    def __len__(self) -> int:
        return len(self._sessions)

    def to(self, instance: Instance) -> Transport:
        """How to call an instance: over its session, which is opened if need be, or plain."""
        session = self._sessions.get(instance.address)
        if session is not None and not session.closed:
            if not self._rotates or session.generation == self._channels.generation:
                return session
            self._retired.add(session)
            session.retire()
        if not self._offers.get(instance.address, self._eager or "session" in instance.transports):
            return self.plain
        return self._open(instance)

    def described(self, address: str, transports: Sequence[str]) -> None:
        """What the process at a fixed address says that it offers."""
        self._offers[address] = "session" in transports

    async def close(self) -> None:
        """End all sessions; calls that are out are lost."""
        for session in [*self._sessions.values(), *self._retired]:
            await session.close()

    def _open(self, instance: Instance) -> Session:
        pooled = self._channels.borrow(instance.address)
        self._channels.give_back(pooled)  # the session has it while calls are out
        loaded = partial(self._loaded, instance.instance_id)
        session = Session(instance.address, pooled, self._channels, self.plain, self._max_bytes)
        session.begin(loaded, self._ended)
        self._sessions[instance.address] = session
        return session

    def _ended(self, session: Session) -> None:
        self._retired.discard(session)
        if self._sessions.get(session.address) is session:
            del self._sessions[session.address]
        if session.refused:
            self._offers[session.address] = False


class Session:
    """One session: its stream, the calls that wait for frames, and the protocol between them.

    Its calls have the contract of PlainTransport's. While the callee drains, new ones raise InstanceDraining.
    """

    def __init__(
        self, address: str, pooled: PooledChannel, channels: ChannelPool, plain: PlainTransport, max_bytes: int
    ) -> None:
        self.address = address
        self.closed = False
        """Whether its stream has ended."""
        self.refused = False
        """Whether the process there has turned out to offer no sessions."""
        self.generation = channels.generation
        """That of the certificate and token that it was opened with."""
        self._calls = 0
        self._retired = False
        self._pooled = pooled
        self._channels = channels
        self._plain = plain
        self._protocol = CallerSession(max_bytes)
        self._waiting: dict[int, _Waiting] = {}
        self._frames = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines[int](self._loop, self._expire)
        channel: Any = pooled.channel  # its type stubs want a serializer
        session = channel.stream_stream(METHOD, None, pb.SessionResponse.FromString)
        self._stream: Any = session(metadata=((MAX_BYTES_HEADER, str(max_bytes)),))

    def begin(self, loaded: Callable[[int], None], ended: Callable[[Session], None]) -> None:
        """Read and write until the stream ends. `loaded` is told how many calls run there, `ended` of the end."""
        self._loaded = loaded
        self._ended = ended
        self._task = self._loop.create_task(self._run(), name=f"session with {self.address}")
        self._pooled.before_close = self.close

    def retire(self) -> None:
        """Get no new calls: end with the last one that is out."""
        self._retired = True
        self._end_if_done()

    async def close(self) -> None:
        """End the session; calls that are out are lost."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def execute(
        self, address: str, request: pb.ExecuteRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> Reply:
        """One call. When it is cancelled, what the callee has spent is settled with `grant`."""
        encoded = request.SerializeToString()
        if len(encoded) > LARGE_BYTES:
            return await self._plain.execute(address, request, timeout, headers, grant)
        answer: asyncio.Future[pb.Frame] = asyncio.Future(loop=self._loop)
        number, due = self._open(encoded, answer, timeout, stream=False)
        try:
            frame = await answer
        except _NotOffered:
            return await self._plain.execute(address, request, due - self._loop.time(), headers, grant)
        except DeadlineExceeded:
            grant.lose()
            raise
        except asyncio.CancelledError:
            await self._cancel(number, grant)
            raise
        finally:
            self._closed(number, due)
        if frame.HasField("error"):
            raise decode_error(frame.error)
        return frame.result

    def stream(
        self, address: str, request: pb.ExecuteStreamRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> AsyncGenerator[Event]:
        """The events of one call; the last one is the Result. One that breaks off raises TransportFailed."""
        encoded = request.SerializeToString()
        if len(encoded) > LARGE_BYTES:
            return self._plain.stream(address, request, timeout, headers, grant)
        return self._events(address, request, encoded, timeout, headers, grant)

    async def _events(
        self,
        address: str,
        request: pb.ExecuteStreamRequest,
        encoded: bytes,
        timeout: float,
        headers: Headers | None,
        grant: Grant,
    ) -> AsyncGenerator[Event]:
        inbox = Inbox(self._loop)
        waiting = inbox.events
        number, due = self._open(encoded, inbox, timeout, stream=True)
        path = likely = (*request.context.agent_path, request.agent)
        taken = 0
        try:
            while isinstance(frame := waiting.popleft() if waiting else await inbox.arrival(), types_pb2.Event):
                event = decode_event(frame, likely)
                yield event
                likely, taken = event.path, taken + 1
                if taken == TOLD:
                    taken = 0
                    if self._protocol.consumed(number, TOLD):
                        self._frames.set()
            yield _last(frame, path, grant)
        except _NotOffered:
            left = due - self._loop.time()
            async with aclosing(self._plain.stream(address, request, left, headers, grant)) as events:
                async for event in events:
                    yield event
        except DeadlineExceeded:
            if inbox.late:
                grant.lose()
            raise
        finally:
            try:
                await self._cancel(number, grant, late=self._loop.time() >= due)
            finally:
                self._closed(number, due)

    def _open(self, request: bytes, waiting: _Waiting, timeout: float, *, stream: bool) -> tuple[int, float]:
        number = self._protocol.open(request, stream=stream)
        self._waiting[number] = waiting
        if self._calls == 0:
            self._pooled.calls += 1
        self._calls += 1
        self._frames.set()
        due = self._loop.time() + timeout
        self._deadlines.add(due, number)
        return number, due

    def _closed(self, number: int, due: float) -> None:
        self._deadlines.remove(due, number)
        self._calls -= 1
        if self._calls == 0:
            self._channels.give_back(self._pooled)
            self._end_if_done()
            if self._protocol.drained:
                self._frames.set()

    def _end_if_done(self) -> None:
        if self._retired and self._calls == 0:
            self._task.cancel()

    async def _cancel(self, number: int, grant: Grant, *, late: bool = False) -> None:
        """Cancel a call that has not ended, and settle what it has spent."""
        if self._waiting.pop(number, None) is None:
            return
        if not self._protocol.cancel(number):
            grant.settle(NO_USAGE)
            return
        answer = self._waiting[number] = self._loop.create_future()
        self._frames.set()
        try:
            async with asyncio.timeout(LATE_CANCEL_TIMEOUT if late else CANCEL_TIMEOUT):
                grant.settle(_spent(await answer))
        except (TimeoutError, InvalidMessage, TransportFailed, AixgoError) as error:
            log.debug("what a cancelled call has spent is not known: %s", error)
        finally:
            grant.lose()  # unless it was settled; also when this is cancelled in its turn
            self._waiting.pop(number, None)
            self._protocol.forget(number)

    def _expire(self, number: int) -> None:
        """The deadline of a call has passed, and the callee's own error with it has not come."""
        waiting = self._waiting.pop(number, None)
        self._protocol.cancel(number)
        self._protocol.forget(number)
        self._frames.set()
        if waiting is not None and not waiting.done():
            text = f"{self.address} did not answer before the deadline; give the call a longer timeout"
            waiting.set_exception(DeadlineExceeded(text))

    async def _run(self) -> None:
        writer = self._loop.create_task(self._write(), name=f"session writer to {self.address}")
        clean = False
        try:
            await self._read()
            clean, why = True, self._left
        except asyncio.CancelledError:
            why = partial(self._lost, "the channel was closed during the call")
        except grpc.aio.AioRpcError as error:
            why = partial(self._broke, error)
        except AixgoError as error:
            why = partial(self._lost, f"the session ended: {error.message}")
        self._stream.cancel()
        writer.cancel()
        self.closed = True
        for number, accepted in self._protocol.closed(clean=clean).items():
            waiting = self._waiting.pop(number, None)
            if waiting is not None and not waiting.done():
                waiting.set_exception(why(accepted))
        self._ended(self)
        await asyncio.gather(writer, return_exceptions=True)

    async def _read(self) -> None:
        while (response := await self._stream.read()) is not grpc.aio.EOF:
            frames = response.frames
            turn = turn_of(len(frames))
            for count, frame in enumerate(frames, 1):
                self._received(frame)
                if count % turn == 0:
                    await asyncio.sleep(0)

    async def _write(self) -> None:
        headers = await self._stream.initial_metadata()
        if headers.get(SERVED[0]) != SERVED[1]:
            await self._refused()
            return
        outbox = self._protocol.outbox
        while not self._stream.done():
            if outbox:
                await self._stream.write(outbox.take())
            elif self._protocol.drained:
                await self._stream.done_writing()
                return
            else:
                self._frames.clear()
                await self._frames.wait()

    async def _refused(self) -> None:
        """Wait for the end of a stream that is not served. Nothing has left, so nothing can have been accepted."""
        try:
            async with asyncio.timeout(REFUSAL):
                await self._stream.code()  # which the reader is told
        except TimeoutError:
            self._stream.cancel()

    def _received(self, frame: pb.Frame) -> None:
        kind = self._protocol.receive(frame)
        if kind == "event":
            inbox = self._waiting[frame.call]
            if isinstance(inbox, Inbox):
                inbox.add(frame.event)
        elif kind and (number := frame.call):
            waiting = self._waiting.pop(number)
            if not waiting.done():
                waiting.set_result(frame)
        elif kind == "load":
            self._loaded(frame.load.running)
        elif kind == "drain":
            self._frames.set()
        elif kind == "error":
            raise decode_error(frame.error)

    def _left(self, accepted: bool) -> Exception:
        """The callee has ended the session in good order."""
        if not accepted:
            return InstanceDraining(f"{self.address}: the instance drains, and takes no new calls")
        return self._lost("the session was ended during the call", accepted)

    def _lost(self, why: str, accepted: bool) -> Exception:
        error = InstanceLost(f"{self.address}: {why}")
        error.accepted = accepted
        return TransportFailed(error)

    def _broke(self, error: grpc.aio.AioRpcError, accepted: bool) -> Exception:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            self.refused = True
            return _NotOffered()
        answered = from_rpc(error)
        if answered is not None:
            return answered
        failed = from_transport(error, self.address)
        failed.accepted = failed.accepted and accepted
        return TransportFailed(failed)


class _NotOffered(Exception):
    """There are no sessions at this address; whatever was to be called was not."""


_Waiting = asyncio.Future[pb.Frame] | Inbox


def _last(frame: pb.Frame, path: tuple[str, ...], grant: Grant) -> Result:
    """The Result in the last frame of a stream; raises the error in it."""
    if frame.HasField("error"):
        raise decode_error(frame.error)
    try:
        message = decode_message(frame.result.message)
    except InvalidMessage:
        grant.lose()
        raise
    return Result(message, path)


def _spent(frame: pb.Frame) -> Usage:
    """What the call spent that this frame has ended. Raises InvalidMessage when that cannot be read."""
    return decode_usage(frame.error.usage if frame.HasField("error") else frame.result.message.usage)
