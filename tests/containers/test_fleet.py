"""A fleet of containers: calls through the gateway, scaling, and everything that may happen to a container."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from aixgo import DistributedRuntime, MemberFinished, Message
from aixgo.errors import DeadlineExceeded, Unavailable

from tests.containers.docker import IMAGE, Compose, docker
from tests.support import POLL, Load, eventually, seconds_of

BOUND = 60.0
"""Seconds that a call may take; a connection whose other end is gone without a word is given up after about 15."""
TAIL = 100
OPEN = ("--env", "AIXGO_ALLOW_INSECURE=1")


@pytest.fixture
async def caller(fleet: Compose) -> AsyncIterator[DistributedRuntime]:
    """A caller outside the mesh, who knows the gateway only."""
    await asyncio.to_thread(fleet.up)
    gateway = await asyncio.to_thread(fleet.gateway)
    async with DistributedRuntime(connect=dict.fromkeys(("analyst", "sentiment", "triage"), gateway)) as runtime:
        yield runtime


def calls(caller: DistributedRuntime) -> Load:
    """Steady calls of `analyst`."""
    return Load(lambda: caller.call("analyst", "x", timeout=BOUND))


def hosts(replies: list[Message]) -> Counter[str]:
    """How many of these replies came from which container."""
    return Counter(str(reply.metadata["host"]) for reply in replies)


async def run(*arguments: str) -> str:
    """Run `docker ...` while load goes on."""
    return await asyncio.to_thread(docker, *arguments)


async def running(fleet: Compose, service: str = "analyst") -> list[str]:
    """The containers of a service."""
    return await asyncio.to_thread(fleet.containers, service)


async def test_a_call_through_the_gateway_reaches_the_whole_tree(caller: DistributedRuntime) -> None:
    async with caller.stream("triage", "hello", timeout=BOUND) as events:
        finished = {event.path[-1] async for event in events if isinstance(event, MemberFinished)}
    assert finished == {"analyst", "sentiment", "ticket"}
    assert events.result is not None
    assert events.result.payload == {"ticket": {"analyst": "hello", "sentiment": "positive"}}
    assert events.result.usage.llm_calls == 1


# Here, while no other container has gone yet: then the engine gives the container the address that it had.
async def test_a_cut_network_fails_no_idempotent_call_and_heals(fleet: Compose, caller: DistributedRuntime) -> None:
    cut, *_ = await running(fleet)
    async with calls(caller) as load:
        await eventually(lambda: cut in hosts(load.replies), BOUND)
        await run("network", "disconnect", fleet.network, cut)
        await load.more(300)
        assert cut not in hosts(load.replies[-TAIL:])
        await run("network", "connect", fleet.network, cut)
        await eventually(lambda: cut in hosts(load.replies[-TAIL:]), BOUND)
    assert load.errors == []


async def test_containers_that_are_added_are_used(fleet: Compose, caller: DistributedRuntime) -> None:
    assert len(await running(fleet)) == 2
    await asyncio.to_thread(fleet.up, "--scale", "analyst=3")
    expected = set(await running(fleet))
    assert len(expected) == 3
    async with calls(caller) as load:
        await eventually(lambda: hosts(load.replies).keys() == expected, BOUND)
        before = hosts(load.replies)
        await load.more(300)
    after = hosts(load.replies) - before
    assert load.errors == []
    assert after.keys() == expected
    assert min(after.values()) > 30, "the calls are not spread"


async def test_killing_a_container_fails_no_idempotent_call(fleet: Compose, caller: DistributedRuntime) -> None:
    killed, *others = await running(fleet)
    async with calls(caller) as load:
        await eventually(lambda: killed in hosts(load.replies), BOUND)
        await run("kill", "--signal", "KILL", killed)
        await load.more(500)
    assert load.errors == []
    assert hosts(load.replies[-TAIL:]).keys() <= set(others)


async def test_replacing_every_container_fails_no_call(fleet: Compose, caller: DistributedRuntime) -> None:
    old = await running(fleet)
    async with calls(caller) as load:
        await asyncio.to_thread(fleet.up, "--no-recreate", "--scale", f"analyst={2 * len(old)}")
        for container in old:
            await run("stop", container)
            await run("rm", container)
        await load.more(TAIL * 2)
    assert load.errors == []
    assert hosts(load.replies[-TAIL:]).keys().isdisjoint(old)


async def test_a_call_of_a_paused_container_ends_typed_and_it_comes_back(
    fleet: Compose, caller: DistributedRuntime
) -> None:
    await caller.call("sentiment", "x", timeout=BOUND)
    (paused,) = await running(fleet, "sentiment")
    await run("pause", paused)
    try:
        with seconds_of() as taken, pytest.raises((DeadlineExceeded, Unavailable)):
            await caller.call("sentiment", "x", timeout=3)
        assert taken.seconds < 15
    finally:
        await run("unpause", paused)
    await healthy(paused)
    assert (await caller.call("sentiment", "x", timeout=BOUND)).text == "positive"


async def test_without_the_control_plane_calls_go_on_and_it_learns_everything_anew(
    fleet: Compose, caller: DistributedRuntime
) -> None:
    async with calls(caller) as load:
        await load.more(TAIL)
        await asyncio.to_thread(fleet, "kill", "control-plane")
        await load.more(300)
        await asyncio.to_thread(fleet.up, "--no-recreate")
        await load.more(300)
    assert load.errors == []
    async with asyncio.timeout(BOUND):
        while await listed(fleet) != {"analyst", "sentiment", "ticket", "triage"}:
            pass


async def test_a_container_that_comes_back_at_another_address_is_used_again(
    fleet: Compose, caller: DistributedRuntime
) -> None:
    moved, *_ = await running(fleet)
    before = await address(moved)
    await run("network", "disconnect", fleet.network, moved)
    squatter = await run("run", "--detach", "--rm", *OPEN, "--network", fleet.network, IMAGE, "controlplane")
    try:
        await run("network", "connect", fleet.network, moved)
        assert await address(moved) != before
    finally:
        await run("rm", "--force", squatter)
    async with calls(caller) as load:
        await eventually(lambda: moved in hosts(load.replies), 30)
    assert load.errors == []


async def address(container: str) -> str:
    """The address of a container in its one network."""
    return await run("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container)


async def healthy(container: str) -> None:
    """Return when the engine finds a container healthy."""
    async with asyncio.timeout(BOUND):
        status = ("inspect", "--format", "{{.State.Health.Status}}", container)
        while await run(*status) != "healthy":  # noqa: ASYNC110  # the engine tells nobody when
            await asyncio.sleep(POLL)


async def listed(fleet: Compose) -> set[str]:
    """The agents that the control plane lists, asked from inside."""
    said = await asyncio.to_thread(fleet, "exec", "--no-TTY", "gateway", "aixgo", "agents", "--json")
    return {agent["name"] for agent in json.loads(said)}
