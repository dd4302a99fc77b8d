"""The clients and the agent of examples/ that are written in other languages, against processes of ours.

A test whose tools are missing is skipped; with AIXGO_REQUIRE_TOOLS=1, as in CI, it fails.
`tests/tools/install-languages` installs them all.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc
import grpc.aio
import pytest
from aixgo import Delta, DistributedRuntime, MemberFinished, Message, Sequential
from aixgo.errors import BudgetExceeded, DeadlineExceeded, DepthExceeded, InvalidInput, NotSupported
from aixgo.orchestration.base import Limits
from aixgo.v1 import agent_pb2, agent_pb2_grpc, registry_pb2, types_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.status import from_rpc
from aixgo_services.gateway import serve_gateway
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tests.integration.test_foreign_clients import GRPCURL
from tests.support import ROOT, Fleet, Load, Process, fleet, start_registry

EXAMPLES = ROOT / "examples"
REQUIRED = os.environ.get("AIXGO_REQUIRE_TOOLS") == "1"  # read here: the tests themselves see no setting of aixgo
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TIMEOUT = 20.0
BUILD_TIMEOUT = 300.0
"""Seconds that the first build of the Go client may take, gRPC itself included."""
PORT_OF_NOBODY = "127.0.0.1:1"


@dataclass(frozen=True)
class Outcome:
    """What a client printed, and how it ended."""

    code: int
    lines: list[Any]
    complaints: str

    @property
    def only(self) -> Any:
        """Its one line."""
        assert len(self.lines) == 1, self
        return self.lines[0]


class Client:
    """One of the clients of examples/clients."""

    def __init__(self, *command: str, **environment: str) -> None:
        self._command = command
        self._environment = environment

    def __call__(self, verb: str, address: str, agent: str, text: str, seconds: float = TIMEOUT) -> Outcome:
        done = subprocess.run(
            [*self._command, verb, address, agent, text, str(seconds)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **self._environment, "TRACEPARENT": TRACEPARENT},
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return Outcome(done.returncode, lines, done.stderr)


def missing(what: str) -> NoReturn:
    """Skip the test, or fail it where all tools are required."""
    reason = f"needs {what}; tests/tools/install-languages installs it"
    pytest.fail(reason) if REQUIRED else pytest.skip(reason)


def need(*programs: str) -> None:
    """Skip or fail unless all these programs are there."""
    for program in programs:
        if shutil.which(program) is None:
            missing(program)


def node(folder: Path) -> None:
    """Skip or fail unless Node and the packages of an example are there."""
    need("node")
    if not (folder / "node_modules").is_dir():
        missing(f"the packages of {folder.relative_to(ROOT)} (npm ci)")


def node_client() -> Client:
    folder = EXAMPLES / "clients" / "node"
    node(folder)
    return Client("node", str(folder / "client.js"))


def ruby_client() -> Client:
    need("ruby", "grpc_tools_ruby_protoc")
    if subprocess.run(["ruby", "-e", 'require "grpc"'], capture_output=True, timeout=60, check=False).returncode:
        missing("the gem grpc")
    folder = EXAMPLES / "clients" / "ruby"
    subprocess.run([str(folder / "generate")], check=True, timeout=BUILD_TIMEOUT)
    return Client("ruby", str(folder / "client.rb"))


def go_client() -> Client:
    need("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    if not Path("/usr/share/gocode/src/google.golang.org/grpc").is_dir():
        missing("grpc-go as Debian packages it (golang-google-grpc-dev)")
    folder = EXAMPLES / "clients" / "go"
    subprocess.run([str(folder / "build")], check=True, timeout=BUILD_TIMEOUT)
    return Client(str(folder / "gen" / "client"))


CLIENTS: dict[str, Callable[[], Client]] = {"node": node_client, "ruby": ruby_client, "go": go_client}


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Client:
    """Each client, ready to run."""
    return CLIENTS[request.param]()


@pytest.fixture(scope="module")
def shell() -> Client:
    """The client that is grpcurl."""
    need("jq")
    if GRPCURL is None:
        missing("grpcurl")
    return Client(str(EXAMPLES / "clients" / "grpcurl" / "client"), GRPCURL=GRPCURL)


class Recorder(agent_pb2_grpc.AgentServiceServicer):
    """A server that answers with the traceparent header of the call."""

    def Execute(self, request: agent_pb2.ExecuteRequest, context: Any) -> agent_pb2.ExecuteResponse:  # noqa: N802
        seen = dict(context.invocation_metadata())
        return agent_pb2.ExecuteResponse(message=types_pb2.Message(text=seen["traceparent"]))


@pytest.fixture(scope="module")
def recorder() -> Iterator[str]:
    """The address of a Recorder."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    agent_pb2_grpc.add_AgentServiceServicer_to_server(Recorder(), server)
    reflection.enable_server_reflection(("aixgo.v1.AgentService", reflection.SERVICE_NAME), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_client_gets_a_reply(client: Client, host: Process) -> None:
    reply = client("call", host.address, "upper", "hi").only
    nothing = {"tokens": 0, "cost_usd": "", "incomplete": False}
    assert reply == {"reply": "HI", "instance": host.instance_id, "usage": nothing}


def test_a_client_passes_its_deadline_on_and_reads_json(client: Client, host: Process) -> None:
    seen = client("call", host.address, "observer", "", 7.0).only["reply"]
    assert seen["path"] == ["observer"]
    assert 0 < seen["remaining"] < 7.0


def test_a_client_gets_the_events_of_a_stream(client: Client, host: Process) -> None:
    done = client("stream", host.address, "words", "a b")
    assert [line["event"] for line in done.lines] == ["delta", "delta", "result"]
    assert [line["text"] for line in done.lines[:-1]] == ["a", "b"]
    assert (done.code, done.lines[-1]["reply"], done.lines[-1]["path"]) == (0, "a b", ["words"])


def test_a_client_learns_what_a_call_spent_until_its_deadline(client: Client, host: Process) -> None:
    done = client("call", host.address, "paid-then-slow", "hi", 3.0)
    assert (done.code, done.only["error"], done.only["code"]) == (1, "DeadlineExceeded", "DEADLINE_EXCEEDED")
    assert done.only["path"][0] == "paid-then-slow"
    assert done.only["usage"] == {"tokens": 2, "cost_usd": "0.000003", "incomplete": False}


def test_a_client_that_cancels_learns_what_was_spent(client: Client, host: Process) -> None:
    done = client("cancel", host.address, "paid-then-slow", "hi")
    assert done.code == 0, done
    assert [line.get("event") for line in done.lines[-2:]] == ["member_finished", None]
    assert done.lines[-1]["cancelled"] is True
    assert (done.lines[-1]["usage"]["tokens"], done.lines[-1]["usage"]["cost_usd"]) == (2, "0.000003")


@pytest.mark.parametrize("verb", ["call", "stream"])
def test_a_client_reads_the_details_of_an_error(client: Client, host: Process, verb: str) -> None:
    done = client(verb, host.address, "sold-out", "apples")
    error = done.only
    assert (done.code, error["code"], error["message"]) == (1, "FAILED_PRECONDITION", "only 3 of apples left")
    assert error["error"] == "tests.contract.failures:OutOfStock"
    assert (error["path"], error["not_accepted"]) == (["sold-out"], False)


def test_a_client_sees_that_a_call_was_not_accepted(client: Client, host: Process) -> None:
    error = client("call", host.address, "nobody", "hi").only
    assert (error["error"], error["code"], error["not_accepted"]) == ("AgentNotFound", "NOT_FOUND", True)


def test_a_client_tells_the_transports_errors_from_ours(client: Client) -> None:
    done = client("call", PORT_OF_NOBODY, "upper", "hi", 5.0)
    assert (done.code, done.only["error"], done.only["code"]) == (1, None, "UNAVAILABLE")


def test_a_client_sends_its_trace(client: Client, recorder: str) -> None:
    assert client("call", recorder, "any", "").only["reply"] == TRACEPARENT


def test_grpcurl_calls_streams_and_sends_its_trace(shell: Client, host: Process, recorder: str) -> None:
    assert shell("call", host.address, "upper", 'say "hi"').only["message"]["text"] == 'SAY "HI"'
    events = [line["event"] for line in shell("stream", host.address, "words", "a b").lines]
    assert [event["delta"]["text"] for event in events[:-1]] == ["a", "b"]
    assert "result" in events[-1]
    assert shell("call", recorder, "any", "").only["message"]["text"] == TRACEPARENT


def test_grpcurl_shows_the_details_of_an_error(shell: Client, host: Process) -> None:
    done = shell("call", host.address, "paid-then-slow", "hi", 3.0)
    assert done.code == 64 + grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    [detail] = json.loads(done.complaints)["details"]
    assert detail["@type"] == "type.googleapis.com/aixgo.v1.Error"
    assert "DeadlineExceeded" in detail.values()
    assert "0.000003" in json.dumps(detail)


def test_grpcurl_cancels_a_call_from_elsewhere(shell: Client, host: Process) -> None:
    done = shell("cancel", host.address, "paid-then-slow", "hi")
    assert done.code == 64 + grpc.StatusCode.CANCELLED.value[0]
    [answer] = [line for line in done.lines if "found" in line]
    assert answer["found"] is True
    assert "0.000003" in json.dumps(answer["usage"])
    assert "CallCancelled" in json.dumps(done.lines[-1]["error"])


class NodeAgent(Process):
    """One process of examples/agents/node."""

    def __init__(self, *control_planes: str) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by __exit__
        self._process = subprocess.Popen(
            ["node", "agent.js", *(f"--control-plane={address}" for address in control_planes)],
            cwd=EXAMPLES / "agents" / "node",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.address = ""
        self.instance_id = ""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Fleet]:
    """A control plane, a Python agent that turns texts around, and one process of the Node agent."""
    node(EXAMPLES / "agents" / "node")
    with fleet(("reverse",)) as started, NodeAgent(started.control_plane) as typist:
        yield Fleet(started.registry, [*started.hosts, typist.wait_ready()])


@pytest.fixture
def typist(mesh: Fleet) -> Process:
    """The Node agent of the mesh."""
    return mesh.hosts[-1]


@pytest.fixture
async def runtime(mesh: Fleet) -> AsyncIterator[DistributedRuntime]:
    """A Python process of the mesh, with an orchestrator over an agent in Python and one in Node."""
    async with DistributedRuntime(control_plane=[mesh.control_plane]) as runtime:
        runtime.register(Sequential("letter", ["reverse", "typist"]))
        yield runtime


@pytest.fixture
async def typist_channel(typist: Process) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel to the Node agent."""
    async with grpc.aio.insecure_channel(typist.address) as channel:
        yield channel


@pytest.fixture
async def gateway(mesh: Fleet) -> AsyncIterator[str]:
    """The address of a gateway to the mesh."""
    stop = asyncio.Event()
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve_gateway(
            "127.0.0.1:0",
            control_plane=[mesh.control_plane],
            ready=lambda server: listening.set_result(server.address),
            stop=stop,
        )
    )
    yield await asyncio.wait_for(listening, TIMEOUT)
    stop.set()
    await task


async def test_a_client_reaches_an_agent_in_node_through_the_gateway(client: Client, gateway: str) -> None:
    done = await asyncio.to_thread(client, "stream", gateway, "typist", "one two")
    assert [line.get("text") for line in done.lines] == ["One", " Two", None]
    assert (done.lines[-1]["reply"], done.lines[-1]["usage"]["tokens"]) == ("One Two", 2)
    failed = await asyncio.to_thread(client, "call", gateway, "typist", " ")
    assert (failed.only["error"], failed.only["path"]) == ("InvalidInput", ["typist"])


async def test_an_orchestrator_uses_an_agent_in_node_like_any_other(runtime: DistributedRuntime) -> None:
    reply = await runtime.call("letter", "edon olleh", timeout=TIMEOUT)
    assert (reply.text, reply.metadata["words"]) == ("Hello Node", 2)
    assert (reply.usage.completion_tokens, reply.usage.unpriced_calls) == (2, 2)


async def test_the_events_of_an_agent_in_node_come_up_through_its_orchestrator(
    runtime: DistributedRuntime, typist: Process
) -> None:
    async with runtime.stream("letter", "b a", timeout=TIMEOUT) as events:
        seen = [event async for event in events]
    assert [e.text for e in seen if isinstance(e, Delta) and e.path == ("letter", "typist")] == ["A", " B"]
    finished = [e for e in seen if isinstance(e, MemberFinished) and e.path[-1] == "typist"]
    assert [e.instance_id for e in finished] == [typist.instance_id]


async def test_an_error_of_an_agent_in_node_is_caught_by_its_class(runtime: DistributedRuntime) -> None:
    with pytest.raises(InvalidInput, match="send words to type") as caught:
        await runtime.call("letter", "", timeout=TIMEOUT)
    assert caught.value.agent_path == ("letter", "typist")


async def test_an_agent_in_node_keeps_to_its_budget(runtime: DistributedRuntime) -> None:
    runtime.register(Sequential("thrifty", ["typist"], limits=Limits(max_tokens=2)))
    assert (await runtime.call("thrifty", "a b", timeout=TIMEOUT)).text == "A B"
    with pytest.raises(BudgetExceeded) as caught:
        await runtime.call("thrifty", "a b c", timeout=TIMEOUT)
    assert caught.value.usage.total_tokens == 2


async def test_an_agent_in_node_answers_before_the_deadline_of_its_caller(runtime: DistributedRuntime) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await runtime.call("typist", Message("slow", {"pace_ms": 60_000}), timeout=1.0)
    assert (caught.value.agent_path, caught.value.usage.incomplete) == (("typist",), False)


async def test_an_agent_in_node_has_no_mailbox_and_says_so(runtime: DistributedRuntime) -> None:
    with pytest.raises(NotSupported, match="no mailbox"):
        await runtime.send("typist", "hello")


async def test_a_cancelled_call_to_an_agent_in_node_says_what_it_spent(typist_channel: grpc.aio.Channel) -> None:
    stub = agent_pb2_grpc.AgentServiceStub(typist_channel)
    message = types_pb2.Message(text="one two", metadata=b'{"pace_ms": 300}')
    context = types_pb2.CallContext(call_id="to-be-cancelled")
    request = agent_pb2.ExecuteStreamRequest(agent="typist", message=message, context=context)
    call = stub.ExecuteStream(request, timeout=TIMEOUT)
    async for frame in call:
        assert frame.event.delta.text == "One"
        break
    call.cancel()
    answer = await stub.Cancel(agent_pb2.CancelRequest(call_id="to-be-cancelled"), timeout=TIMEOUT)
    assert (answer.found, answer.usage.completion_tokens) == (True, 1)
    again = await stub.Cancel(agent_pb2.CancelRequest(call_id="to-be-cancelled"), timeout=TIMEOUT)
    assert not again.found


async def test_a_long_stream_of_an_agent_in_node_arrives_whole(typist_channel: grpc.aio.Channel) -> None:
    text = " ".join(["word" * 50] * 1_500)  # more than what HTTP/2 lets a server send unread
    request = agent_pb2.ExecuteStreamRequest(agent="typist", message=types_pb2.Message(text=text))
    call = agent_pb2_grpc.AgentServiceStub(typist_channel).ExecuteStream(request, timeout=60.0)
    heard = [frame.event.delta.text async for frame in call if frame.event.HasField("delta")]
    assert len("".join(heard)) == len(text)


async def test_an_agent_in_node_refuses_calls_that_lie_too_deep(typist_channel: grpc.aio.Channel) -> None:
    deep = types_pb2.CallContext(depth=10, agent_path=["a", "b"])
    request = agent_pb2.ExecuteRequest(agent="typist", message=types_pb2.Message(text="x"), context=deep)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await agent_pb2_grpc.AgentServiceStub(typist_channel).Execute(request, timeout=TIMEOUT)
    error = from_rpc(caught.value)
    assert isinstance(error, DepthExceeded)
    assert error.agent_path == ("a", "b", "typist")


async def test_an_agent_in_node_describes_itself_and_its_health(
    typist_channel: grpc.aio.Channel, typist: Process
) -> None:
    stub = agent_pb2_grpc.AgentServiceStub(typist_channel)
    described = await stub.Describe(agent_pb2.DescribeRequest(), timeout=TIMEOUT)
    assert (described.instance_id, list(described.transports)) == (typist.instance_id, ["plain"])
    assert [(agent.name, agent.idempotent, agent.ready) for agent in described.agents] == [("typist", True, True)]
    health: Any = health_pb2_grpc.HealthStub(typist_channel)  # its stubs are untyped
    for name in ("", "typist"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async for answer in (watch := health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)):
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        break
    watch.cancel()


async def test_no_call_fails_while_an_agent_in_node_drains(mesh: Fleet, runtime: DistributedRuntime) -> None:
    with NodeAgent(mesh.control_plane) as second:
        second.wait_ready()
        message = Message("some words", {"pace_ms": 5})
        async with Load(lambda: runtime.call("typist", message, timeout=TIMEOUT)) as load:
            await load.more(100)
            assert await asyncio.to_thread(second.drain) == 0
            await load.more(100)
    assert load.errors == []


async def test_no_call_fails_when_an_agent_in_node_is_killed(mesh: Fleet, runtime: DistributedRuntime) -> None:
    with NodeAgent(mesh.control_plane) as second:
        second.wait_ready()
        message = Message("some words", {"pace_ms": 5})
        async with Load(lambda: runtime.call("typist", message, timeout=TIMEOUT)) as load:
            await load.more(100)
            await asyncio.to_thread(second.kill)
            await load.more(100)
    assert load.errors == []  # it says that it is idempotent


class Listing:
    """What a control plane lists."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RegistryServiceStub(channel)

    async def of(self, instance_id: str) -> registry_pb2.Instance | None:
        """An instance as it is listed."""
        answer = await self._stub.List(registry_pb2.ListRequest(), timeout=TIMEOUT, wait_for_ready=True)
        return next((one for one in answer.instances if one.instance_id == instance_id), None)

    async def until(self, instance_id: str, seq: int) -> None:
        """Return when an instance is listed with this `seq` at least."""
        async with asyncio.timeout(TIMEOUT):
            while (listed := await self.of(instance_id)) is None or listed.seq < seq:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def bury(self, instance_id: str, seq: int) -> None:
        """Deregister an instance in its place."""
        gone = registry_pb2.DeregisterRequest(instance_id=instance_id, seq=seq)
        assert (await self._stub.Deregister(gone, timeout=TIMEOUT)).found


async def test_an_agent_in_node_registers_again_when_its_lease_is_not_known(mesh: Fleet, typist: Process) -> None:
    async with grpc.aio.insecure_channel(mesh.control_plane) as channel:
        listing = Listing(channel)
        await listing.bury(typist.instance_id, seq=7)
        await listing.until(typist.instance_id, seq=8)


async def test_an_agent_in_node_outlives_its_control_plane() -> None:
    node(EXAMPLES / "agents" / "node")
    with start_registry() as first:
        address = first.wait_ready().address
        with NodeAgent(address) as agent:
            agent.wait_ready()
            first.kill()
            with start_registry(address) as second:
                second.wait_ready()
                async with grpc.aio.insecure_channel(address) as channel:
                    await Listing(channel).until(agent.instance_id, seq=1)
            assert agent.drain() == 0
