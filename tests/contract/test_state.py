"""Health and metrics of a runtime, and its life."""

from __future__ import annotations

import pytest
from aixgo import Agent, Message
from aixgo.errors import AixgoError, WrongState

from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise


class Moody(Agent):
    """An agent that is ready when the test says so."""

    name = "moody"
    in_the_mood = True

    async def execute(self, message: Message) -> Message:
        return message

    def ready(self) -> bool:
        return self.in_the_mood


@promise("state.health")
async def test_health_asks_each_agent_of_this_process(mesh: Mesh) -> None:
    moody = Moody()
    mesh.runtime.register(moody)
    assert (await mesh.runtime.health()).agents["moody"] is True
    moody.in_the_mood = False
    health = await mesh.runtime.health()
    assert (health.ready, health.agents["moody"]) == (False, False)


@promise("state.metrics")
async def test_calls_are_counted_by_their_outcome(mesh: Mesh) -> None:
    before = mesh.runtime.metrics()
    await mesh.runtime.call("upper", "x")
    await mesh.runtime.call("reverse", "x")
    for name in ("boom", "nobody"):
        with pytest.raises(AixgoError):
            await mesh.runtime.call(name, "x")
    after = mesh.runtime.metrics()
    assert after.calls_succeeded >= before.calls_succeeded + 2
    assert after.calls_failed >= before.calls_failed + 2


@promise("state.metrics")
async def test_streams_are_counted_as_calls(mesh: Mesh) -> None:
    before = mesh.runtime.metrics()
    async with mesh.runtime.stream("words", "a b") as events:
        async for _ in events:
            pass
    async with mesh.runtime.stream("endless", mesh.key) as events:
        await anext(events)
    after = mesh.runtime.metrics()
    assert (after.calls_succeeded - before.calls_succeeded, after.calls_failed - before.calls_failed) == (1, 1)


@promise("state.metrics")
async def test_latencies_are_measured_in_seconds(mesh: Mesh) -> None:
    for _ in range(20):
        await mesh.runtime.call("upper", "x")
    metrics = mesh.runtime.metrics()
    assert 0.0 < metrics.p50_call_latency <= metrics.p99_call_latency < BOUND
    assert 0.0 < metrics.avg_call_latency < BOUND


@promise("state.metrics")
async def test_agents_of_this_process_are_counted(mesh: Mesh) -> None:
    before = mesh.runtime.metrics().active_agents
    mesh.runtime.register(Moody())
    assert mesh.runtime.metrics().active_agents == before + 1
    await mesh.runtime.unregister("moody")
    assert mesh.runtime.metrics().active_agents == before


@promise("state.metrics")
async def test_messages_sent_and_received_are_counted(mesh: Mesh) -> None:
    mesh.runtime.register(Moody())
    before = mesh.runtime.metrics()
    await mesh.runtime.send("moody", "one")
    await mesh.runtime.send("collector", Message("two", session_id=mesh.key))
    async for delivery in mesh.runtime.recv("moody"):
        async with delivery:
            break
    await mesh.noted(1)
    after = mesh.runtime.metrics()
    assert after.messages_sent == before.messages_sent + 2
    assert after.messages_received >= before.messages_received + 1


@promise("state.health")
async def test_a_runtime_cannot_be_entered_twice(mesh: Mesh) -> None:
    with pytest.raises(WrongState):
        await mesh.runtime.__aenter__()
    assert (await mesh.runtime.call("upper", "still", timeout=BOUND)).payload == "STILL"
