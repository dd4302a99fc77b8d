"""The gateway in front of a fleet of processes: what a caller outside the mesh gets is what one inside gets."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from aixgo import DistributedRuntime, Message
from aixgo.errors import CallCancelled, DeadlineExceeded, DepthExceeded, InstanceDraining, Overloaded
from aixgo.events import Delta, Result
from aixgo.message import new_id
from aixgo.server.server import AgentServer, ServerLimits
from aixgo.v1 import agent_pb2, types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.status import from_rpc
from aixgo_services.gateway import serve_gateway
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.contract.failures import OutOfStock
from tests.integration.test_foreign_clients import GRPCURL, frames, needs_grpcurl
from tests.support import ROOT, Fleet, Load, eventually, fleet

TIMEOUT = 20.0
WITNESSES = ("observer", "journal", "slow", "endless", "collector", "crowd")
SPEAKERS = ("upper", "sold-out", "words", "breaks-off", "writer", "paid-then-slow", "via-one")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def mesh() -> Iterator[Fleet]:
    """A control plane and two processes of agents."""
    with fleet((*SPEAKERS, *WITNESSES), ("upper",)) as running:
        yield running


@asynccontextmanager
async def gateway(*control_plane: str, limits: ServerLimits | None = None) -> AsyncIterator[AgentServer]:
    """A gateway of this process; leaving drains it."""
    stop, up = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_gateway("127.0.0.1:0", control_plane=control_plane, limits=limits, ready=up.set_result, stop=stop)
    )
    try:
        yield await up
    finally:
        stop.set()
        await serving


@pytest.fixture
async def channel(mesh: Fleet) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel to a gateway that has heard the control plane."""
    async with gateway(mesh.control_plane) as server, grpc.aio.insecure_channel(server.address) as channel:
        await until_healthy(channel)
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> AgentServiceStub:
    return AgentServiceStub(channel)


async def until_healthy(channel: grpc.aio.Channel) -> None:
    """Return when the gateway is SERVING."""
    checks: Any = health_pb2_grpc.HealthStub(channel)
    watch = checks.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    async for answer in watch:
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            break
    watch.cancel()


def request(agent: str, text: str = "", **context: Any) -> agent_pb2.ExecuteRequest:
    return agent_pb2.ExecuteRequest(
        agent=agent, message=types_pb2.Message(text=text), context=types_pb2.CallContext(**context)
    )


def streamed(agent: str, text: str = "", **context: Any) -> agent_pb2.ExecuteStreamRequest:
    return agent_pb2.ExecuteStreamRequest(
        agent=agent, message=types_pb2.Message(text=text), context=types_pb2.CallContext(**context)
    )


async def refused(call: Any) -> Any:
    """The typed error that an RPC ends with."""
    error, status = await ended(call)
    assert error is not None, status
    return error


