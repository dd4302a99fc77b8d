"""Finding instances: fixed addresses first, then what discovery knows."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
from aixgo.errors import AgentNotFound, ConfigError, WrongState
from aixgo.runtime.channels import IDLE_AFTER, ChannelPool, channel_options
from aixgo.runtime.contact import open_channel
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.runtime.resolver import Resolver
from aixgo.runtime.updates import Update


def heard(*names: str) -> Discovery:
    discovery = Discovery(["cp:1"])
    agents = tuple(AgentInfo(name) for name in names)
    discovery.directory.apply("cp:1", Update("e", 1, True, (Instance("i", "box:9", 1, agents),), (), 10.0))
    return discovery


def test_a_fixed_address_wins_over_what_was_heard() -> None:
    resolver = Resolver(heard("a", "b"))
    resolver.connect("a", "other:1")
    assert [i.address for i in resolver.instances("a")] == ["other:1"]
    assert [i.address for i in resolver.instances("b")] == ["box:9"]
    assert resolver.names() == ["a", "b"]
    assert resolver.instance_ids() == {"a@other:1", "i"}
    assert resolver.disconnect("a") == "other:1"
    assert [i.address for i in resolver.instances("a")] == ["box:9"]


def test_without_control_plane_only_fixed_addresses_are_known() -> None:
    resolver = Resolver(None)
    resolver.connect("a", "[::1]:50051")
    assert (resolver.known("a"), resolver.known("b")) == (True, False)
    assert (resolver.fixed_names(), resolver.names(), list(resolver.instances("b"))) == (["a"], ["a"], [])
    assert resolver.info("b") is None


def test_an_unknown_fixed_address_cannot_be_forgotten() -> None:
    with pytest.raises(AgentNotFound, match="'a' is not connected") as caught:
        Resolver(None).disconnect("a")
    assert caught.value.fields == {"agent": "a"}


@pytest.mark.parametrize(
    "address", ["", "box", "box:", ":1", "box:0", "box:65536", "box:x", "box:²", "box:-1", "http://box:1"]
)
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(ConfigError, match="of agent 'a' is not usable; write host:port"):
        Resolver(None).connect("a", address)


def test_what_a_fixed_address_says_of_its_agent_is_known() -> None:
    resolver = Resolver(None)
    resolver.connect("a", "box:1")
    info = AgentInfo("a", idempotent=True)
    resolver.described("a", info)
    resolver.described("gone", info)
    assert resolver.info("a") == info
    assert resolver.instances("a")[0].instance_id == "a@box:1"
    assert not resolver.known("gone")


async def test_waiting_ends_when_something_changes_or_time_is_up() -> None:
    resolver = Resolver(None)
    await resolver.changed(0.0)
    waiting = asyncio.create_task(resolver.changed(60.0))
    await asyncio.sleep(0)
    resolver.connect("a", "box:1")
    await waiting


async def test_waiting_ends_with_an_error_when_discovery_is_closed() -> None:
    discovery = heard("a")
    resolver = Resolver(discovery)
    waiting = asyncio.create_task(resolver.changed(60.0))
    await asyncio.sleep(0)
    await discovery.close()
    with pytest.raises(WrongState, match="closed"):
        await waiting
    with pytest.raises(WrongState, match="closed"):
        await resolver.changed(60.0)


async def test_without_control_plane_there_is_nothing_to_wait_for() -> None:
    assert await Resolver(None).first_snapshot(60.0)
    assert await Resolver(heard("a")).first_snapshot(60.0)
    assert not await Resolver(Discovery(["cp:1"])).first_snapshot(0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_calls_to_one_address_share_a_channel() -> None:
    pool = ChannelPool(max_message_bytes=1000)
    one, other, elsewhere = pool.borrow("box:1"), pool.borrow("box:1"), pool.borrow("box:2")
    assert one is other
    assert one is not elsewhere
    assert (len(pool), one.calls) == (2, 2)
    await pool.close()
    assert len(pool) == 0


async def test_a_channel_is_closed_when_it_was_idle_for_long_and_not_while_a_call_is_out() -> None:
    clock = Clock()
    pool = ChannelPool(max_message_bytes=1000, clock=clock)
    busy, idle = pool.borrow("busy:1"), pool.borrow("idle:1")
    pool.give_back(idle)
    clock.now += IDLE_AFTER - 1
    await pool.close_idle()
    assert len(pool) == 2
    clock.now += 1
    await pool.close_idle()
    assert len(pool) == 1
    assert pool.borrow("busy:1") is busy
    assert pool.borrow("idle:1") is not idle
    await pool.close()


async def test_a_dropped_address_connects_anew_but_not_under_a_running_call() -> None:
    pool = ChannelPool(max_message_bytes=1000)
    channel = pool.borrow("box:1")
    await pool.drop("box:1")
    assert pool.borrow("box:1") is channel
    pool.give_back(channel)
    pool.give_back(channel)
    await pool.drop("box:1")
    await pool.drop("never:1")
    assert len(pool) == 0
    await pool.close()


async def test_a_closed_pool_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    pool = ChannelPool(max_message_bytes=1000)
    pool.borrow("box:1")
    await pool.close()
    await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() - before if not task.done()} == set()


def test_grpc_itself_retries_nothing_because_the_rules_are_ours() -> None:
    options = dict(channel_options(123))
    assert options["grpc.enable_retries"] == 0
    assert options["grpc.max_receive_message_length"] == options["grpc.max_send_message_length"] == 123


async def test_a_channel_to_a_control_plane_can_be_opened_before_it_is_there() -> None:
    channel = open_channel("127.0.0.1:1")
    assert isinstance(channel, grpc.aio.Channel)
    await channel.close()


def by_name(*agents: str) -> Discovery:
    """Discovery by name that has heard which agents there are."""
    discovery = Discovery(["cp:1"], by_name=True)
    infos = tuple(AgentInfo(name, role="llm") for name in agents)
    discovery.directory.apply("cp:1", Update("e", 1, True, (), (), 10.0, infos))
    return discovery


class Following(Discovery):
    """Discovery that notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(["cp:1"], by_name=True)
        self.asked: list[str] = []

    def follow(self, names) -> None:
        self.asked.extend(names)


def test_the_instances_of_a_name_are_asked_for_once_it_is_used_and_only_if_it_is_known() -> None:
    discovery = Following()
    discovery.directory.apply("cp:1", Update("e", 1, True, (), (), 10.0, (AgentInfo("a"), AgentInfo("b"))))
    resolver = Resolver(discovery)
    for name in ("a", "invented", "a"):
        assert resolver.instances(name) == ()
    assert discovery.asked == ["a"]


async def test_what_can_be_nobodys_name_is_not_asked_for() -> None:
    """A control plane could not even read it, and the watch, which is for all names, would never open."""
    discovery = Following()
    resolver = Resolver(discovery)
    for name in ("\ud800", "", "a b", "x" * 129):
        assert not await resolver.find(name, 0.0)
    assert discovery.asked == []


def test_what_is_not_asked_for_is_listed_known_and_described() -> None:
    resolver = Resolver(by_name("a", "b"))
    info = resolver.info("b")
    assert info is not None
    assert info.role == "llm"
    assert (resolver.names(), resolver.known("b"), resolver.known("c")) == (["a", "b"], True, False)


async def test_a_name_that_is_used_before_anything_is_heard_is_asked_for_with_the_first_watch() -> None:
    discovery = Following()
    assert not await Resolver(discovery).find("a", 0.0)
    assert discovery.asked == ["a"]
