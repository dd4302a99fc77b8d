"""What the prober makes of healthy, unwell, silent and foreign instances."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo_controlplane.prober import Prober
from aixgo_controlplane.registry import Registry
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Process:
    """A server with a health service whose answer tests set, or with none."""

    def __init__(self) -> None:
        self.health = health.aio.HealthServicer()
        self.server = grpc.aio.server()

    async def start(self, *, with_health: bool = True) -> str:
        if with_health:
            health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        return f"127.0.0.1:{port}"


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    process = Process()
    yield process
    await process.server.stop(None)


@pytest.fixture
def registry() -> Registry:
    return Registry("e", lambda: 0.0)


@pytest.fixture
async def prober(registry: Registry) -> AsyncIterator[Prober]:
    prober = Prober(registry, timeout=5, interval=0)
    yield prober
    for found in registry.list():
        registry.revoke(found.instance_id, found.seq + 1)
    await prober.sweep()
    assert len(prober) == 0


def list_at(registry: Registry, address: str, key: str = "a", seq: int = 1, state=InstanceState.READY) -> None:
    registry.grant(Instance(key, address, seq, (AgentInfo("echo"),), state))


def states(registry: Registry) -> list[InstanceState]:
    return [found.state for found in registry.list()]


async def test_a_serving_instance_stays_ready(registry: Registry, prober: Prober, process: Process):
    list_at(registry, await process.start())
    await prober.sweep()
    assert states(registry) == [InstanceState.READY]


async def test_not_serving_counts_at_once_and_so_does_serving_again(registry, prober, process):
    list_at(registry, await process.start())
    await process.health.set("", NOT_SERVING)
    await prober.sweep()
    assert states(registry) == [InstanceState.NOT_READY]
    await process.health.set("", SERVING)
    await prober.sweep()
    assert states(registry) == [InstanceState.READY]


async def test_silence_counts_the_second_time(registry: Registry, prober: Prober):
    list_at(registry, "127.0.0.1:1")
    await prober.sweep()
    assert states(registry) == [InstanceState.READY]
    await prober.sweep()
    assert states(registry) == [InstanceState.NOT_READY]


async def test_an_instance_without_a_health_service_counts_as_healthy(registry, prober, process):
    list_at(registry, await process.start(with_health=False))
    await prober.sweep()
    await prober.sweep()
    assert states(registry) == [InstanceState.READY]


async def test_an_instance_that_says_it_is_not_ready_is_not_made_ready_by_a_probe(registry, prober, process):
    list_at(registry, await process.start(), state=InstanceState.NOT_READY)
    await prober.sweep()
    assert states(registry) == [InstanceState.NOT_READY]


async def test_one_channel_an_instance_closed_when_it_drains_or_is_gone(registry, prober, process):
    address = await process.start()
    for key in ("a", "b", "c"):
        list_at(registry, address, key)
    await prober.sweep()
    assert len(prober) == 3
    list_at(registry, address, "a", seq=2, state=InstanceState.DRAINING)
    registry.revoke("b", 2)
    await prober.sweep()
    assert len(prober) == 1


async def test_an_instance_that_moves_is_probed_at_its_new_address(registry, prober, process):
    list_at(registry, "127.0.0.1:1")
    await prober.sweep()
    await prober.sweep()
    list_at(registry, await process.start(), seq=2)
    await prober.sweep()
    assert states(registry) == [InstanceState.READY]


async def test_suspects_are_asked_first(registry: Registry, process: Process):
    address = await process.start()
    asked: list[str] = []

    class Recording(Prober):
        async def _probe(self, instance_id, probed, check):
            asked.append(instance_id)
            await super()._probe(instance_id, probed, check)

    prober = Recording(registry, timeout=5, interval=0)
    for key in ("a", "b"):
        list_at(registry, address, key)
    list_at(registry, "127.0.0.1:1", "dead")
    await prober.sweep()
    asked.clear()
    await prober.sweep()
    assert asked[0] == "dead"
    await prober._close(["a", "b", "dead"])


async def test_running_probes_until_it_is_cancelled_and_then_closes_its_channels(registry, process):
    address = await process.start()
    await process.health.set("", NOT_SERVING)
    list_at(registry, address)
    slept: list[float] = []

    clock = Clock()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        if len(slept) == 3:
            raise RuntimeError("enough")

    prober = Prober(registry, interval=0.5, clock=clock, sleep=sleep)
    with pytest.raises(RuntimeError, match="enough"):
        await prober.run()
    assert slept == [0.5, 0.5, 0.5]
    assert states(registry) == [InstanceState.NOT_READY]
    assert len(prober) == 0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Asking(Prober):
    """A prober that notes whom it would ask; `dead` do not answer."""

    dead: frozenset[str] = frozenset()

    async def _probe(self, instance_id, probed, check):
        self.asked = [*getattr(self, "asked", ()), instance_id]
        probed.failures = probed.failures + 1 if instance_id in self.dead else 0

    async def round(self) -> list[str]:
        self.asked = []
        await self.sweep()
        return self.asked


async def test_a_round_asks_no_more_than_its_budget_and_everybody_has_a_turn():
    clock = Clock()
    registry = Registry("e", clock, lease=300)
    for index in range(10):
        list_at(registry, "127.0.0.1:1", f"i{index}")
    prober = Asking(registry, budget=4, interval=5, clock=clock)
    assert await prober.round() == []
    clock.now += 5
    rounds = []
    for _ in range(3):
        rounds.append(await prober.round())
        clock.now += 1
    assert [len(asked) for asked in rounds] == [4, 4, 2]
    assert len({key for asked in rounds for key in asked}) == 10
    assert await prober.round() == []
    clock.now += 5
    assert await prober.round() == rounds[0]
    await prober._close(list(prober._channels))


async def test_who_renews_late_is_asked_at_once_and_suspects_leave_room_for_the_others():
    clock = Clock()
    registry = Registry("e", clock, lease=10)
    for index in range(6):
        list_at(registry, "127.0.0.1:1", f"i{index}")
    prober = Asking(registry, budget=20, interval=60, clock=clock)
    assert await prober.round() == []
    clock.now += 6
    for index in range(5):
        registry.renew(f"i{index}", 1)
    assert await prober.round() == ["i5"]
    prober.dead = frozenset(f"i{index}" for index in range(5))
    prober._budget = 4
    for index in range(6):
        registry.grant(Instance(f"i{index}", "127.0.0.1:1", 1, (AgentInfo("echo"),)), 300)
    clock.now += 55
    assert await prober.round() == ["i0", "i1", "i2", "i3"]
    clock.now += 6
    assert await prober.round() == ["i0", "i1", "i4", "i5"]
    assert await prober.round() == ["i2", "i3", "i0", "i1"]
    await prober._close(list(prober._channels))
