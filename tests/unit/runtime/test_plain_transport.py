"""The plain transport against servers that behave badly, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from aixgo import call as ambient
from aixgo.call import Budget
from aixgo.errors import (
    AgentFailed,
    CallCancelled,
    DeadlineExceeded,
    InstanceLost,
    InternalError,
    NotSupported,
    StreamBroken,
)
from aixgo.events import Delta, Event
from aixgo.runtime.channels import ChannelPool
from aixgo.runtime.grant import Grant
from aixgo.runtime.plain import CANCEL_TIMEOUT, LATE_CANCEL_TIMEOUT, PlainTransport, TransportFailed
from aixgo.usage import Usage
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from aixgo.wire.codec import encode_error

GRANTED = 100
LOST = Usage(incomplete=True, unsettled_tokens=GRANTED)
"""The usage of a call that did not say what it spent."""


class Misbehaving(AgentServiceServicer):
    """Does what the name of the agent says. A call that it was told to cancel has spent 7 tokens."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled: list[str] = []
        self.meant = ""
        self.answer = pb.CancelResponse(found=True, usage=types_pb2.Usage(prompt_tokens=7, llm_calls=1))
        self.patience = 0.0
        self.asked_to_cancel = asyncio.Event()
        self.answer_cancels = asyncio.Event()
        self.answer_cancels.set()

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> pb.ExecuteResponse:  # noqa: N802  # named by the proto
        self.begun.set()
        if request.agent == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "a proxy said so")
        if request.agent == "raise":
            raise ValueError("not mapped")
        await asyncio.Event().wait()
        return pb.ExecuteResponse()

    async def ExecuteStream(  # noqa: N802  # named by the proto
        self, request: pb.ExecuteStreamRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteStreamResponse]:
        yield pb.ExecuteStreamResponse(event=types_pb2.Event(delta=types_pb2.Delta(text="a")))
        if request.agent == "unknown event":
            yield pb.ExecuteStreamResponse(event=types_pb2.Event())
        if request.agent == "error frame only":
            yield pb.ExecuteStreamResponse(error=encode_error(AgentFailed("no")))
        if request.agent == "hang":
            await asyncio.Event().wait()

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802  # named by the proto
        self.cancelled.append(request.call_id)
        self.meant = request.instance_id
        self.patience = context.time_remaining()
        self.asked_to_cancel.set()
        await self.answer_cancels.wait()
        return self.answer


class Peer:
    def __init__(self, servicer: Misbehaving, address: str, server: grpc.aio.Server) -> None:
        self.servicer, self.address, self.server = servicer, address, server
        self.pool = ChannelPool(max_message_bytes=10_000)
        self.transport = PlainTransport(self.pool)
        state = ambient.root_entry("a", 60, "")
        state.budget = Budget(GRANTED)
        self.ledger, self.grant = state.ledger, Grant(state)
        self.grant.offer("i1")

    async def execute(self, agent: str, timeout: float = 20) -> pb.ExecuteResponse:
        request = pb.ExecuteRequest(agent=agent, context={"call_id": "id"})
        return await self.transport.execute(self.address, request, timeout, None, self.grant)

    async def stream(self, agent: str, timeout: float = 20) -> list[Event]:
        request = pb.ExecuteStreamRequest(agent=agent, context={"call_id": "id"})
        return [event async for event in self.transport.stream(self.address, request, timeout, None, self.grant)]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    servicer, server = Misbehaving(), grpc.aio.server()
    add_AgentServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    made = Peer(servicer, address, server)
    yield made
    await made.pool.close()
    await server.stop(None)


async def test_a_status_without_details_from_a_broken_process_is_the_transports_failure(peer: Peer) -> None:
    with pytest.raises(TransportFailed) as caught:
        await peer.execute("raise")
    assert isinstance(caught.value.error, InternalError)
    assert peer.ledger.usage == LOST


async def test_a_stream_that_is_left_after_its_deadline_waits_less_for_what_it_has_spent(peer: Peer) -> None:
    """The callee's own deadline was earlier: if it lives it knows, and a frozen one must not hold up the caller."""
    request = pb.ExecuteStreamRequest(agent="hang", context={"call_id": "id"})
    events = peer.transport.stream(peer.address, request, 0.5, None, peer.grant)
    await anext(events)
    await asyncio.sleep(0.5)  # the deadline, while nobody reads
    await events.aclose()
    assert 0 < peer.servicer.patience < (LATE_CANCEL_TIMEOUT + CANCEL_TIMEOUT) / 2  # rounded on its way


async def test_another_status_without_details_is_an_answer(peer: Peer) -> None:
    with pytest.raises(InternalError, match="DATA_LOSS: a proxy said so"):
        await peer.execute("abort")


