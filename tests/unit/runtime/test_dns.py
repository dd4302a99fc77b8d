"""Finding instances by host name: a scripted resolver for its rules, real servers on two addresses for calls."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aixgo import Agent, AgentServer, DistributedRuntime, LocalRuntime, Message, agent
from aixgo.config.load import load
from aixgo.errors import AgentNotFound, AgentUnavailable, AixgoError, ConfigError, Unavailable
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.dns import IDLE_AFTER, REFRESH, SHORTEST_GAP, Hosts, Target, system_resolve
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.runtime.resolver import Resolver
from aixgo.runtime.updates import Update

NO_HOST = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
NO_SERVER = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class World:
    """A DNS, a clock and what lives at the addresses, all in the hands of the test."""

    def __init__(self) -> None:
        self.zone: dict[str, Sequence[str] | Exception] = {}
        self.asked: list[tuple[str, int]] = []
        self.living: dict[str, list[AgentInfo]] = {}
        self.described: list[str] = []
        self.pauses: list[float] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.now = 100.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.changes = 0
        self.hosts = Hosts(
            resolve=self.resolve,
            describe=self.describe,
            clock=lambda: self.now,
            sleep=self.sleep,
            random=lambda: 0.5,
            changed=self._changed,
        )

    def connect(self, **targets: str) -> None:
        for name, text in targets.items():
            self.hosts.connect(name, Target.parse(name, text))

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        await self.gate.wait()
        found = self.zone.get(host, NO_HOST)
        if isinstance(found, Exception):
            raise copy.copy(found)
        return [f"{ip}:{port}" for ip in found]

    async def describe(self, address: str, timeout: float) -> Sequence[AgentInfo] | None:
        self.described.append(address)
        return self.living.get(address)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, future))
        await future

    async def passes(self, seconds: float) -> None:
        """Let so much time pass, and everything happen that is due until then."""
        until = self.now + seconds
        await settled()
        while due := [s for s in self._sleepers if s[0] <= until and not s[1].done()]:
            self.now, future = min(due, key=lambda s: s[0])
            future.set_result(None)
            await settled()
        self.now = until

    def addresses(self, name: str) -> list[str]:
        return [instance.address for instance in self.hosts.instances(name)]

    def _changed(self) -> None:
        self.changes += 1


async def settled() -> None:
    """Let every task run until it waits for something that only the test brings about."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.hosts.close()


# targets


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("box:1", Target("box", 1, many=False)),
        ("dns:///box.agents.svc:50051", Target("box.agents.svc", 50051, many=True)),
        ("dns:///{name}.agents:50051", Target("{name}.agents", 50051, many=True)),
        ("[::1]:1", Target("[::1]", 1, many=False)),
    ],
)
def test_a_target_is_read_and_written_alike(text: str, target: Target) -> None:
    assert Target.parse("a", text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text", ["dns:///", "dns:///box", "dns:///:1", "dns://8.8.8.8/box:1", "dns:///box:0", "xds:///b:1"]
)
def test_what_is_no_target_is_refused_with_both_forms(text: str) -> None:
    with pytest.raises(ConfigError, match=r"of agent 'a' is not usable; write host:port.* or dns:///host:port"):
        Resolver(None).connect("a", text)


def test_the_name_stands_where_the_pattern_says() -> None:
    assert Target.parse("*", "dns:///{name}.{name}.svc:1").of("a").host == "a.a.svc"


# finding


async def test_each_address_of_a_host_is_an_instance(world: World) -> None:
    world.zone["box"] = ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
    world.connect(a="dns:///box:7")
    assert (world.hosts.known("a"), list(world.hosts.instances("a"))) == (False, [])
    await world.hosts.find("a", 1.0)
    assert [i.instance_id for i in world.hosts.instances("a")] == ["a@10.0.0.1:7", "a@10.0.0.2:7"]
    assert world.addresses("a") == ["10.0.0.1:7", "10.0.0.2:7"]
    assert world.hosts.known("a")
    assert (world.changes, world.hosts.names()) == (1, ["a"])
    assert [i.address for i in world.hosts.all()] == world.addresses("a")


