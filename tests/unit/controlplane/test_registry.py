"""What the registry promises, with a clock that the tests move."""

from __future__ import annotations

import asyncio
import weakref

import pytest
from aixgo.errors import LimitExceeded, Unavailable, WrongState
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.runtime.updates import Removal
from aixgo.wire.instances import listed_bytes
from aixgo_controlplane.registry import SPARE_ENTRIES, Registry
from aixgo_controlplane.room import RegistryLimits, Size
from aixgo_controlplane.tombstones import NAME_BYTES, TOMBSTONE_SECONDS, Tombstones
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def instance(key="a", seq=1, agents=("echo",), state=InstanceState.READY, address="h:1") -> Instance:
    return Instance(key, address, seq, tuple(AgentInfo(name) for name in agents), state)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> Registry:
    return Registry("epoch-1", clock)


def test_a_granted_instance_is_found_by_each_of_its_agents(registry: Registry):
    one = instance(agents=("echo", "upper"))
    registry.grant(one)
    assert registry.resolve("echo") == registry.resolve("upper") == registry.list() == (one,)
    assert registry.resolve("nobody") == ()


def test_an_instance_that_does_not_renew_expires_after_its_lease(registry: Registry, clock: Clock):
    registry.grant(instance(), 5)
    clock.now += 4.9
    assert registry.expire() == []
    clock.now += 0.2
    assert registry.expire() == [instance()]
    assert registry.list() == registry.resolve("echo") == ()
    assert not registry.renew("a", 1)


def test_renewing_keeps_an_instance_for_its_own_lease(registry: Registry, clock: Clock):
    registry.grant(instance(), 5)
    for _ in range(10):
        clock.now += 4
        assert registry.renew("a", 1)
        registry.expire()
    assert registry.list() == (instance(),)
    clock.now += 5
    registry.expire()
    assert registry.list() == ()


def test_a_lease_that_is_made_shorter_ends_earlier(registry: Registry, clock: Clock):
    registry.grant(instance(), 200)
    registry.grant(instance(seq=2), 2)
    clock.now += 3
    assert [gone.seq for gone in registry.expire()] == [2]


def test_renewing_under_another_seq_is_unknown(registry: Registry):
    registry.grant(instance(seq=3))
    assert not registry.renew("a", 2)
    assert not registry.renew("a", 4)
    assert not registry.renew("b", 3)


@pytest.mark.parametrize(("asked", "granted"), [(0, 10), (0.1, 1), (30, 30), (9999, 300)])
def test_a_lease_has_the_length_that_is_asked_for_within_bounds(registry: Registry, asked: float, granted: float):
    assert registry.grant(instance(), asked).seconds == granted


def test_a_higher_seq_replaces_what_is_listed(registry: Registry):
    registry.grant(instance(agents=("echo",)))
    registry.grant(instance(seq=2, agents=("upper",), state=InstanceState.DRAINING))
    assert registry.resolve("echo") == ()
    assert [found.state for found in registry.resolve("upper")] == [InstanceState.DRAINING]


def test_a_lower_seq_is_refused_and_told_the_known_one(registry: Registry):
    registry.grant(instance(seq=5))
    with pytest.raises(WrongState, match="announce a higher one") as caught:
        registry.grant(instance(seq=4, state=InstanceState.DRAINING))
    assert caught.value.fields == {"seq": 5}
    assert registry.list() == (instance(seq=5),)


def test_the_same_seq_again_renews_and_changes_nothing(registry: Registry, clock: Clock):
    registry.grant(instance(), 5)
    version = registry.version
    clock.now += 4
    registry.grant(instance(), 5)
    clock.now += 4
    assert registry.expire() == []
    assert registry.version == version


def test_nothing_comes_back_after_a_deregistration_but_a_higher_seq(registry: Registry):
    registry.grant(instance(seq=1))
    assert registry.revoke("a", 3)
    for seq in (1, 2, 3):
        with pytest.raises(WrongState):
            registry.grant(instance(seq=seq))
    registry.grant(instance(seq=4))
    assert registry.list() == (instance(seq=4),)


