"""Processes that die: whose calls fail, whose are repeated, and how soon the caller knows."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic

import grpc.aio
import pytest
from aixgo import DistributedRuntime
from aixgo.errors import AgentUnavailable, InstanceLost, RegistryUnavailable, Unavailable
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub

from tests.contract.host import LEASE
from tests.contract.requirements import promise
from tests.support import Load, eventually, fleet, seconds_of, start_host, start_registry

BOUND = 15.0
"""Seconds within which a caller must know; the design says 2, machines are busy."""


@promise("fleet.replicas", "fleet.killed")
async def test_killing_one_of_two_instances_fails_no_idempotent_call(transport: str) -> None:
    with fleet(["upper"], ["upper"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            async with Load(lambda: runtime.call("upper", "x", timeout=BOUND)) as load:
                await load.more(200)
                assert {reply.metadata["pid"] for reply in load.replies} == {host.pid for host in running.hosts}
                running.hosts[0].kill()
                await load.more(600)
            assert load.errors == []
            assert {reply.metadata["pid"] for reply in load.replies[-100:]} == {running.hosts[1].pid}


@promise("fleet.frozen")
async def test_an_instance_that_stands_still_fails_no_idempotent_call_and_comes_back(transport: str) -> None:
    with fleet(["upper"], ["upper"]) as running:
        frozen = running.hosts[0]
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            async with Load(lambda: runtime.call("upper", "x", timeout=60.0)) as load:
                await load.more(100)
                frozen.freeze()
                await load.more(500)  # the others go on; the calls that are stuck end when the connection is given up
            assert load.errors == []
            frozen.thaw()
            async with Load(lambda: runtime.call("upper", "x", timeout=60.0)) as load:
                await eventually(lambda: any(reply.metadata["pid"] == frozen.pid for reply in load.replies))
            assert load.errors == []


@promise("fleet.control_plane")
async def test_killing_the_control_plane_fails_no_call_and_it_learns_everything_anew(transport: str) -> None:
    with fleet(["upper"], ["upper", "reverse"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:

            async def call() -> bool:
                await runtime.call("upper", "x", timeout=BOUND)
                return runtime.list_agents() == ["reverse", "upper"]

            async with Load(call) as load:
                await load.more(100)
                running.registry.kill()
                killed = monotonic()
                await eventually(lambda: monotonic() > killed + LEASE)  # past every lease that it had granted
                await load.more(200)
                with start_registry(running.control_plane) as registry:
                    registry.wait_ready()
                    back = monotonic()
                    expected = {host.instance_id for host in running.hosts}
                    await all_listed(running.control_plane, expected, until=back + LEASE)
                    await load.more(200)
            assert load.errors == []
            assert all(load.replies), "the caller forgot agents that had only to register anew"
            assert (await runtime.call("reverse", "ab", timeout=BOUND)).payload == "ba"


@promise("fleet.two_control_planes", "fleet.control_plane")
async def test_with_two_control_planes_one_may_die_and_new_instances_are_found() -> None:
    with start_registry() as first, start_registry() as second:
        both = [first.wait_ready().address, second.wait_ready().address]
        with start_host(["upper"], control_plane=both) as host:
            host.wait_ready()
            async with DistributedRuntime(control_plane=both) as runtime:
                await runtime.call("upper", "x", timeout=BOUND)
                first.kill()
                with start_host(["reverse"], control_plane=both) as newcomer:
                    await asyncio.to_thread(newcomer.wait_ready)
                    await eventually(lambda: runtime.list_agents() == ["reverse", "upper"])
                    assert (await runtime.call("reverse", "ab", timeout=BOUND)).payload == "ba"


@promise("fleet.lost")
async def test_a_killed_only_instance_is_unavailable_within_bounds(transport: str) -> None:
    with fleet(["upper"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            await runtime.call("upper", "x", timeout=BOUND)
            running.hosts[0].kill()
            for _ in range(2):  # while it is still listed, and once more
                with seconds_of() as taken, pytest.raises(AgentUnavailable, match="no ready instance"):
                    await runtime.call("upper", "x")
                assert taken.seconds < BOUND


@promise("fleet.not_repeated")
async def test_a_call_that_broke_off_is_not_repeated(transport: str, tmp_path: Path) -> None:
    executions = tmp_path / "executions"
    with fleet(["mortal"], ["mortal"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            with seconds_of() as taken, pytest.raises(InstanceLost) as caught:
                await runtime.call("mortal", str(executions))
            assert taken.seconds < BOUND
            assert caught.value.usage.incomplete
            assert len(executions.read_text().split()) == 1
            assert (await runtime.call("mortal", str(executions), timeout=BOUND)).payload == "survived"


@promise("fleet.repeated")
async def test_a_call_that_broke_off_is_repeated_when_the_agent_is_idempotent(transport: str, tmp_path: Path) -> None:
    executions = tmp_path / "executions"
    with fleet(["mortal-again"], ["mortal-again"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            reply = await runtime.call("mortal-again", str(executions), timeout=BOUND)
    assert reply.payload == "survived"
    assert reply.usage.incomplete
    pids = {int(line) for line in executions.read_text().split()}
    assert pids == {host.pid for host in running.hosts}


@promise("fleet.broken_stream", "stream.terminal")
async def test_a_stream_that_is_cut_off_ends_with_one_typed_error(transport: str) -> None:
    with fleet(["endless"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            async with runtime.stream("endless", "x") as events:
                await anext(events)
                running.hosts[0].kill()
                errors: list[Unavailable] = []
                for _ in range(2):
                    with pytest.raises(Unavailable) as caught:  # the loop is what raises
                        async for _event in events:
                            pass
                    errors.append(caught.value)
            assert errors[0] is errors[1]
            assert errors[0].agent_path == ("endless",)


@promise("fleet.registry")
async def test_without_a_control_plane_the_caller_is_told_so_within_bounds() -> None:
    async with DistributedRuntime(control_plane=["127.0.0.1:1"]) as runtime:
        with seconds_of() as taken, pytest.raises(RegistryUnavailable, match="no control plane"):
            await runtime.call("upper", "x")
        assert taken.seconds < BOUND
        assert runtime.list_agents() == []


async def all_listed(control_plane: str, instances: set[str], *, until: float) -> None:
    """Return when the control plane lists these instances; raises AssertionError when it does not by `until`."""
    async with grpc.aio.insecure_channel(control_plane) as channel:
        stub = RegistryServiceStub(channel)
        listed: set[str] = set()
        while listed != instances:
            answer = await stub.List(registry_pb2.ListRequest(), wait_for_ready=True, timeout=BOUND)
            listed = {instance.instance_id for instance in answer.instances}
            assert monotonic() < until, f"listed: {listed}, expected: {instances}"