async def test_the_wildcard_is_for_every_name_without_a_target_of_its_own(world: World) -> None:
    world.zone |= {"b.agents": ["10.0.0.1"], "own": ["10.0.0.9"]}
    world.connect(**{"*": "dns:///{name}.agents:7", "a": "dns:///own:8"})
    await world.hosts.find("a", 1.0)
    await world.hosts.find("b", 1.0)
    assert (world.addresses("a"), world.addresses("b")) == (["10.0.0.9:8"], ["10.0.0.1:7"])
    assert not world.hosts.covers("b/0")
    assert (world.hosts.named("a"), world.hosts.named("b"), world.hosts.named("*")) == (True, False, False)


async def test_a_name_whose_host_does_not_resolve_is_not_found_and_asked_again(world: World) -> None:
    world.connect(a="dns:///box:7")
    with pytest.raises(AgentNotFound, match="host 'box' does not resolve") as caught:
        await world.hosts.find("a", 1.0)
    assert caught.value.fields == {"agent": "a"}
    world.zone["box"] = ["10.0.0.1"]
    await world.hosts.find("a", 1.0)
    assert world.addresses("a") == ["10.0.0.1:7"]


async def test_a_dns_that_does_not_answer_is_unavailable(world: World) -> None:
    world.zone["box"] = NO_SERVER
    world.connect(a="dns:///box:7")
    with pytest.raises(Unavailable, match="cannot be looked up now: Temporary failure in name resolution") as caught:
        await world.hosts.find("a", 1.0)
    assert caught.value.retry_after == 1.0


async def test_callers_at_once_share_a_look_up_and_get_errors_of_their_own(world: World) -> None:
    world.gate.clear()
    world.connect(a="dns:///box:7")
    waiting = [asyncio.create_task(world.hosts.find("a", 60.0)) for _ in range(5)]
    await settled()
    world.gate.set()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert len(world.asked) == 1
    assert len({id(error) for error in errors}) == 5
    assert all(isinstance(error, AgentNotFound) for error in errors)


async def test_a_look_up_that_takes_too_long_is_unavailable_and_serves_the_next_call(world: World) -> None:
    world.gate.clear()
    world.zone["box"] = ["10.0.0.1"]
    world.connect(a="dns:///box:7")
    with pytest.raises(Unavailable, match=r"the look-up of dns:///box:7 takes longer than 0\.0 s"):
        await world.hosts.find("a", 0.0)
    world.gate.set()
    await world.hosts.find("a", 60.0)
    assert (world.addresses("a"), len(world.asked)) == (["10.0.0.1:7"], 1)


@pytest.mark.parametrize("name", ["b.internal", "b/0", "127", "2130706433", "0x7f000001", "-b", "", "b c", "x" * 64])
async def test_what_is_no_part_of_a_host_name_is_never_put_into_one(world: World, name: str) -> None:
    resolver = Resolver(None, world.hosts)
    resolver.connect("*", "dns:///{name}:7")
    assert await resolver.find(name, 1.0)
    assert (resolver.known(name), resolver.info(name), world.asked) == (False, None, [])


async def test_a_name_that_is_disconnected_while_it_is_looked_up_is_not_found(world: World) -> None:
    world.gate.clear()
    world.zone["box"] = ["10.0.0.1"]
    world.connect(a="dns:///box:7")
    waiting = asyncio.create_task(world.hosts.find("a", 60.0))
    await settled()
    world.hosts.disconnect("a")
    world.gate.set()
    with pytest.raises(AgentNotFound, match="was disconnected from dns:///box:7"):
        await waiting
    assert not world.hosts.known("a")


# looking up again


async def found(world: World, *ips: str) -> None:
    world.zone["box"] = ips
    world.connect(a="dns:///box:7")
    await world.hosts.find("a", 1.0)
    await settled()


async def test_addresses_come_and_go_with_the_next_look_up(world: World) -> None:
    await found(world, "10.0.0.1", "10.0.0.2")
    world.zone["box"] = ["10.0.0.2", "10.0.0.3"]
    await world.passes(REFRESH - 0.1)
    assert world.addresses("a") == ["10.0.0.1:7", "10.0.0.2:7"]
    await world.passes(0.1)
    assert world.addresses("a") == ["10.0.0.2:7", "10.0.0.3:7"]
    assert world.changes == 2


async def test_the_pauses_are_jittered_by_a_fifth(world: World) -> None:
    world.hosts._random = iter([0.0, 1.0, 0.5]).__next__
    await found(world, "10.0.0.1")
    await world.passes(2.2 * REFRESH)
    assert world.pauses == pytest.approx([0.8 * REFRESH, 1.2 * REFRESH, REFRESH])


