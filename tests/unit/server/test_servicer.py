"""A real server, called with raw stubs, as a program in another language calls it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from aixgo import Agent, AgentServer, Delta, Event, LocalRuntime, Message, Parallel, Result, Usage, __version__, agent
from aixgo import call as ambient
from aixgo.server.server import ServerLimits
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire import status
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

Stub = AgentServiceStub


@agent(idempotent=True)
async def echo(message: Message) -> Message:
    return message


@agent
async def fails(message: Message) -> None:
    state = ambient.current()
    assert state is not None
    state.ledger.record(Usage(3, llm_calls=1))
    raise ValueError("no")


@agent
async def unsendable(message: Message) -> dict[str, object]:
    return {"a": object()}


@agent
async def looks(message: Message) -> list[object]:
    state = ambient.current()
    assert state is not None
    tokens = state.budget.left()[0] if state.budget is not None else None
    return [state.depth, list(state.path), state.session_id, tokens, ambient.remaining()]


class Talks(Agent):
    name = "talks"

    async def execute(self, message: Message) -> Message:
        raise AssertionError

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Delta("a")
        if message.text == "break":
            yield Delta("\ud800")
        if message.text == "stop":
            return
        if message.text == "fail":
            raise ValueError("no")
        yield Result(message)


class Loading(Agent):
    name = "loading"

    async def execute(self, message: Message) -> Message:
        return message

    def ready(self) -> bool:
        return False


@pytest.fixture
async def server() -> AsyncIterator[AgentServer]:
    runtime = LocalRuntime(mailbox_size=1)
    for each in (echo, fails, unsendable, looks):
        runtime.register(each.renamed(each.name))
    for each in (Talks(), Loading(), Parallel("both", ["echo", echo.renamed("")])):
        runtime.register(each)
    async with runtime, AgentServer(runtime, limits=ServerLimits(max_message_bytes=100_000)) as made:
        yield made


@pytest.fixture
async def channel(server: AgentServer) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.address) as made:
        yield made


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> Stub:
    return AgentServiceStub(channel)


def text(content: str) -> types_pb2.Message:
    return types_pb2.Message(text=content)


def details(error: grpc.aio.AioRpcError) -> types_pb2.Error:
    """The one aixgo.v1.Error of a failed RPC; its code is the one of the RPC."""
    raw = next(value for key, value in error.trailing_metadata() or () if key == status.DETAILS)
    assert isinstance(raw, bytes)
    found = types_pb2.Error()
    packed = [detail for detail in Status.FromString(raw).details if detail.Is(found.DESCRIPTOR)]
    assert len(packed) == 1
    packed[0].Unpack(found)
    assert found.code == error.code().value[0]
    return found


async def refused(call: grpc.aio.UnaryUnaryCall[object, object]) -> types_pb2.Error:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return details(caught.value)


async def test_a_bare_request_is_the_root_of_a_call_tree(stub: Stub, server: AgentServer) -> None:
    reply = await stub.Execute(pb.ExecuteRequest(agent="echo", message=text("hi")))
    assert (reply.message.text, reply.instance_id) == ("hi", server.instance_id)
    assert reply.message.id
    assert not reply.message.HasField("usage")
    depth, path, session, tokens, left = await call(stub, "looks")
    assert isinstance(left, float)
    assert (depth, path, session, tokens) == (1, ["looks"], "", None)
    assert 299 < left <= 300


async def call(
    stub: Stub, name: str, context: types_pb2.CallContext | None = None, timeout: float | None = None
) -> list[object]:
    from aixgo.wire.codec import decode_message

    reply = await stub.Execute(pb.ExecuteRequest(agent=name, context=context), timeout=timeout)
    payload = decode_message(reply.message).payload
    assert isinstance(payload, list)
    return payload


async def test_a_context_is_inherited(stub: Stub) -> None:
    grant = types_pb2.Grant(tokens=50)
    context = types_pb2.CallContext(depth=2, agent_path=["a", "b"], session_id="s", grant=grant, timeout_ms=10_000)
    depth, path, session, tokens, left = await call(stub, "looks", context)
    assert (depth, path, session, tokens) == (3, ["a", "b", "looks"], "s", 50)
    assert isinstance(left, float)
    assert 9 < left < 10


@pytest.mark.parametrize("said_ms", [0, 250_000, -5])
async def test_the_deadline_of_grpc_alone_is_enough_and_the_nearer_one_counts(stub: Stub, said_ms: int) -> None:
    left = (await call(stub, "looks", types_pb2.CallContext(timeout_ms=said_ms), timeout=20))[-1]
    assert isinstance(left, float)
    assert 15 < left < 21  # gRPC rounds it up on the wire


async def test_an_unset_message_is_the_empty_text(stub: Stub) -> None:
    assert (await stub.Execute(pb.ExecuteRequest(agent="echo"))).message.text == ""


async def test_usage_on_a_request_is_ignored(stub: Stub) -> None:
    message = types_pb2.Message(text="x", usage=types_pb2.Usage(prompt_tokens=10**9))
    reply = await stub.Execute(pb.ExecuteRequest(agent="echo", message=message))
    assert not reply.message.HasField("usage")


@pytest.mark.parametrize(
    ("request_", "code", "cls", "text_"),
    [
        (pb.ExecuteRequest(), 3, "InvalidInput", "agent is empty; name the agent to call"),
        (pb.ExecuteRequest(agent="echo", message={"metadata": b"{"}), 3, "InvalidMessage", "not valid JSON"),
        (pb.ExecuteRequest(agent="echo", message={"metadata": b"[]"}), 3, "InvalidMessage", "metadata is no JSON"),
        (pb.ExecuteRequest(agent="echo", message={"json": b"nope"}), 3, "InvalidMessage", "not valid JSON"),
        (pb.ExecuteRequest(agent="echo", context={"grant": {"tokens": -1}}), 3, "InvalidMessage", "grant.tokens is -1"),
        (pb.ExecuteRequest(agent="echo", context={"grant": {"cost_usd": "x"}}), 3, "InvalidMessage", "cost_usd is 'x'"),
        (pb.ExecuteRequest(agent="echo", context={"depth": 2**32 - 1}), 8, "DepthExceeded", "4294967296 calls"),
        (pb.ExecuteRequest(agent="nobody"), 5, "AgentNotFound", "no agent named 'nobody' lives here"),
        (pb.ExecuteRequest(agent="loading"), 14, "AgentUnavailable", "not ready"),
        (pb.ExecuteRequest(agent="fails"), 2, "AgentFailed", "agent 'fails' raised ValueError: no"),
        (pb.ExecuteRequest(agent="unsendable"), 13, "InvalidReply", "the reply of agent 'unsendable' cannot be sent"),
    ],
)  # fmt: skip
async def test_what_goes_wrong_is_a_status_with_details(
    stub: Stub, request_: pb.ExecuteRequest, code: int, cls: str, text_: str
) -> None:
    error = await refused(stub.Execute(request_))
    assert (error.code, error.error_class) == (code, cls)
    assert text_ in error.message


async def test_a_refusal_says_that_no_agent_saw_the_call_and_an_agents_error_does_not(stub: Stub) -> None:
    assert (await refused(stub.Execute(pb.ExecuteRequest(agent="nobody")))).not_accepted
    assert (await refused(stub.Execute(pb.ExecuteRequest(agent="loading")))).not_accepted
    failed = await refused(stub.Execute(pb.ExecuteRequest(agent="fails", context={"agent_path": ["root"]})))
    assert not failed.not_accepted
    assert list(failed.agent_path) == ["root", "fails"]
    assert failed.usage.prompt_tokens == 3


async def frames(
    stub: Stub, name: str, content: str = ""
) -> tuple[list[pb.ExecuteStreamResponse], grpc.aio.AioRpcError | None]:
    seen: list[pb.ExecuteStreamResponse] = []
    try:
        async for frame in stub.ExecuteStream(pb.ExecuteStreamRequest(agent=name, message=text(content))):
            seen.append(frame)
    except grpc.aio.AioRpcError as error:
        return seen, error
    return seen, None


def terminal(frame: pb.ExecuteStreamResponse) -> bool:
    return frame.WhichOneof("frame") == "error" or frame.event.WhichOneof("kind") == "result"


async def test_a_stream_ends_with_one_result(stub: Stub, server: AgentServer) -> None:
    seen, error = await frames(stub, "talks", "hi")
    assert error is None
    assert [frame.event.WhichOneof("kind") for frame in seen] == ["delta", "result"]
    assert [frame.instance_id for frame in seen] == [server.instance_id, ""]
    assert seen[-1].event.result.message.text == "hi"
    assert list(seen[-1].event.agent_path) == ["talks"]


@pytest.mark.parametrize(
    ("name", "content", "cls", "events"),
    [
        ("talks", "fail", "AgentFailed", 1), ("talks", "stop", "StreamBroken", 1),
        ("talks", "break", "InvalidMessage", 1),
        ("fails", "", "AgentFailed", 0), ("nobody", "", "AgentNotFound", 0), ("", "", "InvalidInput", 0),
        ("loading", "", "AgentUnavailable", 0),
    ],
)  # fmt: skip
async def test_a_stream_that_fails_ends_with_one_error_frame_and_the_same_status(
    stub: Stub, name: str, content: str, cls: str, events: int
) -> None:
    seen, error = await frames(stub, name, content)
    assert error is not None
    assert [terminal(frame) for frame in seen] == [False] * events + [True]
    assert seen[-1].error == details(error)
    assert seen[-1].error.error_class == cls
    assert seen[-1].error.code == error.code().value[0]


async def test_the_members_of_an_orchestrator_are_seen_in_its_stream(stub: Stub) -> None:
    seen, error = await frames(stub, "both", "hi")
    assert error is None
    kinds = [frame.event.WhichOneof("kind") for frame in seen]
    assert sorted(kinds[:-1]) == ["member_finished"] * 2 + ["member_started"] * 2
    assert kinds[-1] == "result"
    assert {tuple(frame.event.agent_path) for frame in seen[:-1]} == {("both", "echo"), ("both", "both/1")}


async def test_describe_says_what_lives_here(stub: Stub, server: AgentServer) -> None:
    answer = await stub.Describe(pb.DescribeRequest())
    agents = {each.name: each for each in answer.agents}
    assert (answer.instance_id, answer.version) == (server.instance_id, __version__)
    assert list(answer.transports) == ["plain", "session"]
    assert set(agents) == {"echo", "fails", "unsendable", "looks", "talks", "loading", "both"}
    assert (agents["echo"].idempotent, agents["fails"].idempotent, agents["both"].idempotent) == (True, False, True)
    assert (agents["echo"].ready, agents["loading"].ready) == (True, False)
    assert (agents["both"].pattern, list(agents["both"].agents)) == ("parallel", ["echo", "both/1"])


async def test_cancel_needs_an_id_and_an_unknown_one_is_no_error(stub: Stub) -> None:
    error = await refused(stub.Cancel(pb.CancelRequest()))
    assert (error.code, error.error_class) == (3, "InvalidInput")
    assert not (await stub.Cancel(pb.CancelRequest(call_id="nothing"))).found


async def test_a_message_is_delivered_until_the_mailbox_is_full(stub: Stub, server: AgentServer) -> None:
    request = pb.DeliverRequest(agent="echo", message=text("x"), context={"session_id": "s", "agent_path": ["me"]})
    assert (await stub.Deliver(request)).instance_id == server.instance_id
    full = await refused(stub.Deliver(request))
    assert (full.code, full.error_class, full.retry_after_ms) == (8, "MailboxFull", 1000)
    delivery = await anext(aiter(server._runtime.recv("echo")))
    assert (delivery.message.text, delivery.message.session_id, delivery.sender) == ("x", "s", ("me",))


@pytest.mark.parametrize(
    ("request_", "cls"),
    [
        (pb.DeliverRequest(agent="nobody"), "AgentNotFound"),
        (pb.DeliverRequest(agent="echo", message={"metadata": b"["}), "InvalidMessage"),
        (pb.DeliverRequest(), "InvalidInput"),
    ],
)  # fmt: skip
async def test_a_message_that_cannot_be_delivered_is_refused_typed(
    stub: Stub, request_: pb.DeliverRequest, cls: str
) -> None:
    assert (await refused(stub.Deliver(request_))).error_class == cls


async def test_health_is_told_for_the_process_and_for_each_agent(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    async def check(service: str) -> int:
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert [await check(""), await check("echo"), await check("loading")] == [serving, serving, not_serving]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check("nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [answer async for answer in stub.ServerReflectionInfo(ask())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {"aixgo.v1.AgentService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_request_over_the_size_limit_is_refused(stub: Stub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Execute(pb.ExecuteRequest(agent="echo", message=text("x" * 300_000)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_ending_the_rpc_cancels_the_agent(channel: grpc.aio.Channel, stub: Stub, server: AgentServer) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @agent
    async def waits(message: Message) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    server._runtime.register(waits)
    for start in (
        lambda: stub.Execute(pb.ExecuteRequest(agent="waits")),
        lambda: stub.ExecuteStream(pb.ExecuteStreamRequest(agent="waits")),
    ):
        rpc = start()
        reading = asyncio.ensure_future(rpc.read() if hasattr(rpc, "read") else rpc)
        await asyncio.wait_for(begun.wait(), 10)
        rpc.cancel()
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.wait({reading})
        assert reading.cancelled() or reading.exception() is not None
        begun.clear()
        ended.clear()