def test_deregistering_what_is_unknown_still_bars_a_late_registration(registry: Registry):
    assert not registry.revoke("a", 7)
    with pytest.raises(WrongState):
        registry.grant(instance(seq=6))


def test_a_deregistration_that_was_overtaken_is_refused(registry: Registry):
    registry.grant(instance(seq=5))
    with pytest.raises(WrongState):
        registry.revoke("a", 4)
    assert registry.list() == (instance(seq=5),)


def test_after_an_expiry_the_same_seq_may_register_again_and_a_lower_one_may_not(registry: Registry, clock: Clock):
    registry.grant(instance(seq=5, state=InstanceState.DRAINING))
    clock.now += 11
    registry.expire()
    with pytest.raises(WrongState):
        registry.grant(instance(seq=4))
    registry.grant(instance(seq=5, state=InstanceState.DRAINING))
    assert len(registry) == 1


def test_tombstones_are_forgotten_after_their_time(registry: Registry, clock: Clock):
    registry.revoke("a", 7)
    clock.now += TOMBSTONE_SECONDS + 1
    registry.expire()
    registry.grant(instance(seq=1))
    assert len(registry) == 1


def test_of_too_many_tombstones_the_oldest_is_forgotten(clock: Clock):
    registry = Registry("e", clock, limits=RegistryLimits(tombstones=2))
    for key in ("a", "b", "c"):
        registry.revoke(key, 7)
    registry.grant(instance("a"))
    with pytest.raises(WrongState):
        registry.grant(instance("b"))


def test_a_full_registry_refuses_newcomers_and_keeps_the_listed(clock: Clock):
    registry = Registry("e", clock, limits=RegistryLimits(instances=1))
    registry.grant(instance("a"))
    with pytest.raises(LimitExceeded):
        registry.grant(instance("b"))
    registry.grant(instance("a", seq=2))
    assert registry.list() == (instance("a", seq=2),)


@pytest.mark.parametrize(
    ("limits", "field", "limit"),
    [
        (RegistryLimits(instances=2), "instances", 2),
        (RegistryLimits(agents=3), "agents", 3),
        (RegistryLimits(bytes=2 * listed_bytes(instance("a"))), "bytes", 2 * listed_bytes(instance("a"))),
    ],
)
def test_a_registry_that_is_full_says_of_what(clock: Clock, limits: RegistryLimits, field: str, limit: int):
    registry = Registry("e", clock, limits=limits)
    registry.grant(instance("a"))
    registry.grant(instance("b"))
    with pytest.raises(LimitExceeded, match=f"{limit} are allowed") as caught:
        registry.grant(instance("c", agents=("one", "two")))
    assert caught.value.fields == {"field": field, "limit": limit}
    assert {each.instance_id for each in registry.list()} == {"a", "b"}


def test_what_changes_all_the_time_fits_into_a_full_registry_and_more_does_not(clock: Clock):
    def announced(seq: int, *, ready: bool, state: InstanceState) -> Instance:
        return Instance("a", "h:1", seq, (AgentInfo("echo", ready=ready),), state)

    least = announced(1, ready=False, state=InstanceState.NOT_READY)
    registry = Registry("e", clock, limits=RegistryLimits(bytes=listed_bytes(least)))
    registry.grant(least)
    most = announced(2**64 - 2, ready=True, state=InstanceState.DRAINING)
    registry.grant(most)
    with pytest.raises(LimitExceeded):
        registry.grant(instance(seq=2**64 - 1, agents=("echo", "upper")))
    assert registry.list() == (most,)
    assert registry.renew("a", 2**64 - 2)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=30))