async def test_a_failed_instance_is_looked_up_at_once_and_not_more_often_than_the_gap(world: World) -> None:
    await found(world, "10.0.0.1", "10.0.0.2")
    await world.passes(SHORTEST_GAP)
    world.zone["box"] = ["10.0.0.2"]
    world.hosts.suspect("a@10.0.0.1:7")
    await settled()
    assert world.addresses("a") == ["10.0.0.2:7"]
    for _ in range(10):
        world.hosts.suspect("a@10.0.0.2:7")
        await settled()
    assert len(world.asked) == 2
    await world.passes(SHORTEST_GAP)
    assert len(world.asked) == 3
    world.hosts.suspect("nobody@10.0.0.2:7")
    world.hosts.suspect("0123456789abcdef")
    await settled()
    assert len(world.asked) == 3


async def test_a_host_that_resolves_no_more_has_no_instances_and_stays_known(world: World) -> None:
    await found(world, "10.0.0.1")
    del world.zone["box"]
    await world.passes(REFRESH)
    assert (world.addresses("a"), world.hosts.known("a")) == ([], True)


async def test_a_dns_that_fails_later_takes_nothing_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await found(world, "10.0.0.1")
    world.zone["box"] = NO_SERVER
    await world.passes(REFRESH)
    assert world.addresses("a") == ["10.0.0.1:7"]
    assert "its last addresses are kept" in caplog.text
    world.zone["box"] = ["10.0.0.2"]
    await world.passes(REFRESH)
    assert world.addresses("a") == ["10.0.0.2:7"]


async def test_a_name_that_nobody_calls_is_forgotten(world: World) -> None:
    await found(world, "10.0.0.1")
    await world.passes(IDLE_AFTER)
    assert world.hosts.known("a")
    await world.passes(REFRESH)
    assert not world.hosts.known("a")
    asked = len(world.asked)
    await world.passes(10 * REFRESH)
    assert len(world.asked) == asked


async def test_a_name_that_is_called_is_not_forgotten(world: World) -> None:
    await found(world, "10.0.0.1")
    for _ in range(5):
        await world.passes(IDLE_AFTER / 2)
        assert world.addresses("a") == ["10.0.0.1:7"]


# what lives there


async def test_what_an_instance_says_of_its_agent_is_known_soon_after(world: World) -> None:
    world.living["10.0.0.1:7"] = [AgentInfo("a", "llm", idempotent=True, ready=False), AgentInfo("b")]
    await found(world, "10.0.0.1", "10.0.0.2")
    first, second = world.hosts.instances("a")
    assert first.by_name["a"] == AgentInfo("a", "llm", idempotent=True)
    assert second.by_name["a"] == AgentInfo("a")
    assert world.hosts.info("a") == first.by_name["a"]


async def test_an_address_that_said_nothing_is_asked_again_and_one_that_did_is_not(world: World) -> None:
    world.living["10.0.0.1:7"] = [AgentInfo("a")]
    await found(world, "10.0.0.1", "10.0.0.2")
    await world.passes(REFRESH)
    assert sorted(world.described) == ["10.0.0.1:7", "10.0.0.2:7", "10.0.0.2:7"]


async def test_what_was_said_is_asked_for_again_after_a_failure_and_kept_until_then(world: World) -> None:
    world.living["10.0.0.1:7"] = [AgentInfo("a", idempotent=True)]
    await found(world, "10.0.0.1")
    del world.living["10.0.0.1:7"]
    await world.passes(SHORTEST_GAP)
    world.hosts.suspect("a@10.0.0.1:7")
    await settled()
    assert world.described == ["10.0.0.1:7"] * 2
    assert world.hosts.instances("a")[0].by_name["a"].idempotent


async def test_a_gateway_is_asked_for_its_agents_before_anyone_calls(world: World) -> None:
    world.living["gate:7"] = [AgentInfo("a", "llm", idempotent=True), AgentInfo("b")]
    world.connect(**{"*": "gate:7"})
    await world.hosts.open()
    await settled()
    assert (sorted(world.hosts.names()), world.asked, world.hosts.all()) == (["a", "b"], [], [])
    assert world.hosts.info("a") == AgentInfo("a", "llm", idempotent=True)
    assert world.hosts.info("nobody") is None
    await world.hosts.find("a", 1.0)
    assert [(i.instance_id, i.by_name["a"].idempotent) for i in world.hosts.instances("a")] == [("a@gate:7", True)]
    assert world.described == ["gate:7"]