async def test_a_server_that_does_not_answer_in_time_is_a_typed_error_with_incomplete_usage(peer: Peer) -> None:
    with pytest.raises(DeadlineExceeded, match="did not answer before the deadline"):
        await peer.execute("hang", timeout=0.05)
    assert peer.ledger.usage == LOST


async def test_nobody_at_the_address_was_never_accepted_and_cost_nothing(peer: Peer) -> None:
    peer.address = "127.0.0.1:1"
    with pytest.raises(TransportFailed) as caught:
        await peer.execute("hang")
    assert isinstance(caught.value.error, InstanceLost)
    assert not caught.value.error.accepted
    assert peer.ledger.usage == Usage()


async def test_a_cancelled_call_learns_what_it_spent(peer: Peer) -> None:
    task = asyncio.create_task(peer.execute("hang"))
    await peer.servicer.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert peer.servicer.cancelled == ["id"]
    assert peer.ledger.usage == Usage(7, llm_calls=1)


@pytest.mark.parametrize(("refused", "usage"), [(True, Usage()), (False, LOST)])
async def test_a_cancelled_call_that_never_came_has_spent_nothing_if_its_instance_says_so(
    peer: Peer, refused: bool, usage: Usage
) -> None:
    peer.servicer.answer = pb.CancelResponse(refused=refused)
    task = asyncio.create_task(peer.execute("hang"))
    await peer.servicer.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert peer.servicer.meant == "i1"
    assert peer.ledger.usage == usage


async def test_a_call_that_is_cancelled_again_while_it_learns_what_it_spent_learns_it_all_the_same(peer: Peer) -> None:
    peer.servicer.answer_cancels.clear()
    task = asyncio.create_task(peer.execute("hang"))
    await peer.servicer.begun.wait()
    task.cancel()
    await peer.servicer.asked_to_cancel.wait()
    task.cancel()
    peer.servicer.answer_cancels.set()
    await asyncio.wait({task})
    assert task.cancelled()
    assert peer.ledger.usage == Usage(prompt_tokens=7, llm_calls=1)


async def test_a_server_that_dies_under_a_call_is_the_transports_failure(peer: Peer) -> None:
    task = asyncio.create_task(peer.execute("hang"))
    await peer.servicer.begun.wait()
    await peer.server.stop(None)
    with pytest.raises(TransportFailed) as caught:
        await task
    assert isinstance(caught.value.error, (InstanceLost, CallCancelled))
    assert peer.ledger.usage == LOST


async def test_closing_the_pool_under_a_call_is_no_cancellation_of_its_caller(peer: Peer) -> None:
    task = asyncio.create_task(peer.execute("hang"))
    await peer.servicer.begun.wait()
    await peer.pool.close()
    with pytest.raises(TransportFailed, match="the channel was closed during the call"):
        await task
    peer.grant.lose()
    assert peer.ledger.usage == LOST


async def test_a_stream_without_a_terminal_frame_broke_off(peer: Peer) -> None:
    with pytest.raises(TransportFailed) as caught:
        await peer.stream("just stop")
    assert isinstance(caught.value.error, StreamBroken)
    assert peer.ledger.usage == Usage(7, llm_calls=1)


async def test_an_error_frame_is_terminal_whatever_the_status_after_it(peer: Peer) -> None:
    with pytest.raises(AgentFailed, match="no"):
        await peer.stream("error frame only")
    assert peer.servicer.cancelled == []


async def test_an_event_of_a_newer_version_ends_the_stream_typed_and_cancels_the_call(peer: Peer) -> None:
    with pytest.raises(InternalError, match="update the caller"):
        await peer.stream("unknown event")
    assert peer.servicer.cancelled == ["id"]


async def test_a_stream_that_is_left_early_is_cancelled_and_learns_what_it_spent(peer: Peer) -> None:
    request = pb.ExecuteStreamRequest(agent="hang", context={"call_id": "id"})
    events = peer.transport.stream(peer.address, request, 20, None, peer.grant)
    assert await anext(events) == Delta("a")
    await events.aclose()
    assert peer.servicer.cancelled == ["id"]
    assert peer.ledger.usage == Usage(7, llm_calls=1)


async def test_a_process_without_a_health_service_counts_as_healthy_and_nobody_does_not(peer: Peer) -> None:
    assert await peer.transport.healthy(peer.address)
    assert not await peer.transport.healthy("127.0.0.1:1")


async def test_who_is_asked_over_a_channel_that_was_closed_is_not_healthy_yet(peer: Peer) -> None:
    await peer.transport._channels.borrow(peer.address).channel.close()
    assert not await peer.transport.healthy(peer.address)


async def test_what_a_peer_does_not_implement_is_not_supported(peer: Peer) -> None:
    with pytest.raises(NotSupported):
        await peer.transport.describe(peer.address, 20)
    with pytest.raises(NotSupported):
        await peer.transport.deliver(peer.address, pb.DeliverRequest(agent="a"), 20, None)
