"""Sessions served: the calls of one caller that come over one stream, and all such streams of a server.

Maps frames to `calls.py`, as the servicer does RPCs, so that limits, deadline, errors, telemetry and accounting are
those of every call. The rules are those of `wire/session.py`; what is owned here are tasks: one that reads, one that
writes, one for each call. Above it lies `servicer.py`.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any, cast

import grpc.aio
from google.protobuf.message import DecodeError

from aixgo.errors import AixgoError, CallCancelled, InternalError, InvalidInput, MessageTooLarge
from aixgo.events import Result
from aixgo.message import Message
from aixgo.runtime.base import MAX_MESSAGE_BYTES
from aixgo.security.identity import Caller
from aixgo.server.callees import NO_TRACE, IncomingCall
from aixgo.server.calls import CallServer
from aixgo.server.incoming import Trace, read_call, reply_bytes
from aixgo.server.places import FEW
from aixgo.usage import NO_USAGE
from aixgo.v1 import agent_pb2 as pb
from aixgo.wire.codec import encode_error, event_bytes
from aixgo.wire.session import MAX_BYTES_HEADER, MIN_BYTES, SERVED, TURN, CalleeSession, SessionStage, turn_of
from aixgo.wire.status import abort

log = logging.getLogger(__name__)

Stream = grpc.aio.ServicerContext[Any, Any]

MAX_BACKLOG = 4 * 1024 * 1024
"""Bytes that may wait for a caller that does not read; above that nothing is read from it, and its streams wait."""
CALL_TASK = "call of a session"
"""The name of the tasks that serve calls. Without one a number is printed for each, which takes as long as a step of
its work."""
LEAVE_GRACE = 0.2
"""Seconds that callers get to leave a drained server by themselves, so that no call of theirs meets a closed stream."""
LOAD_PAUSE = 0.25
"""Seconds between two words on how busy the instance is. They go along with other frames, never alone."""


class Sessions:
    """All sessions of one server. `max_bytes` is the largest message that it sends."""

    def __init__(self, calls: CallServer, *, max_bytes: int) -> None:
        self._calls = calls
        self._max_bytes = max_bytes
        self._open: set[ServedSession] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    async def serve(self, stream: Stream) -> None:
        """Serve one stream until it ends, or this server has drained. Who calls is asked once, at its beginning."""
        try:
            caller = self._calls.security.caller(stream)
            max_bytes = min(self._max_bytes, _accepted_bytes(stream))
        except AixgoError as error:
            await abort(stream, error)
        session = ServedSession(self._calls, stream, caller, max_bytes)
        self._open.add(session)
        if self._draining:
            session.drain()
        try:
            await session.run()
        finally:
            self._open.discard(session)

    def drain(self) -> None:
        """Ask every caller to open no more calls."""
        self._draining = True
        for session in self._open:
            session.drain()

    def finish(self) -> None:
        """Let every session end as soon as its calls have ended and are answered."""
        for session in self._open:
            session.finish()


class ServedSession:
    """One session: its stream, the tasks of its calls, and the protocol between them."""

    def __init__(self, calls: CallServer, stream: Stream, caller: Caller, max_bytes: int) -> None:
        self._calls = calls
        self._stream = stream
        self._caller = caller
        self._peer = stream.peer() if calls.reads_peers else ""
        self._protocol = CalleeSession(max_bytes)
        self._tasks: dict[int, tuple[asyncio.Task[None], pb.OpenFrame]] = {}
        self._cancels: set[asyncio.Task[None]] = set()
        self._served = 0
        self._loop = asyncio.get_running_loop()
        self._frames = asyncio.Event()
        self._moved = asyncio.Event()
        self._finishing = False
        self._trace: Trace | None = None
        """What calls without a trace of their own have; asked for with each message, as it takes time to find out."""
        self._told = 0
        self._told_at = 0.0

    async def run(self) -> None:
        """Serve until the stream is lost, its caller has left or misused it, or `finish` has come to its end."""
        await self._stream.send_initial_metadata((SERVED,))  # the caller waits for that
        reader = self._loop.create_task(self._read(), name="session reader")
        writer = self._loop.create_task(self._write(), name="session writer")
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if self._protocol.stage is SessionStage.CLOSED:
                await asyncio.wait({writer})  # the caller is told why
        finally:
            self._stop(None)
            for task in (reader, writer):
                task.cancel()
            for ended in await asyncio.gather(reader, writer, return_exceptions=True):
                if isinstance(ended, Exception):
                    log.debug("a session ended", exc_info=ended)

    def drain(self) -> None:
        """Ask the caller to open no more calls."""
        self._protocol.drain()
        self._frames.set()

    def finish(self) -> None:
        """End once every call has ended and is answered; a caller that has heard of the drain leaves before that."""
        self._loop.call_later(LEAVE_GRACE, self._leave)

    def _leave(self) -> None:
        self._finishing = True
        self._frames.set()

    async def _read(self) -> None:
        try:
            while True:
                request = await self._stream.read()
                if request is grpc.aio.EOF:
                    return
                frames = cast("pb.SessionRequest", request).frames
                self._trace = NO_TRACE if self._calls.reads_traces else None
                turn = turn_of(len(frames))
                for count, frame in enumerate(frames, 1):
                    self._received(frame)
                    if count % turn == 0:
                        await asyncio.sleep(0)
                    if self._protocol.outbox.bytes > MAX_BACKLOG:
                        await self._written()
        except InvalidInput as error:
            self._stop(error)
            self._leave()
        except DecodeError:
            self._stop(InvalidInput("what came is no SessionRequest; send frames as the protocol has them"))
            self._leave()

    async def _write(self) -> None:
        outbox = self._protocol.outbox
        while True:
            if outbox:
                self._tell_load()
                await self._stream.write(outbox.take())
                self._wake_waiting()
            elif self._finishing and not self._protocol:
                return
            else:
                self._frames.clear()
                await self._frames.wait()

    def _received(self, frame: pb.Frame) -> None:
        kind, number = self._protocol.receive(frame), frame.call
        if kind == "open":
            if len(self._tasks) >= self._calls.limit:
                self._fail(number, self._calls.full())
                return
            opening = frame.open
            task = self._loop.create_task(self._serve(number, opening), name=CALL_TASK)
            self._tasks[number] = task, opening
        elif kind == "cancel" and number in self._tasks:
            cancel = self._loop.create_task(self._cancel(number, *self._tasks[number]))
            self._cancels.add(cancel)
            cancel.add_done_callback(self._cancels.discard)
        elif kind == "credit":
            self._wake_waiting()

    async def _serve(self, number: int, opening: pb.OpenFrame) -> None:
        try:
            call = read_call(opening, trace=self._trace)
            call.caller, call.peer = self._caller, self._peer
            if self._served >= FEW and self._calls.places.short(self._served):
                await self._turn(call)
            self._served += 1
            try:
                if opening.stream:
                    await self._serve_stream(number, call)
                else:
                    self._reply(number, call, await self._calls.serve(call))
            finally:
                self._served -= 1
        except AixgoError as error:
            self._fail(number, error)
        except asyncio.CancelledError:
            self._fail(number, CallCancelled("the call was cancelled where it ran"))
            raise
        except Exception:
            log.exception("a call of a session failed in aixgo")
            self._fail(number, InternalError("the server failed; its log has the details"))
        finally:
            self._tasks.pop(number, None)

    async def _turn(self, call: IncomingCall) -> None:
        """Let others go first, who have few calls here. Raises Overloaded, not accepted, when too many wait already, or
        its turn does not come before its deadline.
        """
        places, since = self._calls.places, self._loop.time()
        if places.waiting >= places.kept:
            raise self._calls.full()
        try:
            async with asyncio.timeout(call.timeout):
                await places.turn(lambda: self._served)
        except TimeoutError as error:
            raise self._calls.full() from error
        call.timeout -= self._loop.time() - since

    async def _serve_stream(self, number: int, call: IncomingCall) -> None:
        protocol, outbox, frames = self._protocol, self._protocol.outbox, self._frames
        sent, may_send = 0, protocol.may_send(number)
        async with aclosing(self._calls.serve_stream(call)) as events:
            async for event in events:
                if isinstance(event, Result):
                    self._reply(number, call, event.message)
                    continue
                if sent == TURN or not may_send or outbox.bytes > MAX_BACKLOG:
                    sent = 0
                    try:
                        await self._room(number)
                    except asyncio.CancelledError as error:
                        await events.athrow(error)  # the call knows whether that is its deadline, a Cancel or the end
                may_send = protocol.event(number, event_bytes(event))
                sent += 1
                frames.set()

    def _reply(self, number: int, call: IncomingCall, reply: Message) -> None:
        message = reply_bytes(reply, call.agent, call.path)
        try:
            self._protocol.result(number, message)
        except MessageTooLarge as error:
            error.agent_path, error.usage = (*call.path, call.agent), reply.usage
            raise
        self._frames.set()

    def _fail(self, number: int, error: AixgoError) -> None:
        self._protocol.fail(number, encode_error(error))
        self._frames.set()

    async def _cancel(self, number: int, task: asyncio.Task[None], opening: pb.OpenFrame) -> None:
        """Stop a call; one that does not stop is answered all the same, with what it may have spent."""
        call_id = opening.context.call_id
        usage = await self._calls.cancel(call_id, self._caller) if call_id else None
        if number not in self._protocol:
            return
        if usage is None:  # it is not known by its id, or has not begun
            task.cancel()
        error = CallCancelled("the call was cancelled where it ran, and has not stopped")
        error.usage = usage or NO_USAGE
        self._fail(number, error)

    def _stop(self, error: InvalidInput | None) -> None:
        """Cancel every call, as the end of an RPC does. `error`: what the caller did wrong, and is told."""
        if self._protocol.stage is not SessionStage.CLOSED:
            self._protocol.closed(None if error is None else encode_error(error))
        for task in [task for task, _ in self._tasks.values()] + list(self._cancels):
            task.cancel()

    def _tell_load(self) -> None:
        running, now = self._calls.count, self._loop.time()
        if running != self._told and now - self._told_at >= LOAD_PAUSE:
            self._told, self._told_at = running, now
            self._protocol.load(running, self._calls.limit)

    async def _room(self, number: int) -> None:
        """Wait until the next event of a call may go, and at least until all others have had their turn: what is said
        leaves while more is made, and a stream that is never at a loss for words holds up nobody.
        """
        await asyncio.sleep(0)
        while not self._protocol.may_send(number) or self._protocol.outbox.bytes > MAX_BACKLOG:
            await self._moved.wait()

    async def _written(self) -> None:
        while self._protocol.outbox.bytes > MAX_BACKLOG:
            await self._moved.wait()

    def _wake_waiting(self) -> None:
        """Let those look again who wait for credit, or for the caller to read."""
        self._moved.set()
        self._moved = asyncio.Event()


def _accepted_bytes(stream: Stream) -> int:
    """The largest message that the caller says it takes; MAX_MESSAGE_BYTES for one that does not say.

    Raises InvalidInput for one that could not even be told its errors.
    """
    metadata: Any = stream.invocation_metadata() or ()
    for key, value in metadata:
        if key == MAX_BYTES_HEADER and isinstance(value, str) and value.isascii() and value.isdigit():
            accepted = int(value[:18])
            if accepted < MIN_BYTES:
                raise InvalidInput(f"{MAX_BYTES_HEADER} is {accepted}; take {MIN_BYTES} bytes at least, or use Execute")
            return accepted
    return MAX_MESSAGE_BYTES