async def test_what_a_gateway_serves_later_is_known_with_the_next_look_up(world: World) -> None:
    world.living["gate:7"] = [AgentInfo("a")]
    world.connect(**{"*": "gate:7"})
    assert world.hosts.info("b") == AgentInfo("b")  # nobody has said that there is none
    await world.hosts.open()
    await settled()
    assert world.hosts.info("b") is None
    world.living["gate:7"] = [AgentInfo("a"), AgentInfo("b", idempotent=True)]
    await world.passes(REFRESH)
    assert world.hosts.info("b") == AgentInfo("b", idempotent=True)


async def test_without_a_target_there_is_nothing_to_ask(world: World) -> None:
    await world.hosts.open()
    assert (world.hosts.covers("a"), world.hosts.info("a"), world.hosts.names()) == (False, None, [])


async def test_a_disconnected_name_is_forgotten_at_once(world: World) -> None:
    await found(world, "10.0.0.1")
    assert world.hosts.disconnect("a") == Target("box", 7, many=True)
    assert (world.hosts.known("a"), world.hosts.disconnect("a")) == (False, None)
    await world.passes(10 * REFRESH)
    assert len(world.asked) == 1


# beside the other sources


async def test_a_control_plane_wins_over_the_wildcard_and_loses_against_a_target_of_the_name(world: World) -> None:
    world.zone |= {"a.x": ["10.0.0.1"], "b.x": ["10.0.0.2"], "c.x": ["10.0.0.3"]}
    discovery = Discovery(["cp:1"])
    listed = Instance("i", "listed:9", 1, (AgentInfo("a"), AgentInfo("b")))
    discovery.directory.apply("cp:1", Update("e", 1, True, (listed,), (), 10.0))
    resolver = Resolver(discovery, world.hosts)
    discovery._unheard = set()
    resolver.connect("*", "dns:///{name}.x:7")
    resolver.connect("b", "dns:///b.x:7")
    for name in ("a", "b", "c"):
        assert await resolver.find(name, 1.0)
    found_at = {name: [i.address for i in resolver.instances(name)] for name in ("a", "b", "c")}
    assert found_at == {"a": ["listed:9"], "b": ["10.0.0.2:7"], "c": ["10.0.0.3:7"]}
    assert resolver.names() == ["a", "b", "c"]
    assert resolver.instance_ids() == {"i", "b@10.0.0.2:7", "c@10.0.0.3:7"}
    assert resolver.disconnect("b") == "dns:///b.x:7"
    assert [i.address for i in resolver.instances("b")] == ["listed:9"]


async def test_a_name_is_fixed_or_looked_up_as_it_was_connected_last(world: World) -> None:
    world.zone["box"] = ["10.0.0.1"]
    resolver = Resolver(None, world.hosts)
    resolver.connect("a", "dns:///box:7")
    await resolver.find("a", 1.0)
    resolver.connect("a", "fixed:1")
    assert [i.address for i in resolver.instances("a")] == ["fixed:1"]
    resolver.connect("a", "dns:///box:7")
    await resolver.find("a", 1.0)
    assert [i.address for i in resolver.instances("a")] == ["10.0.0.1:7"]


# the system's resolver


async def test_the_system_resolves_addresses_of_both_families() -> None:
    assert await system_resolve("127.0.0.2", 7) == ["127.0.0.2:7"]
    assert await system_resolve("::1", 7) == ["[::1]:7"]


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..b"])
async def test_a_name_that_no_host_can_have_does_not_resolve(host: str) -> None:
    with pytest.raises(socket.gaierror) as caught:
        await system_resolve(host, 7)
    assert caught.value.errno == socket.EAI_NONAME


# real servers


class Zone:
    """The DNS of real servers."""

    def __init__(self) -> None:
        self.records: dict[str, list[str]] = {}

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        if host not in self.records:
            raise NO_HOST
        return [f"{ip}:{port}" for ip in self.records[host]]


@pytest.fixture
def zone() -> Zone:
    return Zone()


def who(name: str, answer: str, *, idempotent: bool = True) -> Agent:
    @agent(name=name, idempotent=idempotent)
    async def says(message: Message) -> str:
        return answer

    return says


