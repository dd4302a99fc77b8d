"""The registry over real gRPC: what instances, watchers and tools get, bad input included."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from aixgo.errors import AixgoError, InvalidInput, LimitExceeded, MessageTooLarge, WrongState
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.v1 import agent_pb2
from aixgo.v1 import registry_pb2 as pb
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub, add_RegistryServiceServicer_to_server
from aixgo.wire.instances import MAX_INSTANCE_BYTES, instance_from_proto, instance_to_proto
from aixgo.wire.status import from_rpc
from aixgo_controlplane import service
from aixgo_controlplane.main import run_control_plane, sweep
from aixgo_controlplane.registry import Registry
from aixgo_controlplane.room import RegistryLimits
from aixgo_controlplane.service import RegistryService, host_of
from aixgo_controlplane.tombstones import NAME_BYTES
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc


def instance(key="a", seq=1, address="h:1", agents=("echo",)) -> Instance:
    return Instance(key, address, seq, tuple(AgentInfo(name) for name in agents))


@pytest.fixture
def registry() -> Registry:
    return Registry("epoch-1", lambda: 0.0, limits=RegistryLimits(behind=4))


@pytest.fixture
async def address(registry: Registry) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_RegistryServiceServicer_to_server(RegistryService(registry), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    registry.close()
    await server.stop(None)


@pytest.fixture
async def stub(address: str) -> AsyncIterator[RegistryServiceStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield RegistryServiceStub(channel)


async def error_of(call) -> AixgoError | None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc(caught.value)


def announce(instance: Instance, lease_ms: int = 0) -> pb.RegisterRequest:
    return pb.RegisterRequest(instance=instance_to_proto(instance), lease_ms=lease_ms)


async def test_registering_answers_lease_epoch_and_address(stub: RegistryServiceStub, registry: Registry):
    response = await stub.Register(announce(instance(address=":7"), 5000))
    assert (response.lease_ms, response.epoch, response.address) == (5000, "epoch-1", "127.0.0.1:7")
    assert registry.list() == (instance(address="127.0.0.1:7"),)


async def test_an_instance_crosses_the_wire_unchanged(stub: RegistryServiceStub):
    agents = (AgentInfo("echo", "llm", True, "parallel", ("x", "y"), False),)
    whole = Instance("a", "[fe80::1]:7", 9, agents, InstanceState.NOT_READY, ("plain", "session"), "2.0", {"pid": "1"})
    await stub.Register(announce(whole))
    listed = await stub.List(pb.ListRequest())
    resolved = await stub.Resolve(pb.ResolveRequest(agent="echo"))
    assert [instance_from_proto(found) for found in listed.instances] == [whole]
    assert [instance_from_proto(found) for found in resolved.instances] == [whole]
    assert (listed.version, listed.epoch) == (1, "epoch-1")


async def test_renewing_answers_for_each_request_whether_the_lease_is_known(stub: RegistryServiceStub):
    await stub.Register(announce(instance(seq=3)))
    call = stub.Renew()
    try:
        known: list[bool] = []
        for key, seq in (("a", 3), ("a", 2), ("b", 3)):
            await call.write(pb.RenewRequest(instance_id=key, seq=seq))
            answer = await call.read()
            assert answer.instance_id == key
            known.append(answer.known)
        assert known == [True, False, False]
    finally:
        call.cancel()


async def test_deregistering_says_whether_the_instance_was_there(stub: RegistryServiceStub):
    await stub.Register(announce(instance()))
    assert (await stub.Deregister(pb.DeregisterRequest(instance_id="a", seq=2))).found
    assert not (await stub.Deregister(pb.DeregisterRequest(instance_id="a", seq=3))).found
    assert isinstance(await error_of(stub.Deregister(pb.DeregisterRequest(seq=3))), InvalidInput)
    assert isinstance(await error_of(stub.Deregister(pb.DeregisterRequest(instance_id="i" * 129, seq=3))), InvalidInput)


async def test_a_lower_seq_is_a_failed_precondition_that_names_the_known_one(stub: RegistryServiceStub):
    await stub.Register(announce(instance(seq=5)))
    for call in (
        stub.Register(announce(instance(seq=4))),
        stub.Deregister(pb.DeregisterRequest(instance_id="a", seq=4)),
    ):
        error = await error_of(call)
        assert isinstance(error, WrongState)
        assert error.fields == {"seq": 5}


async def test_a_negative_lease_is_refused(stub: RegistryServiceStub):
    error = await error_of(stub.Register(announce(instance(), -1)))
    assert isinstance(error, InvalidInput)
    assert "lease_ms" in error.message


async def test_a_watch_shows_a_snapshot_and_then_changes(stub: RegistryServiceStub, registry: Registry):
    registry.grant(instance("a"))
    call = stub.Watch(pb.WatchRequest())
    try:
        first = await call.read()
        assert first.snapshot
        assert [found.instance_id for found in first.changed] == ["a"]
        assert (first.epoch, first.lease_ms) == ("epoch-1", 10_000)
        registry.revoke("a", 2)
        second = await call.read()
        assert not second.snapshot
        assert [(gone.instance_id, gone.seq, gone.expired) for gone in second.removed] == [("a", 2, False)]
        assert second.version > first.version
    finally:
        call.cancel()


async def test_a_watch_of_too_many_names_is_refused(stub: RegistryServiceStub):
    call = stub.Watch(pb.WatchRequest(agents=[f"n{i}" for i in range(1001)]))
    assert isinstance(await error_of(call.read()), InvalidInput)


async def test_a_watch_of_names_that_no_agent_can_have_is_refused(stub: RegistryServiceStub):
    error = await error_of(stub.Watch(pb.WatchRequest(agents=["a", "n" * 1025])).read())
    assert isinstance(error, InvalidInput)
    assert "agents[1]" in error.message


async def test_the_names_of_all_watches_together_are_bounded_and_given_back(
    stub: RegistryServiceStub, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service, "MAX_WATCHED_BYTES", 2 * (NAME_BYTES + 4))
    first = stub.Watch(pb.WatchRequest(agents=["echo", "echo"]))
    await first.read()
    error = await error_of(stub.Watch(pb.WatchRequest(agents=["more"])).read())
    assert isinstance(error, LimitExceeded)
    assert error.fields == {"field": "agents", "limit": 2 * (NAME_BYTES + 4)}
    first.cancel()

    async def again() -> bool:
        call = stub.Watch(pb.WatchRequest(agents=["more"]))
        try:
            return (await call.read()).snapshot
        except grpc.aio.AioRpcError:
            return False
        finally:
            call.cancel()

    async with asyncio.timeout(5):
        while not await again():  # noqa: ASYNC110  # nobody tells when the server has noticed that the first one left
            await asyncio.sleep(0.01)


async def test_what_is_too_large_to_be_listed_is_refused_by_field(stub: RegistryServiceStub, registry: Registry):
    agents = [agent_pb2.AgentDescriptor(name=f"a{n}", agents=["m" * 250] * 900) for n in range(4)]
    large = pb.Instance(instance_id="large", address="h:1", seq=1, agents=agents)
    error = await error_of(stub.Register(pb.RegisterRequest(instance=large)))
    assert isinstance(error, MessageTooLarge)
    assert error.fields == {"field": "instance.agents", "limit": MAX_INSTANCE_BYTES}
    assert registry.list() == ()


async def test_instances_that_come_and_go_leave_no_encoded_ones_behind(
    stub: RegistryServiceStub, registry: Registry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(service, "SPARE_BYTES", 20_000)
    labels = {str(index): "x" * 1000 for index in range(10)}
    seen: list[weakref.ref[Instance]] = []
    for number in range(20):
        listed = Instance(f"i{number}", "h:1", 1, (AgentInfo("echo"),), labels=labels)
        seen.append(weakref.ref(listed))
        registry.grant(listed)
        assert len((await stub.Resolve(pb.ResolveRequest(agent="echo"))).instances) == 1
        registry.revoke(listed.instance_id, 2)
        del listed
    assert sum(each() is not None for each in seen) < 5


async def test_a_watcher_that_is_too_slow_is_cut_off(stub: RegistryServiceStub, registry: Registry):
    call = stub.Watch(pb.WatchRequest())
    await call.read()
    for seq in range(1, 10):
        registry.grant(instance(seq=seq))
    assert isinstance(await error_of(call.read()), LimitExceeded)


async def test_a_watcher_that_does_not_read_holds_nobody_up_and_is_cut_off(address: str):
    labels = {str(index): "x" * 1000 for index in range(60)}  # so that few changes fill what gRPC buffers
    async with grpc.aio.insecure_channel(address) as idle, grpc.aio.insecure_channel(address) as busy:
        watching, read = RegistryServiceStub(idle).Watch(pb.WatchRequest(agents=["echo"], by_name=True)), 0
        await watching.read()
        for seq in range(1, 101):
            listed = Instance("a", "h:1", seq, (AgentInfo("echo"),), labels=labels)
            await RegistryServiceStub(busy).Register(announce(listed))
        error = None
        while error is None:
            try:
                await watching.read()
                read += 1
            except grpc.aio.AioRpcError as ended:
                error = from_rpc(ended)
        assert isinstance(error, LimitExceeded)
        assert read < 100


async def test_discovery_begins_anew_when_it_was_cut_off(address: str, registry: Registry):
    discovery = Discovery([address], random=lambda: 0.0)
    await discovery.open()
    assert await discovery.first_snapshot(5)
    for seq in range(1, 10):
        registry.grant(instance(seq=seq))
    async with asyncio.timeout(5):
        await discovery.changed(0)
    assert [found.seq for found in discovery.directory.all()] == [9]
    await discovery.close()


async def test_many_watchers_see_the_same_instance_as_it_changes(stub: RegistryServiceStub, registry: Registry):
    calls = [stub.Watch(pb.WatchRequest()) for _ in range(5)]
    for call in calls:
        await call.read()
    for seq in (1, 2):
        registry.grant(instance(seq=seq))
        for call in calls:
            assert [found.seq for found in (await call.read()).changed] == [seq]
    for call in calls:
        call.cancel()


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:4242", "10.0.0.7"),
        ("ipv6:[::1]:4242", "[::1]"),
        ("ipv6:%5Bfe80::1%5D:4242", "[fe80::1]"),
        ("ipv6:[::ffff:10.0.0.7]:4242", "10.0.0.7"),
    ],
)
def test_the_host_of_a_peer_is_written_as_addresses_write_it(peer: str, host: str):
    assert host_of(peer) == host


def test_a_peer_without_a_host_needs_an_address_with_one():
    with pytest.raises(InvalidInput, match="host:port"):
        host_of("unix:/tmp/socket")


async def test_a_control_plane_serves_health_and_reflection_and_ends_soon_with_a_watch_open():
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    plane = asyncio.create_task(run_control_plane("127.0.0.1:0", ready=ready.set_result, stop=stop))
    async with grpc.aio.insecure_channel(await ready) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await info.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await info.read()).list_services_response.service}
        assert {"aixgo.v1.RegistryService", "grpc.health.v1.Health"} <= listed
        info.cancel()
        watch = RegistryServiceStub(channel).Watch(pb.WatchRequest())
        await watch.read()
        stop.set()
        async with asyncio.timeout(5):
            await plane
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_port_in_use_is_a_clear_error(address: str):
    with pytest.raises(WrongState, match=rf"{address}.*in use"):
        await run_control_plane(address, stop=asyncio.Event())


@pytest.mark.parametrize("listen", ["", "50050", "host:", "host:70000", "host:x"])
async def test_an_address_that_is_none_is_a_clear_error(listen: str):
    with pytest.raises(InvalidInput, match="host:port"):
        await run_control_plane(listen, stop=asyncio.Event())


async def test_a_control_plane_that_stood_still_does_not_expire_its_instances():
    now = 0.0
    naps = iter([0.25, 60.0, 0.25, 10.0, 0.25])
    seen: list[int] = []

    async def sleep(_: float) -> None:
        nonlocal now
        seen.append(len(registry))
        nap = next(naps, None)
        if nap is None:
            raise asyncio.CancelledError
        now += nap

    registry = Registry("e", lambda: now, lease=5)
    registry.grant(instance())
    with pytest.raises(asyncio.CancelledError):
        await sweep(registry, lambda: now, sleep)
    assert seen == [1] * 6
