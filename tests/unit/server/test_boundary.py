"""The boundary of every server: what callers are told of input that cannot be parsed, and of defects."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import grpc.aio
import pytest
from aixgo.errors import AixgoError, InternalError, InvalidInput, NotSupported
from aixgo.server.listening import add_health_and_reflection, new_server
from aixgo.v1 import agent_pb2 as pb
from aixgo.wire.status import abort, from_rpc
from google.protobuf.message import Message

from tests.support import eventually

REFLECTION = "grpc.reflection.v1alpha.ServerReflection"
SECRET = "the password is hunter2"


async def broken(request: Message, context: object) -> Message:
    raise RuntimeError(SECRET)


async def broken_stream(request: Message, context: object) -> AsyncIterator[Message]:
    yield pb.CancelResponse(found=True)
    raise RuntimeError(SECRET)


async def typed(request: Message, context: object) -> Message:
    raise NotSupported("not here")


class Kept(bytes):
    """A request of which is known whether somebody still has it."""

    alive = 0

    def __new__(cls, data: bytes) -> Self:
        cls.alive += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Kept.alive -= 1


async def refuses(request: Kept, context: Any) -> Message:
    try:
        raise NotSupported("not here")
    except NotSupported as error:
        await abort(context, error)


async def refuses_later(request: Kept, context: Any) -> AsyncIterator[Message]:
    yield pb.CancelResponse(found=True)
    await refuses(request, context)


async def collects(requests: AsyncIterator[Message], context: object) -> Message:
    async for _ in requests:
        pass
    return pb.CancelResponse(found=True)


async def answers(requests: AsyncIterator[Message], context: object) -> AsyncIterator[Message]:
    async for _ in requests:
        yield pb.CancelResponse(found=True)
    raise RuntimeError(SECRET)


@pytest.fixture
async def address() -> AsyncIterator[str]:
    made: Any = grpc
    parse, encode = pb.CancelRequest.FromString, pb.CancelResponse.SerializeToString
    handlers = {
        "Broken": made.unary_unary_rpc_method_handler(broken, parse, encode),
        "BrokenStream": made.unary_stream_rpc_method_handler(broken_stream, parse, encode),
        "Typed": made.unary_unary_rpc_method_handler(typed, parse, encode),
        "Refuses": made.unary_unary_rpc_method_handler(refuses, Kept, encode),
        "RefusesLater": made.unary_stream_rpc_method_handler(refuses_later, Kept, encode),
        "Collects": made.stream_unary_rpc_method_handler(collects, parse, encode),
        "Answers": made.stream_stream_rpc_method_handler(answers, parse, encode),
    }
    server = new_server(4096)
    first = {"Overridden": made.unary_unary_rpc_method_handler(typed, parse, encode)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", first),))
    second = handlers | {"Overridden": made.unary_unary_rpc_method_handler(broken, parse, encode)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", second),))
    server.add_registered_method_handlers("t.T", second)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def ask(channel: Any, method: str, request: bytes) -> None:
    if method in ("BrokenStream", "RefusesLater"):
        async for _ in channel.unary_stream(f"/t.T/{method}")(request):
            pass
    elif method == "Collects":
        await channel.stream_unary(f"/t.T/{method}")(iter([request]))
    elif method == "Answers":
        async for _ in channel.stream_stream(f"/t.T/{method}")(iter([request])):
            pass
    else:
        await channel.unary_unary(f"/t.T/{method}")(request)


async def refusal(address: str, method: str, request: bytes) -> AixgoError | None:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(channel, method, request)
        assert SECRET not in str(caught.value)
        return from_rpc(caught.value)


@pytest.mark.parametrize("method", ["Broken", "BrokenStream", "Typed", "Collects", "Answers"])
async def test_bytes_that_are_no_request_are_refused_as_invalid_input(address: str, method: str) -> None:
    assert isinstance(await refusal(address, method, b"\xff\xff\xff"), InvalidInput)


@pytest.mark.parametrize("method", ["Broken", "BrokenStream", "Answers"])
async def test_what_a_defect_says_is_for_the_log_and_not_for_the_caller(
    address: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "aixgo"):
        assert isinstance(await refusal(address, method, b""), InternalError)
    assert SECRET in caplog.text


async def test_a_typed_error_ends_the_rpc_as_it_is(address: str) -> None:
    assert isinstance(await refusal(address, "Typed", b""), NotSupported)


async def test_of_two_handlers_of_a_method_the_one_that_was_added_first_counts(address: str) -> None:
    assert isinstance(await refusal(address, "Overridden", b""), NotSupported)


@pytest.mark.parametrize(
    "method", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", f"/{REFLECTION}/ServerReflectionInfo"]
)
async def test_health_and_reflection_refuse_bytes_that_are_no_request_as_invalid_input(method: str) -> None:
    server = new_server(4096)
    add_health_and_reflection(server, ["t.T"])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            made: Any = channel
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in made.stream_stream(method)(iter([b"\xff\xff\xff"])):
                    pass
            assert isinstance(from_rpc(caught.value), InvalidInput)
    finally:
        await server.stop(None)


async def test_methods_that_nobody_serves_are_refused_by_grpc_and_not_kept(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        made: Any = channel
        for number in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await made.unary_unary(f"/t.T/Unknown{number}")(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["Refuses", "RefusesLater"])
async def test_a_request_that_was_refused_is_not_kept_until_garbage_is_collected(address: str, method: str) -> None:
    gc.disable()
    try:
        for _ in range(3):
            assert isinstance(await refusal(address, method, b"x" * 100), NotSupported)
        await eventually(lambda: Kept.alive == 0)
    finally:
        gc.enable()