async def ended(call: Any) -> tuple[Any, grpc.aio.AioRpcError]:
    """The typed error that an RPC ends with, and its status; None for one that gRPC itself has ended."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = from_rpc(caught.value)
    assert error is None or error.code == caught.value.code().value[0]
    return error, caught.value


async def noted(stub: AgentServiceStub, key: str, count: int) -> list[Any]:
    """What a witness has noted under `key`, once there are `count` entries."""
    body = json.dumps({"key": key, "count": count}).encode()
    asked = agent_pb2.ExecuteRequest(agent="journal", message=types_pb2.Message(json=body))
    return json.loads((await stub.Execute(asked, timeout=TIMEOUT)).message.json)


async def test_a_call_is_answered_by_an_instance_of_the_mesh(stub: AgentServiceStub, mesh: Fleet) -> None:
    answers = [await stub.Execute(request("upper", "x"), timeout=TIMEOUT) for _ in range(40)]
    assert {answer.message.text for answer in answers} == {"X"}
    assert {answer.instance_id for answer in answers} == {host.instance_id for host in mesh.hosts}


async def test_describe_lists_every_agent_of_the_mesh_once(stub: AgentServiceStub) -> None:
    described = await stub.Describe(agent_pb2.DescribeRequest(), timeout=TIMEOUT)
    assert [agent.name for agent in described.agents] == sorted({*SPEAKERS, *WITNESSES})
    by_name = {agent.name: agent for agent in described.agents}
    assert (by_name["upper"].idempotent, by_name["slow"].idempotent) == (True, False)
    assert by_name["paid-then-slow"].pattern == "sequential"


async def test_what_a_call_inherits_reaches_the_agent_unchanged(stub: AgentServiceStub) -> None:
    inherited = {
        "depth": 2,
        "agent_path": ["a", "b"],
        "session_id": "s",
        "grant": types_pb2.Grant(tokens=77),
        "timeout_ms": 10_000,
    }
    seen = json.loads((await stub.Execute(request("observer", **inherited), timeout=TIMEOUT)).message.json)
    assert (seen["path"], seen["depth"], seen["session"]) == (["a", "b", "observer"], 3, "s")
    assert seen["tokens"] == 77
    assert 5.0 < seen["remaining"] < 10.0


async def test_depth_is_judged_by_the_agent_s_process(stub: AgentServiceStub) -> None:
    error = await refused(stub.Execute(request("upper", "x", depth=10), timeout=TIMEOUT))
    assert isinstance(error, DepthExceeded)
    assert error.fields == {"limit": 10}


async def test_usage_comes_back_with_the_reply_and_the_message_keeps_its_id(stub: AgentServiceStub) -> None:
    answer = await stub.Execute(request("writer", "hello"), timeout=TIMEOUT)
    assert (answer.message.text, answer.message.usage.llm_calls) == ("hello", 1)
    assert answer.message.usage.cost_usd


async def test_events_come_in_order_and_end_with_one_terminal_frame(stub: AgentServiceStub, mesh: Fleet) -> None:
    got = [frame async for frame in stub.ExecuteStream(streamed("words", "a b c"), timeout=TIMEOUT)]
    assert [frame.event.delta.text for frame in got[:-1]] == ["a", "b", "c"]
    assert got[-1].event.result.message.text == "a b c"
    assert [frame.instance_id for frame in got] == [mesh.hosts[0].instance_id, "", "", ""]
    assert all(list(frame.event.agent_path) == ["words"] for frame in got)


async def test_a_stream_passes_events_on_while_the_agent_works(stub: AgentServiceStub) -> None:
    key = new_id()
    call = stub.ExecuteStream(streamed("endless", key), timeout=TIMEOUT)
    seen = [(await call.read()).event.delta.text for _ in range(200)]  # it has no end to wait for
    assert seen == [str(number) for number in range(200)]
    call.cancel()
    assert await noted(stub, key, 1) == ["closed"]


async def test_a_stream_that_fails_ends_with_the_agent_s_error_and_its_status(stub: AgentServiceStub) -> None:
    kinds: list[str | None] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012  # the loop is what raises
        async for frame in stub.ExecuteStream(streamed("breaks-off", "a b"), timeout=TIMEOUT):
            kinds.append(frame.WhichOneof("frame"))
    assert kinds == ["event", "event", "error"]
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert isinstance(from_rpc(caught.value), OutOfStock)


async def test_an_error_of_the_agent_s_own_keeps_class_fields_and_path(stub: AgentServiceStub) -> None:
    error = await refused(stub.Execute(request("sold-out", "apples"), timeout=TIMEOUT))
    assert isinstance(error, OutOfStock)
    assert (error.fields["item"], error.agent_path, error.accepted) == ("apples", ("sold-out",), True)


@pytest.mark.parametrize("agent", ["nobody", "via-one/0"])
async def test_a_name_that_the_mesh_does_not_have_is_not_found(stub: AgentServiceStub, agent: str) -> None:
    error = await refused(stub.Execute(request(agent), timeout=TIMEOUT))
    assert (type(error).__name__, error.fields) == ("AgentNotFound", {"agent": agent})
    delivered = agent_pb2.DeliverRequest(agent=agent, message=types_pb2.Message(text="x"))
    assert type(await refused(stub.Deliver(delivered, timeout=TIMEOUT))).__name__ == "AgentNotFound"


async def test_ending_the_rpc_stops_the_agent(stub: AgentServiceStub) -> None:
    key = new_id()
    call = stub.Execute(request("slow", key), timeout=TIMEOUT)
    await noted(stub, key, 1)
    call.cancel()
    assert await noted(stub, key, 2) == ["started", "cancelled"]


async def test_cancel_stops_the_agent_and_says_what_it_spent(stub: AgentServiceStub) -> None:
    key = new_id()
    call = asyncio.create_task(refused(stub.Execute(request("paid-then-slow", key, call_id=key), timeout=TIMEOUT)))
    await noted(stub, key, 1)
    answer = await stub.Cancel(agent_pb2.CancelRequest(call_id=key), timeout=TIMEOUT)
    assert (answer.found, answer.usage.llm_calls) == (True, 1)
    assert await noted(stub, key, 2) == ["started", "cancelled"]
    assert isinstance(await call, CallCancelled)
    assert not (await stub.Cancel(agent_pb2.CancelRequest(call_id="gone"), timeout=TIMEOUT)).found


async def test_the_deadline_stops_the_agent_and_its_typed_error_comes_first(stub: AgentServiceStub) -> None:
    errors: list[Any] = []
    while not any(errors) and len(errors) < 5:  # a machine that starves the two servers for 50 ms makes both late
        key = new_id()
        errors.append((await ended(stub.Execute(request("paid-then-slow", key), timeout=2.0)))[0])
        assert await noted(stub, key, 2) == ["started", "cancelled"]
    error = errors[-1]
    assert isinstance(error, DeadlineExceeded)
    assert (error.usage.llm_calls, error.usage.incomplete) == (1, False)


async def test_a_message_reaches_the_mailbox_with_its_sender_and_session(stub: AgentServiceStub) -> None:
    key = new_id()
    context = types_pb2.CallContext(session_id=key, agent_path=["outside"], traceparent=TRACE)
    delivered = agent_pb2.DeliverRequest(agent="collector", message=types_pb2.Message(text="hi"), context=context)
    await stub.Deliver(delivered, timeout=TIMEOUT)
    (note,) = await noted(stub, key, 1)
    assert (note["payload"], note["sender"], note["depth"]) == ("hi", ["outside"], 1)


async def test_python_calls_the_mesh_through_the_gateway(mesh: Fleet) -> None:
    async with gateway(mesh.control_plane) as server, DistributedRuntime(connect={"*": server.address}) as outside:
        assert (await outside.call("upper", "x", timeout=TIMEOUT)).payload == "X"
        with pytest.raises(OutOfStock, match="apples"):
            await outside.call("sold-out", "apples", timeout=TIMEOUT)
        async with outside.stream("words", "a b", timeout=TIMEOUT) as events:
            seen = [event async for event in events]
        assert [event.text for event in seen if isinstance(event, Delta)] == ["a", "b"]
        assert isinstance(seen[-1], Result)
        await eventually(lambda: set(outside.list_agents()) == {*SPEAKERS, *WITNESSES})


async def test_killing_an_instance_under_load_fails_no_idempotent_call() -> None:
    with fleet(["upper"], ["upper"]) as running:
        async with gateway(running.control_plane) as server, grpc.aio.insecure_channel(server.address) as channel:
            stub = AgentServiceStub(channel)
            await until_healthy(channel)

            async def call() -> str:
                return (await stub.Execute(request("upper", "x"), timeout=TIMEOUT)).instance_id

            async with Load(call) as load:
                await load.more(200)
                running.hosts[0].kill()
                await load.more(400)
            assert set(load.replies) == {host.instance_id for host in running.hosts}
            assert set(load.replies[-100:]) == {running.hosts[1].instance_id}


async def test_calls_over_the_limit_are_refused_as_never_accepted(mesh: Fleet) -> None:
    limits = ServerLimits(max_concurrent_calls=1)
    async with (
        gateway(mesh.control_plane, limits=limits) as server,
        DistributedRuntime(control_plane=[mesh.control_plane]) as inside,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub, key = AgentServiceStub(channel), new_id()
        running = stub.Execute(request("slow", key), timeout=TIMEOUT)
        await inside.call("journal", Message({"key": key, "count": 1}), timeout=TIMEOUT)
        error = await refused(stub.Execute(request("upper", "x"), timeout=TIMEOUT))
        assert isinstance(error, Overloaded)
        assert not error.accepted
        running.cancel()


async def test_a_request_over_the_size_limit_is_refused(mesh: Fleet) -> None:
    limits = ServerLimits(max_message_bytes=1000)
    async with (
        gateway(mesh.control_plane, limits=limits) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = AgentServiceStub(channel)
        assert (await stub.Describe(agent_pb2.DescribeRequest(), timeout=TIMEOUT)).max_message_bytes == 1000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Execute(request("upper", "x" * 100_000), timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_gateway_that_never_heard_a_control_plane_is_not_serving() -> None:
    async with gateway("127.0.0.1:1") as server, grpc.aio.insecure_channel(server.address) as channel:
        checks: Any = health_pb2_grpc.HealthStub(channel)
        answer = await checks.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        error = await refused(AgentServiceStub(channel).Execute(request("upper"), timeout=TIMEOUT))
        assert type(error).__name__ == "RegistryUnavailable"


async def test_a_drain_refuses_new_calls_and_lets_the_running_ones_finish(mesh: Fleet) -> None:
    stop, up = asyncio.Event(), asyncio.get_running_loop().create_future()
    limits = ServerLimits(drain_timeout=60.0)
    serving = asyncio.create_task(
        serve_gateway("127.0.0.1:0", control_plane=[mesh.control_plane], limits=limits, ready=up.set_result, stop=stop)
    )
    server: AgentServer = await up
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub, key = AgentServiceStub(channel), new_id()
        body = {"key": key, "size": 2}
        crowd = agent_pb2.ExecuteRequest(agent="crowd", message=types_pb2.Message(json=json.dumps(body).encode()))
        running = stub.Execute(crowd, timeout=60.0)
        await noted(stub, key, 1)
        stop.set()
        assert isinstance(await first_refusal(stub), InstanceDraining)
        async with DistributedRuntime(control_plane=[mesh.control_plane]) as inside:
            await inside.call("crowd", Message(body), timeout=TIMEOUT)
        assert (await running).message.text == "together"
    await serving


async def first_refusal(stub: AgentServiceStub) -> Any:
    """The error of the first call that is not taken any more."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await stub.Execute(request("upper"), timeout=TIMEOUT)
            except grpc.aio.AioRpcError as error:
                return from_rpc(error)