def test_what_a_registry_holds_is_what_it_lists(steps: list[tuple[str, int, bool]]):
    clock = Clock()
    registry = Registry("e", clock)
    for seq, (key, agents, ends) in enumerate(steps, 1):
        if ends:
            registry.revoke(key, seq)
        else:
            registry.grant(instance(key, seq, tuple(f"agent-{n}" for n in range(agents))), 5)
        clock.now += 1
        registry.expire()
    listed = registry.list()
    sizes = sum(map(listed_bytes, listed))
    assert registry.held == Size(len(listed), sum(len(each.agents) for each in listed), sizes)


def test_what_instances_that_are_gone_have_announced_is_not_kept(registry: Registry):
    gone: list[weakref.ref[Instance]] = []
    for number in range(3 * SPARE_ENTRIES):
        one = instance(f"i{number}")
        gone.append(weakref.ref(one))
        registry.grant(one, 300)
        registry.revoke(one.instance_id, 1)
        del one
    assert [each for each in gone if each() is not None] == []
    registry.grant(instance("last"), 5)
    assert [each.instance_id for each in registry.list()] == ["last"]


def test_of_many_names_of_those_who_are_gone_some_are_forgotten_and_then_everybody_hears_of_them():
    stones = Tombstones(limit=100, most_bytes=3 * (NAME_BYTES + 10))
    for number in range(5):
        stones.bury(Removal(f"i{number}", 1, expired=False), 0.0, frozenset({f"name-{number:05}"}))
    heard = {gone.instance_id for gone in stones.deregistered(frozenset({"name-00001"}))}
    assert heard == {"i1", "i3", "i4"}
    stones.forget(TOMBSTONE_SECONDS + 1)
    stones.bury(Removal("later", 1, expired=False), 0.0, frozenset({"name-00000"}))
    assert stones.deregistered(frozenset({"other"})) == ()


def test_an_unhealthy_instance_is_listed_as_not_ready_until_it_is_healthy(registry: Registry):
    registry.grant(instance())
    assert registry.set_health("a", "h:1", False)
    assert [found.state for found in registry.list()] == [InstanceState.NOT_READY]
    registry.grant(instance(seq=2))
    assert [found.state for found in registry.list()] == [InstanceState.NOT_READY]
    assert registry.set_health("a", "h:1", True)
    assert [found.state for found in registry.list()] == [InstanceState.READY]


def test_health_never_hides_that_an_instance_drains(registry: Registry):
    registry.grant(instance(state=InstanceState.DRAINING))
    assert not registry.set_health("a", "h:1", False)
    assert [found.state for found in registry.list()] == [InstanceState.DRAINING]


def test_a_verdict_on_a_former_address_is_dropped_and_a_new_address_starts_healthy(registry: Registry):
    registry.grant(instance(address="h:1"))
    registry.set_health("a", "h:1", False)
    registry.grant(instance(seq=2, address="h:2"))
    assert not registry.set_health("a", "h:1", False)
    assert [found.state for found in registry.list()] == [InstanceState.READY]


def test_time_that_the_control_plane_stood_still_ends_no_lease(registry: Registry, clock: Clock):
    registry.grant(instance(), 5)
    clock.now += 60
    registry.forgive(60)
    assert registry.expire() == []
    clock.now += 5
    assert registry.expire() == [instance()]


def test_a_watch_begins_with_everything_and_what_is_remembered_as_gone(registry: Registry):
    registry.grant(instance("a"))
    registry.revoke("b", 4)
    update = registry.watch().take()
    assert update is not None
    assert (update.epoch, update.snapshot, update.lease) == ("epoch-1", True, 10)
    assert update.changed == (instance("a"),)
    assert update.removed == (Removal("b", 4, expired=False),)


def test_changes_that_waited_come_as_one_with_the_last_word_on_each_instance(registry: Registry):
    watch = registry.watch()
    watch.take()
    registry.grant(instance("a"))
    registry.grant(instance("a", seq=2))
    registry.grant(instance("b"))
    registry.revoke("b", 2)
    update = watch.take()
    assert update is not None
    assert not update.snapshot
    assert update.changed == (instance("a", seq=2),)
    assert update.removed == (Removal("b", 2, expired=False),)
    assert update.version == registry.version
    assert watch.take() is None


