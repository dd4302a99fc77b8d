"""The caller's side of sessions against servers that behave badly, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from aixgo import call as ambient
from aixgo.call import Budget
from aixgo.errors import (
    AgentFailed,
    ConfigError,
    DeadlineExceeded,
    InstanceDraining,
    InstanceLost,
    InvalidMessage,
    Unauthenticated,
)
from aixgo.events import Delta, Event, Result
from aixgo.runtime import session as transport
from aixgo.runtime.channels import ChannelPool
from aixgo.runtime.grant import Grant
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.runtime.plain import PlainTransport, Transport, TransportFailed
from aixgo.runtime.session import LARGE_BYTES, SessionTransport, TransportChoice
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings
from aixgo.usage import Usage
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from aixgo.wire.codec import encode_error
from aixgo.wire.session import SERVED
from aixgo.wire.status import abort

from tests.support import eventually

GRANTED = 100
LOST = Usage(incomplete=True, unsettled_tokens=GRANTED)
"""The usage of a call that did not say what it spent."""
MAX_BYTES = 1_000_000

Script = Callable[["Callee"], Coroutine[Any, Any, None]]


class Callee:
    """One session as a script of the test serves it."""

    def __init__(self, context: Any, servicer: Scripted) -> None:
        self.context = context
        self._servicer = servicer
        self._begun = False

    async def frames(self) -> list[pb.Frame]:
        """The frames of the caller's next message."""
        if not self._begun:
            self._begun = True
            await self.context.send_initial_metadata((SERVED,))
        message = await self.context.read()
        if message is grpc.aio.EOF:
            await asyncio.Event().wait()  # the caller has left; gRPC ends this
        frames = list(message.frames)
        self._servicer.heard += len(frames)
        return frames

    async def send(self, *frames: pb.Frame) -> None:
        await self.context.write(pb.SessionResponse(frames=frames))


