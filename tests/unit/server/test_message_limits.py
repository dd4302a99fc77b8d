"""What a message may carry, over a real server and both transports, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import orjson
import pytest
from aixgo import AgentServer, DistributedRuntime, LocalRuntime, Message, agent
from aixgo.errors import AixgoError, InvalidMessage, InvalidReply, MessageTooLarge
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.codec import decode_error
from aixgo.wire.status import from_rpc
from aixgo.wire.values import MAX_JSON_DEPTH, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


TOO_MUCH: dict[str, tuple[Message, type[AixgoError]]] = {
    "payload too deep": (Message(nested(MAX_JSON_DEPTH + 1)), InvalidMessage),
    "metadata too deep": (Message("x", {"a": nested(MAX_JSON_DEPTH)}), InvalidMessage),
    "entries": (Message("x", dict.fromkeys(map(str, range(MAX_METADATA_ENTRIES + 1)), 0)), InvalidMessage),
    "bytes": (Message("x", {"a": "x" * MAX_METADATA_BYTES}), MessageTooLarge),
}
CASES = [pytest.param(*case, id=name) for name, case in TOO_MUCH.items()]


def as_sent(message: Message) -> types_pb2.Message:
    """What somebody sends who does not check it; orjson does not write such depths."""
    if message.payload == "x" and "a" in message.metadata and isinstance(message.metadata["a"], list):
        return types_pb2.Message(text="x", metadata=b'{"a":' + b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH + b"}")
    if isinstance(message.payload, list):
        return types_pb2.Message(json=b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1))
    return types_pb2.Message(text="x", metadata=orjson.dumps(dict(message.metadata)))


@pytest.fixture
def seen() -> list[Message]:
    return []


@pytest.fixture
async def server(seen: list[Message]) -> AsyncIterator[AgentServer]:
    @agent
    async def echo(message: Message) -> Message:
        seen.append(message)
        return message

    @agent
    async def boasts(message: Message) -> Message:
        return TOO_MUCH[message.text][0]

    async with LocalRuntime() as runtime:
        runtime.register(echo)
        runtime.register(boasts)
        async with AgentServer(runtime) as made:
            yield made


@pytest.fixture(params=["plain", "session"])
async def runtime(server: AgentServer, request: pytest.FixtureRequest) -> AsyncIterator[DistributedRuntime]:
    connect = {"echo": server.address, "boasts": server.address}
    async with DistributedRuntime(connect=connect, transport=request.param) as made:
        yield made


@pytest.mark.parametrize(("message", "kind"), CASES)
async def test_a_message_that_carries_too_much_never_leaves(
    runtime: DistributedRuntime, seen: list[Message], message: Message, kind: type[AixgoError]
) -> None:
    with pytest.raises(kind, match=r"payload|metadata"):
        await runtime.call("echo", message)
    with pytest.raises(kind, match=r"payload|metadata"):
        async with runtime.stream("echo", message) as events:
            _ = [event async for event in events]
    with pytest.raises(kind, match=r"payload|metadata"):
        await runtime.send("echo", message)
    assert seen == []


@pytest.mark.parametrize(("message", "kind"), CASES)
async def test_a_message_that_carries_too_much_reaches_no_agent_over_plain(
    server: AgentServer, seen: list[Message], message: Message, kind: type[AixgoError]
) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = AgentServiceStub(channel)
        for call in (
            stub.Execute(pb.ExecuteRequest(agent="echo", message=as_sent(message))),
            stub.Deliver(pb.DeliverRequest(agent="echo", message=as_sent(message))),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            error = from_rpc(caught.value)
            assert error is not None
            assert type(error) is kind
            assert error.fields["field"] in ("payload", "metadata")
    assert seen == []


@pytest.mark.parametrize(("message", "kind"), CASES)
async def test_a_message_that_carries_too_much_reaches_no_agent_over_a_session_which_goes_on(
    server: AgentServer, seen: list[Message], message: Message, kind: type[AixgoError]
) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream: Any = AgentServiceStub(channel).Session()
        fine = types_pb2.Message(text="fine")
        for number, sent in enumerate((as_sent(message), fine), 1):
            opening = pb.OpenFrame(agent="echo", message=sent)
            await stream.write(pb.SessionRequest(frames=[pb.Frame(call=number, open=opening)]))
        answers: dict[int, pb.Frame] = {}
        while len(answers) < 2:
            answers |= {frame.call: frame for frame in (await stream.read()).frames if frame.call}
        error = decode_error(answers[1].error)
        assert type(error) is kind
        assert error.fields["field"] in ("payload", "metadata")
        assert answers[2].result.message.text == "fine"
        assert [each.text for each in seen] == ["fine"]
        stream.cancel()


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_a_reply_that_carries_too_much_is_the_agents_error(runtime: DistributedRuntime, name: str) -> None:
    kind = MessageTooLarge if TOO_MUCH[name][1] is MessageTooLarge else InvalidReply
    with pytest.raises(kind, match=r"payload|metadata") as caught:
        await runtime.call("boasts", name)
    assert caught.value.agent_path == ("boasts",)
    assert (await runtime.call("echo", "after")).text == "after"


async def test_what_the_limits_allow_goes_there_and_back(runtime: DistributedRuntime) -> None:
    entries = dict.fromkeys(map(str, range(MAX_METADATA_ENTRIES - 1)), 0)
    message = Message(nested(MAX_JSON_DEPTH), {**entries, "room": "x" * (MAX_METADATA_BYTES - 20_000)})
    reply = await runtime.call("echo", message)
    assert (reply.payload, reply.metadata) == (message.payload, message.metadata)
