"""Registrar, control plane and discovery together, over real gRPC: who is seen when, what a restart does not undo."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio
import pytest
from aixgo.errors import WrongState
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.server.registrar import Registrar
from aixgo.v1 import registry_pb2 as pb
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub, add_RegistryServiceServicer_to_server
from aixgo.wire.instances import instance_to_proto
from aixgo_controlplane.main import run_control_plane
from aixgo_controlplane.registry import Registry
from aixgo_controlplane.service import RegistryService


class ControlPlane:
    """`run_control_plane` as a task; `kill` ends it, `start` begins another life on the same port."""

    def __init__(self) -> None:
        self.address = "127.0.0.1:0"
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(
            run_control_plane(self.address, lease=1.0, probe_interval=60, ready=ready.set_result, stop=asyncio.Event())
        )
        self.address = await ready

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None


@pytest.fixture
async def control_plane() -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    await plane.start()
    yield plane
    await plane.kill()


@asynccontextmanager
async def discovering(*addresses: str) -> AsyncIterator[Discovery]:
    discovery = Discovery(addresses)
    await discovery.open()
    try:
        yield discovery
    finally:
        await discovery.close()


class Process:
    """What a process that serves agents announces; tests change it and announce again."""

    def __init__(self, *addresses: str, key: str = "a", agents: tuple[str, ...] = ("echo",)) -> None:
        self.key = key
        self.agents = agents
        self.state = InstanceState.READY
        self.registrar = Registrar(addresses, self.describe, lease=1.0)

    def describe(self) -> Instance:
        return Instance(self.key, ":7001", 0, tuple(AgentInfo(name) for name in self.agents), self.state)


@asynccontextmanager
async def registered(*addresses: str, key: str = "a", agents: tuple[str, ...] = ("echo",)) -> AsyncIterator[Process]:
    process = Process(*addresses, key=key, agents=agents)
    await process.registrar.open()
    try:
        assert await process.registrar.registered(5)
        yield process
    finally:
        await process.registrar.close()


async def shown(discovery: Discovery, *keys: str) -> tuple[Instance, ...]:
    """Wait until the directory shows exactly these instances."""
    async with asyncio.timeout(10):
        while True:
            version = discovery.directory.version
            found = discovery.directory.all()
            if {instance.instance_id for instance in found} == set(keys):
                return found
            await discovery.changed(version)


async def test_a_registered_instance_is_discovered_under_the_host_that_was_seen(control_plane: ControlPlane):
    async with discovering(control_plane.address) as discovery, registered(control_plane.address):
        (found,) = await shown(discovery, "a")
        assert found.address == "127.0.0.1:7001"
        assert discovery.directory.instances("echo") == (found,)


async def test_a_process_that_closes_is_gone_at_once(control_plane: ControlPlane):
    async with discovering(control_plane.address) as discovery:
        async with registered(control_plane.address):
            await shown(discovery, "a")
        await shown(discovery)


async def test_an_announcement_is_known_to_the_control_plane_when_it_returns(control_plane: ControlPlane):
    async with registered(control_plane.address) as process:
        process.state = InstanceState.DRAINING
        await process.registrar.announce()
        async with discovering(control_plane.address) as discovery:
            assert await discovery.first_snapshot(5)
            assert [found.state for found in discovery.directory.all()] == [InstanceState.DRAINING]


async def test_a_lease_is_kept_for_longer_than_it_lasts_and_one_without_renewals_ends(control_plane: ControlPlane):
    silent = instance_to_proto(Instance("silent", "h:1", 1, (AgentInfo("echo"),)))
    async with (
        discovering(control_plane.address) as discovery,
        registered(control_plane.address),
        grpc.aio.insecure_channel(control_plane.address) as channel,
    ):
        await RegistryServiceStub(channel).Register(pb.RegisterRequest(instance=silent, lease_ms=1000))
        await shown(discovery, "a", "silent")
        await shown(discovery, "a")
        assert discovery.directory.known("echo")


async def test_a_restart_of_the_control_plane_empties_nobodys_directory(control_plane: ControlPlane):
    address = control_plane.address
    async with (
        discovering(address) as discovery,
        registered(address, key="a"),
        registered(address, key="b", agents=("echo", "upper")),
    ):
        await shown(discovery, "a", "b")
        least = asyncio.create_task(fewest(discovery))
        await control_plane.kill()
        await control_plane.start()
        assert control_plane.address == address
        async with discovering(address) as newcomer:
            await shown(newcomer, "a", "b")
        least.cancel()
        assert await least == 2
        await shown(discovery, "a", "b")


async def fewest(discovery: Discovery) -> int:
    """The smallest number of instances that the directory showed until this was cancelled."""
    least = len(discovery.directory.all())
    try:
        while True:
            await discovery.changed(discovery.directory.version)
            least = min(least, len(discovery.directory.all()))
    except asyncio.CancelledError:
        return least


async def test_what_lost_its_control_plane_announces_itself_anew_since_it_may_have_moved(control_plane: ControlPlane):
    async with discovering(control_plane.address) as discovery, registered(control_plane.address):
        (before,) = await shown(discovery, "a")
        await control_plane.kill()
        await control_plane.start()
        async with asyncio.timeout(10):
            while (await shown(discovery, "a"))[0].seq <= before.seq:
                await discovery.changed(discovery.directory.version)


async def test_an_instance_that_died_with_the_control_plane_goes_after_a_lease(control_plane: ControlPlane):
    address = control_plane.address
    dead = instance_to_proto(Instance("dead", "h:1", 1, (AgentInfo("echo"),)))
    async with discovering(address) as discovery, registered(address):
        async with grpc.aio.insecure_channel(address) as channel:
            await RegistryServiceStub(channel).Register(pb.RegisterRequest(instance=dead, lease_ms=1000))
        await shown(discovery, "a", "dead")
        await control_plane.kill()
        assert {found.instance_id for found in discovery.directory.all()} == {"a", "dead"}
        await control_plane.start()
        await shown(discovery, "a")


async def test_two_control_planes_are_independent(control_plane: ControlPlane):
    other = ControlPlane()
    await other.start()
    try:
        addresses = (control_plane.address, other.address)
        async with discovering(*addresses) as discovery, registered(*addresses) as process:
            await shown(discovery, "a")
            await control_plane.kill()
            process.agents = ("echo", "upper")
            await process.registrar.announce()
            async with asyncio.timeout(10):
                while not discovery.directory.instances("upper"):
                    await discovery.changed(discovery.directory.version)
        async with discovering(other.address) as late:
            assert await late.first_snapshot(5)
            assert late.directory.all() == ()
    finally:
        await other.kill()


async def test_a_control_plane_that_is_not_there_yet_is_found_when_it_comes(control_plane: ControlPlane, caplog):
    caplog.set_level(logging.INFO, "aixgo.runtime.contact")
    address = control_plane.address
    await control_plane.kill()
    process = Registrar([address], lambda: Instance("a", "h:1", 0, (AgentInfo("echo"),)), lease=1.0)
    async with discovering(address) as discovery:
        await process.open()
        assert not await discovery.first_snapshot(0.5)
        assert not await process.registered(0.5)
        await control_plane.start()
        await shown(discovery, "a")
        await process.close()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO", "INFO"]


async def test_a_refusal_is_told_apart_from_silence(control_plane: ControlPlane):
    registrar = Registrar([control_plane.address], lambda: Instance("a", "0.0.0.0:1", 0, (AgentInfo("echo"),)))
    await registrar.open()
    assert not await registrar.registered(0.5)
    assert "AIXGO_ADVERTISE_ADDRESS" in registrar.refusals[control_plane.address].message
    await registrar.close()


async def test_a_control_plane_that_knows_a_higher_seq_is_outbid(control_plane: ControlPlane):
    stale = instance_to_proto(Instance("a", "h:1", 41, (AgentInfo("old"),)))
    async with grpc.aio.insecure_channel(control_plane.address) as channel:
        await RegistryServiceStub(channel).Register(pb.RegisterRequest(instance=stale))
    async with registered(control_plane.address), discovering(control_plane.address) as discovery:
        (found,) = await shown(discovery, "a")
        assert found.seq > 41
        assert discovery.directory.names() == ["echo"]


async def test_a_closed_registrar_may_be_opened_again(control_plane: ControlPlane):
    async with registered(control_plane.address) as process:
        with pytest.raises(WrongState):
            await process.registrar.open()
        await process.registrar.close()
        await process.registrar.open()
        assert await process.registrar.registered(5)


async def test_a_control_plane_that_breaks_the_protocol_or_ends_the_watch_is_asked_again(caplog):
    listed = instance_to_proto(Instance("a", "h:1", 1, (AgentInfo("echo"),)))
    answers = iter(
        [
            [pb.WatchResponse(epoch="1", version=2)],
            [pb.WatchResponse(epoch="1", version=2, snapshot=True)],
            [pb.WatchResponse(epoch="1", version=3, snapshot=True, changed=[listed])],
        ]
    )

    class Foreign(RegistryService):
        async def Watch(self, request, context):  # noqa: N802  # named by the contract
            for answer in next(answers, []):
                yield answer

    server = grpc.aio.server()
    add_RegistryServiceServicer_to_server(Foreign(Registry("1", lambda: 0.0)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with discovering(f"127.0.0.1:{port}") as discovery:
        await shown(discovery, "a")
    await server.stop(None)
    assert "gave no snapshot" in caplog.text


async def test_closing_with_no_control_plane_there_ends_soon():
    registrar = Registrar(["127.0.0.1:1"], lambda: Instance("a", "h:1", 0, (AgentInfo("echo"),)))
    await registrar.open()
    async with asyncio.timeout(5):
        await registrar.close()


async def test_who_waits_for_a_change_hears_of_the_end():
    async with discovering("127.0.0.1:1") as discovery:
        waiting = asyncio.create_task(discovery.changed(0))
        await asyncio.sleep(0)
    with pytest.raises(WrongState):
        await waiting
    with pytest.raises(WrongState):
        await discovery.open()


@asynccontextmanager
async def watching_by_name(*addresses: str) -> AsyncIterator[Discovery]:
    discovery = Discovery(addresses, by_name=True)
    await discovery.open()
    try:
        assert await discovery.first_snapshot(5)
        yield discovery
    finally:
        await discovery.close()


async def test_a_client_hears_only_the_instances_of_the_names_it_asks_for(control_plane: ControlPlane):
    address = control_plane.address
    async with (
        registered(address, key="a", agents=("echo",)),
        registered(address, key="b", agents=("upper",)) as other,
        watching_by_name(address) as discovery,
    ):
        assert discovery.directory.names() == ["echo", "upper"]
        assert discovery.directory.all() == ()
        discovery.follow(["echo"])
        await shown(discovery, "a")
        other.agents = ("upper", "lower")
        await other.registrar.announce()
        async with asyncio.timeout(10):
            while "lower" not in discovery.directory.names():
                await discovery.changed(discovery.directory.version)
        await shown(discovery, "a")
        assert await discovery.heard_all(10)
        assert {instance.instance_id for instance in discovery.directory.all()} == {"a", "b"}


async def test_who_asks_for_all_waits_for_those_control_planes_that_can_be_reached(control_plane: ControlPlane):
    async with (
        registered(control_plane.address, key="a"),
        watching_by_name(control_plane.address, "127.0.0.1:1") as mesh,
    ):
        assert await mesh.heard_all(10)
        assert {instance.instance_id for instance in mesh.directory.all()} == {"a"}


async def test_who_asks_for_all_is_told_when_nobody_answers():
    discovery = Discovery(["127.0.0.1:1"], by_name=True)
    await discovery.open()
    assert not await discovery.heard_all(10)
    await discovery.close()


async def test_names_asked_for_one_after_the_other_are_all_heard(control_plane: ControlPlane):
    address = control_plane.address
    names = tuple(f"agent{index}" for index in range(20))
    async with AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(registered(address, key=name, agents=(name,)))
        discovery = await stack.enter_async_context(watching_by_name(address))
        for name in names:
            discovery.follow([name])
            await asyncio.sleep(0)
        await shown(discovery, *names)


async def test_a_watch_by_name_survives_a_restart_and_hears_of_new_names_while_one_control_plane_is_away(
    control_plane: ControlPlane,
):
    other = ControlPlane()
    await other.start()
    try:
        addresses = (control_plane.address, other.address)
        async with (
            registered(*addresses, key="a"),
            registered(*addresses, key="b", agents=("upper",)),
            watching_by_name(*addresses) as discovery,
        ):
            discovery.follow(["echo"])
            await shown(discovery, "a")
            await control_plane.kill()
            discovery.follow(["upper"])
            await shown(discovery, "a", "b")
            await other.kill()
            assert discovery.directory.names() == ["echo", "upper"]
            await control_plane.start()
            await other.start()
            await shown(discovery, "a", "b")
    finally:
        await other.kill()