class Scripted(AgentServiceServicer):
    """Serves each session by the next script; the last one stands. Plain calls answer "plain"."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.sessions = 0
        self.heard = 0
        self.metadata: dict[str, Any] = {}

    async def Session(self, request_iterator: Any, context: Any) -> None:  # noqa: N802  # named by the proto
        self.sessions += 1
        self.metadata = dict(context.invocation_metadata())
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        await script(Callee(context, self))

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> pb.ExecuteResponse:  # noqa: N802  # see above
        return pb.ExecuteResponse(message={"text": "plain"})

    async def ExecuteStream(self, request: pb.ExecuteStreamRequest, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield pb.ExecuteStreamResponse(event={"result": {"message": {"text": "plain"}}})


class Peer:
    """A server, and the sessions of one caller with it."""

    def __init__(
        self,
        servicer: Scripted,
        address: str,
        *,
        transports: tuple[str, ...] = ("plain", "session"),
        security: Security | None = None,
    ) -> None:
        self.servicer = servicer
        self.pool = ChannelPool(max_message_bytes=MAX_BYTES, security=security)
        self.loads: list[tuple[str, int]] = []
        self.instance = Instance("i", address, 1, (AgentInfo("a"),), transports=transports)
        self.transport = SessionTransport(
            self.pool,
            PlainTransport(self.pool),
            max_bytes=MAX_BYTES,
            eager=False,
            loaded=lambda instance, running: self.loads.append((instance, running)),
        )
        state = ambient.root_entry("a", 60, "")
        state.budget = Budget(GRANTED)
        self.ledger, self.grant = state.ledger, Grant(state)
        self.grant.offer()

    @property
    def to(self) -> Transport:
        return self.transport.to(self.instance)

    async def execute(self, text: str = "x", timeout: float = 20) -> str:
        request = pb.ExecuteRequest(agent="a", message={"text": text}, context={"call_id": "id"})
        reply = await self.to.execute(self.instance.address, request, timeout, None, self.grant)
        return reply.message.text

    async def stream(self, timeout: float = 20) -> list[Event]:
        request = pb.ExecuteStreamRequest(agent="a", context={"call_id": "id", "agent_path": ["root"]})
        return [e async for e in self.to.stream(self.instance.address, request, timeout, None, self.grant)]


Start = Callable[..., Coroutine[Any, Any, Peer]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[tuple[Peer, grpc.aio.Server]] = []

    async def begin(*scripts: Script, **options: Any) -> Peer:
        servicer, server = Scripted(*scripts), grpc.aio.server()
        add_AgentServiceServicer_to_server(servicer, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        peer = Peer(servicer, address, **options)
        started.append((peer, server))
        return peer

    yield begin
    for peer, server in started:
        await peer.transport.close()
        await peer.pool.close()
        await server.stop(None)


def result(number: int, text: str) -> pb.Frame:
    return pb.Frame(call=number, result={"message": {"text": text}})


async def answers(callee: Callee) -> None:
    """Echo for ever."""
    while True:
        await callee.send(*[result(f.call, f.open.message.text) for f in await callee.frames() if f.HasField("open")])


async def silent(callee: Callee) -> None:
    await callee.frames()
    await asyncio.Event().wait()


async def test_all_calls_share_one_stream_which_says_what_the_caller_takes(start: Start) -> None:
    peer = await start(answers)
    texts = [f"call {number}" for number in range(100)]
    assert await asyncio.gather(*(peer.execute(text) for text in texts)) == texts
    assert peer.servicer.sessions == 1
    assert peer.servicer.metadata["aixgo-max-message-bytes"] == str(MAX_BYTES)


async def test_an_instance_that_does_not_say_that_it_offers_sessions_is_called_plain(start: Start) -> None:
    peer = await start(answers, transports=("plain",))
    assert await peer.execute() == "plain"
    assert peer.servicer.sessions == 0


async def test_an_instance_that_turns_out_to_offer_none_is_called_plain_from_then_on(start: Start) -> None:
    async def refuse(callee: Callee) -> None:
        await callee.context.abort(grpc.StatusCode.UNIMPLEMENTED, "no sessions here")

    peer = await start(refuse)
    assert await peer.execute() == "plain"
    (last,) = await peer.stream()
    assert isinstance(last, Result)
    assert last.message.payload == "plain"
    assert peer.servicer.sessions == 1


async def test_what_is_large_goes_plain(start: Start) -> None:
    peer = await start(answers)
    assert await peer.execute("x" * LARGE_BYTES) == "plain"
    assert await peer.execute("x") == "x"


async def test_a_refusal_at_the_door_is_the_caller_s_error(start: Start) -> None:
    peer = await start(lambda callee: abort(callee.context, Unauthenticated("who are you?")))
    with pytest.raises(Unauthenticated, match="who are you"):
        await peer.execute()


async def test_nobody_at_the_address_was_never_accepted_and_cost_nothing(start: Start) -> None:
    peer = await start(answers)
    peer.instance = Instance("j", "127.0.0.1:1", 1, (AgentInfo("a"),), transports=("session",))
    with pytest.raises(TransportFailed) as caught:
        await peer.execute()
    assert not caught.value.error.accepted


async def test_a_stream_that_breaks_loses_the_calls_that_are_out_and_the_next_opens_another(start: Start) -> None:
    async def breaks(callee: Callee) -> None:
        await callee.frames()
        await callee.context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    peer = await start(breaks, answers)
    with pytest.raises(TransportFailed) as caught:
        await peer.execute()
    assert isinstance(caught.value.error, InstanceLost)
    assert caught.value.error.accepted
    assert await peer.execute("again") == "again"
    assert peer.servicer.sessions == 2


async def test_what_crosses_a_drain_was_not_accepted(start: Start) -> None:
    async def drains(callee: Callee) -> None:
        await callee.frames()
        await callee.send(pb.Frame(drain=pb.DrainFrame()))

    peer = await start(drains)
    with pytest.raises(InstanceDraining) as caught:
        await peer.execute()
    assert not caught.value.accepted


async def test_while_an_instance_drains_new_calls_are_refused_and_running_ones_end_well(start: Start) -> None:
    drained, go = asyncio.Event(), asyncio.Event()

    async def drains(callee: Callee) -> None:
        (opened,) = await callee.frames()
        await callee.send(pb.Frame(drain=pb.DrainFrame()), pb.Frame(load=pb.LoadFrame(running=1, limit=9)))
        drained.set()
        await go.wait()
        await callee.send(result(opened.call, "done"))

    peer = await start(drains)
    running = asyncio.create_task(peer.execute())
    await drained.wait()
    await eventually(lambda: bool(peer.loads))
    with pytest.raises(InstanceDraining) as caught:
        await peer.execute()
    assert not caught.value.accepted
    go.set()
    assert await running == "done"
    assert peer.loads == [("i", 1)]


@pytest.mark.parametrize(
    "frame",
    [result(99, "x"), pb.Frame(call=1, open=pb.OpenFrame()), pb.Frame(error=encode_error(AgentFailed("no more")))],
    ids=["a call that was never opened", "a frame of the caller's", "an error of the session's"],
)
async def test_a_callee_that_breaks_the_rules_ends_its_session_only(start: Start, frame: pb.Frame) -> None:
    async def misbehaves(callee: Callee) -> None:
        await callee.frames()
        await callee.send(frame)
        await asyncio.Event().wait()

    peer = await start(misbehaves, answers)
    with pytest.raises(TransportFailed) as caught:
        await peer.execute()
    assert isinstance(caught.value.error, InstanceLost)
    assert "the session ended: " in caught.value.error.message
    assert await peer.execute("again") == "again"


async def test_a_callee_that_does_not_answer_in_time_is_a_typed_error_and_is_told_to_stop(start: Start) -> None:
    told: asyncio.Future[list[pb.Frame]] = asyncio.get_running_loop().create_future()

    async def late(callee: Callee) -> None:
        (opened,) = await callee.frames()
        told.set_result(await callee.frames())
        await callee.send(result(opened.call, "too late"))
        await answers(callee)

    peer = await start(late)
    with pytest.raises(DeadlineExceeded, match="did not answer before the deadline"):
        await peer.execute(timeout=0.05)
    assert peer.ledger.usage == LOST
    (frame,) = await told
    assert frame.HasField("cancel")
    assert await peer.execute("goes on") == "goes on"
    assert peer.servicer.sessions == 1


async def test_a_cancelled_call_settles_what_its_callee_says_it_spent(start: Start) -> None:
    begun = asyncio.Event()

    async def stops(callee: Callee) -> None:
        (opened,) = await callee.frames()
        begun.set()
        (frame,) = await callee.frames()
        assert frame.HasField("cancel")
        spent = types_pb2.Usage(prompt_tokens=7, llm_calls=1)
        await callee.send(pb.Frame(call=opened.call, error=types_pb2.Error(code=1, usage=spent)))

    peer = await start(stops)
    call = asyncio.create_task(peer.execute())
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert peer.ledger.usage == Usage(7, llm_calls=1)


async def test_a_cancelled_call_whose_callee_says_nothing_counts_as_lost(start: Start) -> None:
    peer = await start(silent)
    call = asyncio.create_task(peer.execute())
    await eventually(lambda: peer.servicer.heard > 0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert peer.ledger.usage == LOST


async def test_a_call_that_is_cancelled_before_it_left_cost_nothing(start: Start) -> None:
    peer = await start(answers)
    call = asyncio.create_task(peer.execute())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert peer.ledger.usage == Usage()
    assert await peer.execute("next") == "next"


async def test_the_events_of_a_stream_come_in_order_with_the_path_of_the_callee_at_the_end(start: Start) -> None:
    async def streams(callee: Callee) -> None:
        (opened,) = await callee.frames()
        texts = [
            pb.Frame(call=opened.call, event={"delta": {"text": str(i)}, "agent_path": ["root", "a"]}) for i in "ab"
        ]
        await callee.send(*texts, result(opened.call, "end"))

    peer = await start(streams)
    *deltas, last = await peer.stream()
    assert deltas == [Delta("a", ("root", "a")), Delta("b", ("root", "a"))]
    assert isinstance(last, Result)
    assert (last.message.payload, last.path) == ("end", ("root", "a"))


async def test_a_stream_whose_session_breaks_raises_after_the_events_that_came(start: Start) -> None:
    async def breaks(callee: Callee) -> None:
        (opened,) = await callee.frames()
        await callee.send(pb.Frame(call=opened.call, event={"delta": {"text": "a"}}))
        await callee.context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    peer = await start(breaks)
    request = pb.ExecuteStreamRequest(agent="a", context={"call_id": "id"})
    seen: list[Event] = []
    with pytest.raises(TransportFailed):  # noqa: PT012  # the loop is what raises
        async for event in peer.to.stream(peer.instance.address, request, 20, None, peer.grant):
            seen.append(event)
    assert seen == [Delta("a")]


async def test_a_stream_that_is_late_ends_with_incomplete_usage(start: Start) -> None:
    peer = await start(silent)
    with pytest.raises(DeadlineExceeded):
        await peer.stream(timeout=0.05)
    assert peer.ledger.usage == LOST


async def test_a_result_that_cannot_be_read_does_not_say_what_was_spent(start: Start) -> None:
    async def broken(callee: Callee) -> None:
        (opened,) = await callee.frames()
        await callee.send(pb.Frame(call=opened.call, result={"message": {"json": b"{"}}))

    peer = await start(broken)
    with pytest.raises(InvalidMessage):
        await peer.stream()
    assert peer.ledger.usage == LOST


async def test_closing_loses_the_calls_that_are_out(start: Start) -> None:
    peer = await start(silent)
    call = asyncio.create_task(peer.execute())
    await eventually(lambda: peer.servicer.heard > 0)
    await peer.transport.close()
    with pytest.raises(TransportFailed, match="the channel was closed during the call"):
        await call
    assert len(peer.transport) == 0


async def test_a_caller_leaves_a_drained_callee_when_its_calls_have_ended(start: Start) -> None:
    left = asyncio.Event()

    async def drains(callee: Callee) -> None:
        (opened,) = await callee.frames()
        await callee.send(pb.Frame(drain=pb.DrainFrame()))
        await callee.send(result(opened.call, "done"))
        assert await callee.context.read() is grpc.aio.EOF
        left.set()

    peer = await start(drains, answers)
    assert await peer.execute() == "done"
    await left.wait()
    await eventually(lambda: len(peer.transport) == 0)
    assert await peer.execute("another") == "another"


async def test_whoever_does_not_say_that_it_serves_a_session_is_sent_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stay(callee: Callee) -> None:
        await callee.context.send_initial_metadata((("another", "protocol"),))
        await asyncio.Event().wait()

    monkeypatch.setattr(transport, "REFUSAL", 0.01)
    peer = await start(stay)
    with pytest.raises(TransportFailed) as caught:
        await peer.execute()
    assert not caught.value.error.accepted
    assert peer.servicer.heard == 0


async def test_a_refusal_proves_that_nothing_was_accepted(start: Start) -> None:
    async def refuse(callee: Callee) -> None:
        await callee.context.abort(grpc.StatusCode.UNAVAILABLE, "a proxy said so")

    peer = await start(refuse)
    for _ in range(20):
        with pytest.raises(TransportFailed) as caught:
            await peer.execute()
        assert not caught.value.error.accepted


async def test_an_idle_channel_is_closed_with_its_session_and_both_come_back(start: Start) -> None:
    peer = await start(answers)
    await peer.execute()
    await peer.pool.drop(peer.instance.address)
    await eventually(lambda: len(peer.transport) == 0)
    assert await peer.execute("back") == "back"
    assert peer.servicer.sessions == 2


def test_a_word_that_is_no_transport_is_refused() -> None:
    assert TransportChoice.of("auto") is TransportChoice.AUTO
    with pytest.raises(ConfigError, match="transport is 'fast'; write one of plain, auto, session"):
        TransportChoice.of("fast")


async def test_calls_after_a_rotation_have_a_session_of_their_own_and_those_that_are_out_end_where_they_are(
    start: Start, tmp_path: Path
) -> None:
    released, ended = asyncio.Event(), asyncio.Event()

    async def late(callee: Callee) -> None:
        (frame,) = await callee.frames()
        await released.wait()
        await callee.send(result(frame.call, "late"))
        try:
            await callee.frames()
        finally:
            ended.set()

    token, now = tmp_path / "token", [0.0]
    token.write_text("the-first-token-of-it")
    told = SecuritySettings(token_file=token, allow_insecure=True)
    peer = await start(late, answers, security=Security(told, clock=lambda: now[0]))
    out = asyncio.ensure_future(peer.execute())
    await eventually(lambda: peer.servicer.heard == 1)
    assert peer.servicer.metadata["authorization"] == "Bearer the-first-token-of-it"
    token.write_text("the-second-token-of-it")
    now[0] += 10
    assert await peer.execute("new") == "new"
    assert await peer.execute("newer") == "newer"
    assert peer.servicer.metadata["authorization"] == "Bearer the-second-token-of-it"
    assert peer.servicer.sessions == 2
    released.set()
    assert await out == "late"
    await asyncio.wait_for(ended.wait(), 20)
    assert await peer.execute("still") == "still"


async def test_a_session_without_calls_ends_at_once_when_it_is_opened_anew(start: Start, tmp_path: Path) -> None:
    token, now, ended = tmp_path / "token", [0.0], asyncio.Event()

    async def first(callee: Callee) -> None:
        try:
            await answers(callee)
        finally:
            ended.set()

    token.write_text("the-first-token-of-it")
    told = SecuritySettings(token_file=token, allow_insecure=True)
    peer = await start(first, answers, security=Security(told, clock=lambda: now[0]))
    assert await peer.execute("a") == "a"
    token.write_text("the-second-token-of-it")
    now[0] += 10
    assert await peer.execute("b") == "b"
    await asyncio.wait_for(ended.wait(), 20)
    assert peer.servicer.sessions == 2