@pytest.fixture(scope="module")
def command(mesh: Fleet) -> Iterator[str]:
    """`aixgo gateway` as a process; its address."""
    with aixgo("gateway", "--listen=127.0.0.1:0", f"--control-plane={mesh.control_plane}", "--json") as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["gateway"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def aixgo(*arguments: str) -> subprocess.Popen[str]:
    """An `aixgo` command as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "aixgo_services.cli.main", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def told(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of an `aixgo` command."""
    with aixgo(*arguments) as process:
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def test_aixgo_call_goes_through_the_gateway(command: str) -> None:
    assert told("call", "upper", "hello", f"--gateway={command}")[:2] == (0, "HELLO\n")
    code, out, _ = told("call", "words", "a b", "--stream", "--json", f"--gateway={command}")
    assert (code, [json.loads(line)["event"] for line in out.splitlines()]) == (0, ["Delta", "Delta", "Result"])
    code, _, err = told("call", "nobody", "x", f"--gateway={command}")
    assert (code, "no agent named 'nobody'" in err) == (3, True)


def test_aixgo_agents_lists_what_the_gateway_serves(command: str) -> None:
    code, out, _ = told("agents", "--json", f"--gateway={command}")
    assert (code, [row["name"] for row in json.loads(out)]) == (0, sorted({*SPEAKERS, *WITNESSES}))
    assert {row["address"] for row in json.loads(out)} == {command}


def test_a_gateway_needs_no_control_plane_where_host_names_say_who_is_there(mesh: Fleet) -> None:
    host, _, port = mesh.hosts[0].address.rpartition(":")
    everybody = f"*=dns:///{host}:{port}"
    with aixgo("gateway", "--listen=127.0.0.1:0", f"--connect={everybody}", "--json") as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["control_plane"] == []
        assert told("call", "upper", "hello", f"--gateway={ready['gateway']}")[:2] == (0, "HELLO\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("gateway", "--connect=upper"), "write AGENT=host:port"),
        (("gateway", "--connect=upper=here"), "an address is written host:port"),
        (("call", "a", "x", "--gateway=h:1", "--address=h:2"), "give one of --address, --gateway"),
        (("agents", "--gateway=h:1", "--watch"), "give it without --control-plane and --watch"),
    ],
)
def test_wrong_usage_is_told_with_the_right_one(arguments: tuple[str, ...], text: str) -> None:
    code, _, err = told(*arguments)
    assert (code, text in err) == (2, True), err


@needs_grpcurl
def test_grpcurl_reaches_any_agent_through_the_gateway(command: str) -> None:
    def grpcurl(method: str, text: str, agent: str) -> subprocess.CompletedProcess[str]:
        body = json.dumps({"agent": agent, "message": {"text": text}})
        arguments = [str(GRPCURL), "-plaintext", "-max-time", "20", "-d", body, command, method]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)

    answer = json.loads(grpcurl("aixgo.v1.AgentService/Execute", "hello", "upper").stdout)
    assert answer["message"]["text"] == "HELLO"
    events = frames(grpcurl("aixgo.v1.AgentService/ExecuteStream", "a b", "words").stdout)
    assert [frame["event"].get("delta", {}).get("text") for frame in events] == ["a", "b", None]