@asynccontextmanager
async def serving(*places: tuple[str, Agent]) -> AsyncIterator[tuple[int, list[AgentServer]]]:
    """Servers at these hosts, all at one port, as the pods of a headless Service are."""
    async with AsyncExitStack() as stack:
        servers: list[AgentServer] = []
        port = 0
        for host, each in places:
            runtime = LocalRuntime()
            runtime.register(each)
            servers.append(await stack.enter_async_context(AgentServer(runtime, listen=f"{host}:{port}")))
            port = int(servers[0].address.rpartition(":")[2])
        yield port, servers


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20.0):
        while not await condition():
            pass


async def test_calls_spread_over_the_addresses_and_go_on_when_one_goes_away(zone: Zone) -> None:
    zone.records["echo.agents"] = ["127.0.0.1", "127.0.0.2"]
    async with (
        serving(("127.0.0.1", who("echo", "one")), ("127.0.0.2", who("echo", "two"))) as (port, servers),
        DistributedRuntime(connect={"*": f"dns:///{{name}}.agents:{port}"}, resolve=zone.resolve) as runtime,
    ):
        said = {(await runtime.call("echo", "x", timeout=20)).text for _ in range(50)}
        assert said == {"one", "two"}
        await servers[0].drain()
        zone.records["echo.agents"] = ["127.0.0.2"]
        assert {(await runtime.call("echo", "x", timeout=20)).text for _ in range(50)} == {"two"}

        async def gone() -> bool:
            await runtime.call("echo", "x", timeout=20)
            return [i.address for i in runtime.instances()] == [f"127.0.0.2:{port}"]

        await until(gone)  # the failure had the name looked up again


async def test_what_is_idempotent_is_learned_from_the_instances(zone: Zone) -> None:
    zone.records["echo.agents"] = ["127.0.0.1"]
    async with (
        serving(("127.0.0.1", who("echo", "one"))) as (port, _),
        DistributedRuntime(connect={"echo": f"dns:///echo.agents:{port}"}, resolve=zone.resolve) as runtime,
    ):

        async def learned() -> bool:
            await runtime.call("echo", "x", timeout=20)
            return all(i.by_name["echo"].idempotent for i in runtime.instances())

        await until(learned)
        assert runtime.get_agent("echo").idempotent


async def test_a_call_to_a_host_that_does_not_exist_is_typed(zone: Zone) -> None:
    async with DistributedRuntime(connect={"*": "dns:///{name}.agents:7"}, resolve=zone.resolve) as runtime:
        with pytest.raises(AgentNotFound, match="does not resolve") as caught:
            await runtime.call("nobody", "x", timeout=20)
        assert caught.value.agent_path == ("nobody",)
        with pytest.raises(AgentNotFound):
            await runtime.call("nobody/0", "x", timeout=20)
        async with runtime.stream("nobody", "x", timeout=20) as events:
            with pytest.raises(AgentNotFound):
                await anext(events)


async def test_a_name_whose_instances_are_all_gone_is_unavailable(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    zone.records["echo.agents"] = ["127.0.0.1"]
    async with (
        serving(("127.0.0.1", who("echo", "one"))) as (port, servers),
        DistributedRuntime(connect={"echo": f"dns:///echo.agents:{port}"}, resolve=zone.resolve) as runtime,
    ):
        await runtime.call("echo", "x", timeout=20)
        await servers[0].drain()
        zone.records["echo.agents"] = []
        with pytest.raises(AgentUnavailable, match="no ready instance") as caught:
            await runtime.call("echo", "x", timeout=20)
        assert isinstance(caught.value, AixgoError)


def test_a_file_may_say_where_names_are_looked_up(tmp_path) -> None:
    file = tmp_path / "mesh.yaml"
    text = (
        "version: 2\n"
        "agents: [{name: a, role: llm, model: test/echo}]\n"
        "orchestration: {pattern: sequential, agents: [a, elsewhere]}\n"
        "deployment: {mode: distributed, connect: {'*': 'ADDRESS'}}\n"
    )
    file.write_text(text.replace("ADDRESS", "dns:///{name}.agents:50051"))
    assert load(file).deployment.connect == {"*": "dns:///{name}.agents:50051"}
    file.write_text(text.replace("ADDRESS", "dns://somewhere"))
    with pytest.raises(ConfigError, match="or dns:///host:port for every address of a host name"):
        load(file)
