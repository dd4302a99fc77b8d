"""AgentServer: where it listens, what it tells others, and how it drains."""

from __future__ import annotations

import asyncio
import socket

import grpc.aio
import pytest
from aixgo import AgentServer, LocalRuntime, Message, agent
from aixgo.errors import ConfigError, WrongState
from aixgo.runtime.instance import InstanceState
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings
from aixgo.server import server as module
from aixgo.server.server import ServerLimits
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

OPEN = Security(SecuritySettings(allow_insecure=True))


@agent
async def echo(message: Message) -> Message:
    return message


def runtime() -> LocalRuntime:
    made = LocalRuntime()
    made.register(echo.renamed("echo"))
    return made


async def ask(address: str) -> str:
    async with grpc.aio.insecure_channel(address) as channel:
        return (
            await AgentServiceStub(channel).Execute(pb.ExecuteRequest(agent="echo", message={"text": "x"}))
        ).message.text


async def test_port_0_is_any_free_one_and_it_is_the_one_that_is_told() -> None:
    async with AgentServer(runtime()) as server:
        host, _, port = server.address.rpartition(":")
        assert host == "127.0.0.1"
        assert int(port) > 0
        assert server.describe().address == server.address
        assert await ask(server.address) == "x"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0"])
async def test_without_tls_it_listens_beyond_this_machine_only_when_told_to(listen: str) -> None:
    with pytest.raises(ConfigError, match="AIXGO_ALLOW_INSECURE=1"):
        async with AgentServer(runtime(), listen=listen):
            raise AssertionError


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0"])
async def test_on_all_interfaces_the_control_plane_fills_in_the_host(
    listen: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with AgentServer(runtime(), listen=listen, security=OPEN) as server:
        port = server.address.rpartition(":")[2]
        assert server.describe().address == f":{port}"
        assert await ask(f"127.0.0.1:{port}") == "x"
    assert "without TLS" in caplog.text


async def test_what_it_is_told_to_advertise_wins() -> None:
    async with AgentServer(runtime(), listen="0.0.0.0:0", advertise="box.example:7000", security=OPEN) as server:
        assert server.describe().address == "box.example:7000"


@pytest.mark.parametrize(
    "listen", ["", "localhost", "localhost:", "localhost:x", "localhost:65536", "localhost:²", "50051"]
)
async def test_a_listen_address_that_is_none_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"write host:port, like 127\.0\.0\.1:50051"):
        async with AgentServer(runtime(), listen=listen):
            raise AssertionError


async def test_a_port_in_use_is_refused_with_the_fix() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WrongState, match=f"cannot listen on {listen}: the port is in use .* choose another port"):
            async with AgentServer(runtime(), listen=listen):
                raise AssertionError


async def test_two_servers_cannot_share_a_port() -> None:
    async with AgentServer(runtime()) as server:
        with pytest.raises(WrongState):
            async with AgentServer(runtime(), listen=server.address):
                raise AssertionError


async def test_unnamed_members_are_not_told_and_every_server_has_an_id_of_its_own() -> None:
    from aixgo import Sequential

    made = runtime()
    made.register(Sequential("s", [echo.renamed(""), "echo"]))
    async with AgentServer(made) as one, AgentServer(made) as other:
        described = one.describe()
        assert [each.name for each in described.agents] == ["echo", "s"]
        assert described.by_name["s"].agents == ("s/0", "echo")
        assert described.labels["pid"]
        assert one.instance_id != other.instance_id


async def test_without_a_control_plane_it_is_registered_nowhere() -> None:
    async with AgentServer(runtime()) as server:
        assert not await server.registered(60)


async def test_a_drain_lets_running_calls_end_and_refuses_new_ones() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @agent
    async def slow(message: Message) -> str:
        begun.set()
        await go.wait()
        return "done"

    made = runtime()
    made.register(slow)
    async with AgentServer(made) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = AgentServiceStub(channel)
        running = asyncio.ensure_future(stub.Execute(pb.ExecuteRequest(agent="slow")))
        await begun.wait()
        draining = [asyncio.create_task(server.drain()) for _ in range(2)]
        while (await health(channel)) == health_pb2.HealthCheckResponse.SERVING:  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError, match="draining"):
            await stub.Execute(pb.ExecuteRequest(agent="echo"))
        assert server.describe().state is InstanceState.DRAINING
        assert not any(task.done() for task in draining)
        go.set()
        assert (await running).message.text == "done"
        await asyncio.gather(*draining)
        await server.wait_stopped()


async def health(channel: grpc.aio.Channel) -> int:
    return (await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())).status


async def test_a_drain_cancels_what_takes_too_long_and_the_caller_hears_why(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Event()

    @agent
    async def endless(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    made = runtime()
    made.register(endless)
    limits = ServerLimits(drain_timeout=0.01)
    async with (
        AgentServer(made, limits=limits) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        running = asyncio.ensure_future(AgentServiceStub(channel).Execute(pb.ExecuteRequest(agent="endless")))
        await begun.wait()
        await server.drain()
        with pytest.raises(grpc.aio.AioRpcError, match="cancelled where it ran"):
            await running
    assert "took longer than the drain" in caplog.text


async def test_a_drain_that_is_cut_short_leaves_nobody_waiting() -> None:
    begun = asyncio.Event()

    @agent
    async def endless(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    made = runtime()
    made.register(endless)
    async with AgentServer(made) as server, grpc.aio.insecure_channel(server.address) as channel:
        running = asyncio.ensure_future(AgentServiceStub(channel).Execute(pb.ExecuteRequest(agent="endless")))
        await begun.wait()
        draining = asyncio.create_task(server.drain())
        await asyncio.sleep(0.01)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        await asyncio.wait_for(server.wait_stopped(), 5)
        running.cancel()


async def test_readiness_that_changes_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_POLL", 0.005)
    ready = False

    class Loading(type(echo)):
        def ready(self) -> bool:
            return ready

    made = LocalRuntime()
    made.register(Loading(echo._function, "loading", "custom", idempotent=False))
    async with AgentServer(made) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status

        assert await status("loading") == health_pb2.HealthCheckResponse.NOT_SERVING
        ready = True
        async with asyncio.timeout(10):
            while await status("loading") != health_pb2.HealthCheckResponse.SERVING:  # noqa: ASYNC110  # nothing announces it
                await asyncio.sleep(0)
        await made.unregister("loading")
        async with asyncio.timeout(10):
            while await status("loading") == health_pb2.HealthCheckResponse.SERVING:  # noqa: ASYNC110  # nothing announces it
                await asyncio.sleep(0)