def test_an_expiry_is_told_apart_from_a_deregistration(registry: Registry, clock: Clock):
    registry.grant(instance(seq=3), 2)
    watch = registry.watch()
    watch.take()
    clock.now += 3
    registry.expire()
    update = watch.take()
    assert update is not None
    assert update.removed == (Removal("a", 3, expired=True),)


def test_the_longest_lease_is_told(registry: Registry):
    watch = registry.watch()
    watch.take()
    registry.grant(instance(), 60)
    update = watch.take()
    assert update is not None
    assert update.lease == 60


def test_a_watch_of_some_agents_sees_only_their_instances(registry: Registry):
    registry.grant(instance("a", agents=("echo",)))
    registry.grant(instance("b", agents=("upper",)))
    watch = registry.watch(["upper"])
    update = watch.take()
    assert update is not None
    assert update.changed == (instance("b", agents=("upper",)),)
    registry.grant(instance("a", seq=2, agents=("echo",)))
    assert watch.take() is None
    registry.grant(instance("b", seq=2, agents=("echo",)))
    update = watch.take()
    assert update is not None
    assert update.removed == (Removal("b", 2, expired=True),)


def test_a_watcher_that_falls_behind_the_log_is_cut_off(clock: Clock):
    registry = Registry("e", clock, limits=RegistryLimits(behind=3))
    watch = registry.watch()
    watch.take()
    for seq in range(1, 4):
        registry.grant(instance(seq=seq))
    assert watch.take() is not None
    for seq in range(4, 8):
        registry.grant(instance(seq=seq))
    with pytest.raises(LimitExceeded, match="watch anew"):
        watch.take()


async def test_a_waiting_watch_wakes_on_a_change_and_on_the_end(registry: Registry):
    watch = registry.watch()
    await watch.next()
    waiting = asyncio.create_task(watch.next())
    await asyncio.sleep(0)
    registry.grant(instance())
    assert (await waiting).changed == (instance(),)
    waiting = asyncio.create_task(watch.next())
    await asyncio.sleep(0)
    registry.close()
    with pytest.raises(Unavailable):
        await waiting


