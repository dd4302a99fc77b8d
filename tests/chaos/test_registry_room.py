"""A control plane as a process of its own, filled to the brim: its memory, and what its watchers hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
from aixgo.errors import AixgoError, LimitExceeded, MessageTooLarge
from aixgo.runtime.contact import open_channel
from aixgo.runtime.discovery import Discovery
from aixgo.v1 import agent_pb2, registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.instances import MAX_INSTANCE_BYTES
from aixgo.wire.status import from_rpc
from aixgo_controlplane.room import DEFAULT_LIMITS

from tests.chaos.victims import Victim

ROOM = 400_000_000
"""Bytes that the process may take: what it lists is there as objects, as messages, and on its way to a watcher."""


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[Victim]:
    victim = Victim("control-plane", tmp_path, ("controlplane",), {})
    try:
        yield victim.wait_ready()
    finally:
        victim.stop()


@pytest.fixture
async def stub(control_plane: Victim) -> AsyncIterator[RegistryServiceStub]:
    async with open_channel(control_plane.ports["main"]) as channel:
        yield RegistryServiceStub(channel)


def registration(number: int, seq: int, *, agents: int = 1, members: int = 900) -> registry_pb2.RegisterRequest:
    """An instance of 250 bytes for each member of each of its agents."""
    described = [
        agent_pb2.AgentDescriptor(name=f"agent-{number}-{index}", agents=["m" * 247] * members)
        for index in range(agents)
    ]
    listed = registry_pb2.Instance(instance_id=f"i{number}", address="127.0.0.1:9", seq=seq, agents=described)
    return registry_pb2.RegisterRequest(instance=listed, lease_ms=300_000)


async def refusal(stub: RegistryServiceStub, request: registry_pb2.RegisterRequest) -> AixgoError | None:
    try:
        await stub.Register(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        failed = error
    else:
        return None
    refused = from_rpc(failed)
    assert refused is not None, f"untyped: {failed}"
    return refused


async def test_an_instance_of_megabytes_is_refused_by_field_as_often_as_it_comes(
    control_plane: Victim, stub: RegistryServiceStub
) -> None:
    await refusal(stub, registration(1, 1, agents=16))
    before = control_plane.usage().rss
    for seq in range(2, 60):
        error = await refusal(stub, registration(1, seq, agents=16))
        assert isinstance(error, MessageTooLarge)
        assert error.fields == {"field": "instance.agents", "limit": MAX_INSTANCE_BYTES}
    assert control_plane.usage().rss - before < 64_000_000


async def test_a_full_registry_is_bounded_refuses_by_type_and_still_tells_its_watchers_everything(
    control_plane: Victim, stub: RegistryServiceStub
) -> None:
    error, listed = None, 0
    while error is None:
        listed += 1
        error = await refusal(stub, registration(listed, 1))
    assert isinstance(error, LimitExceeded)
    assert error.fields == {"field": "bytes", "limit": DEFAULT_LIMITS.bytes}
    for seq in range(2, 6):  # in place of what they have announced, they fit
        for number in range(1, listed):
            assert await refusal(stub, registration(number, seq)) is None
    for by_name in (False, True):
        discovery = Discovery([control_plane.ports["main"]], by_name=by_name)
        await discovery.open()
        try:
            assert await discovery.heard_all(60)
            assert {each.seq for each in discovery.directory.all()} == {5}
            assert len(discovery.directory.all()) == listed - 1
        finally:
            await discovery.close()
    names = [f"agent-{number}-0" for number in range(1, listed)]
    async with asyncio.timeout(60):  # the largest update there is: all instances, and all agents once more
        watch = stub.Watch(registry_pb2.WatchRequest(agents=names, by_name=True))
        snapshot = await watch.read()
        watch.cancel()
    assert (len(snapshot.changed), len(snapshot.agents)) == (listed - 1, listed - 1)
    assert control_plane.usage().rss < ROOM