class RegistryMachine(RuleBasedStateMachine):
    """Whatever is done to a registry, it lists exactly the unexpired grants of the highest seq, and so do watchers."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.registry = Registry("e", self.clock, limits=RegistryLimits(behind=8))
        self.grants: dict[str, tuple[Instance, float, float]] = {}
        self.barred: dict[str, int] = {}
        self.watch = self.registry.watch()
        self.seen: dict[str, Instance] = {}

    @rule(target=keys, key=st.sampled_from("abcd"))
    def name(self, key: str) -> str:
        return key

    @rule(key=keys, seq=st.integers(1, 8), agents=st.sets(st.sampled_from("xyz"), min_size=1), lease=st.integers(1, 20))
    def grant(self, key: str, seq: int, agents: set[str], lease: int) -> None:
        new = instance(key, seq, tuple(sorted(agents)))
        held = self.grants.get(key)
        if seq < self.barred.get(key, 0) or (held and seq < held[0].seq):
            with pytest.raises(WrongState):
                self.registry.grant(new, lease)
            return
        self.registry.grant(new, lease)
        self.grants[key] = (held[0] if held and held[0].seq == seq else new, lease, self.clock.now + lease)

    @rule(key=keys, seq=st.integers(1, 8))
    def renew(self, key: str, seq: int) -> None:
        held = self.grants.get(key)
        known = held is not None and held[0].seq == seq
        assert self.registry.renew(key, seq) == known
        if held and known:
            self.grants[key] = (held[0], held[1], self.clock.now + held[1])

    @rule(key=keys, seq=st.integers(1, 8))
    def revoke(self, key: str, seq: int) -> None:
        held = self.grants.get(key)
        if held and seq < held[0].seq:
            with pytest.raises(WrongState):
                self.registry.revoke(key, seq)
            return
        assert self.registry.revoke(key, seq) == (held is not None)
        self.grants.pop(key, None)
        self.barred[key] = max(self.barred.get(key, 0), seq + 1)

    @rule(seconds=st.integers(0, 15))
    def expire(self, seconds: int) -> None:
        self.clock.now += seconds
        self.registry.expire()
        for key, (held, _, until) in list(self.grants.items()):
            if until <= self.clock.now:
                del self.grants[key]
                self.barred[key] = max(self.barred.get(key, 0), held.seq)

    @rule()
    def look(self) -> None:
        try:
            update = self.watch.take()
        except LimitExceeded:
            self.watch = self.registry.watch()
            update = self.watch.take()
        if update is None:
            return
        if update.snapshot:
            self.seen.clear()
        self.seen.update({changed.instance_id: changed for changed in update.changed})
        for gone in update.removed:
            self.seen.pop(gone.instance_id, None)
        assert self.seen == {key: held for key, (held, _, _) in self.grants.items()}

    @invariant()
    def lists_what_is_granted(self) -> None:
        held = {key: held for key, (held, _, _) in self.grants.items()}
        assert {found.instance_id: found for found in self.registry.list()} == held
        for name in "xyz":
            expected = {key for key, found in held.items() if name in found.by_name}
            assert {found.instance_id for found in self.registry.resolve(name)} == expected


TestRegistryMachine = RegistryMachine.TestCase
TestRegistryMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_watch_by_name_tells_which_agents_there_are_and_the_instances_of_those_asked_for(registry: Registry):
    registry.grant(instance("a", agents=("echo",)))
    registry.grant(instance("b", agents=("upper",)))
    update = registry.watch(["upper"], by_name=True).take()
    assert update is not None
    assert update.changed == (instance("b", agents=("upper",)),)
    assert {info.name for info in update.agents} == {"echo", "upper"}
    nothing_asked = registry.watch(by_name=True).take()
    assert nothing_asked is not None
    assert nothing_asked.changed == ()


def test_a_watch_by_name_hears_of_other_agents_only_when_they_come_or_end(registry: Registry):
    registry.grant(instance("a", agents=("echo",)))
    watch = registry.watch(by_name=True)
    watch.take()
    registry.grant(instance("a", seq=2, agents=("echo",)))
    registry.grant(instance("b", agents=("echo",)))
    registry.revoke("b", 2)
    assert watch.take() is None
    registry.grant(instance("a", seq=3, agents=("upper",)))
    update = watch.take()
    assert update is not None
    assert [info.name for info in update.agents] == ["upper"]
    assert update.ended == ("echo",)
    assert (update.changed, update.removed) == ((), ())


def test_what_others_do_never_cuts_off_who_does_not_watch_them(clock: Clock):
    registry = Registry("e", clock, limits=RegistryLimits(behind=3))
    registry.grant(instance("a", agents=("echo",)))
    registry.grant(instance("b", agents=("upper",)))
    watch = registry.watch(["upper"], by_name=True)
    watch.take()
    for seq in range(2, 20):
        registry.grant(instance("a", seq=seq, agents=("echo",)))
    assert watch.take() is None
    registry.grant(instance("b", seq=2, agents=("upper",)))
    assert watch.take() is not None


def test_who_went_is_told_to_those_who_watch_its_agents_and_who_was_never_seen_to_all(registry: Registry):
    registry.grant(instance("a", agents=("echo",)))
    registry.revoke("a", 2)
    registry.revoke("stranger", 1)
    for agents, expected in ((["upper"], {"stranger"}), (["echo"], {"a", "stranger"}), ([], {"a", "stranger"})):
        update = registry.watch(agents).take()
        assert update is not None
        assert {removal.instance_id for removal in update.removed} == expected


def test_a_closed_watch_hears_nothing_and_keeps_nothing(registry: Registry):
    watch = registry.watch(["echo"], by_name=True)
    watch.take()
    watch.close()
    registry.grant(instance())
    update = watch.take()
    assert update is not None
    assert update.snapshot
