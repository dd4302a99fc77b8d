"""How the words of several control planes are merged, with a clock that the tests move."""

from __future__ import annotations

import pytest
from aixgo.errors import InternalError
from aixgo.runtime import directory as directory_module
from aixgo.runtime.directory import FLOOR_SECONDS, Directory
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.runtime.updates import Removal, Update
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def instance(key="a", seq=1, agents=("echo",), state=InstanceState.READY, address="h:1") -> Instance:
    return Instance(key, address, seq, tuple(AgentInfo(name) for name in agents), state)


def snapshot(*changed: Instance, epoch="1", removed=(), lease=10.0) -> Update:
    return Update(epoch, 1, True, changed, tuple(removed), lease)


def delta(*changed: Instance, epoch="1", removed=(), lease=10.0) -> Update:
    return Update(epoch, 2, False, changed, tuple(removed), lease)


def gone(key="a", seq=1, expired=False) -> Removal:
    return Removal(key, seq, expired)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(clock: Clock) -> Directory:
    return Directory(clock)


def test_before_the_first_snapshot_nothing_is_known(directory: Directory):
    assert not directory.has_snapshot
    assert directory.instances("echo") == ()
    assert directory.names() == []
    assert not directory.known("echo")
    assert directory.next_expiry() is None


def test_an_empty_snapshot_is_a_snapshot_and_no_change(directory: Directory):
    directory.apply("A", snapshot())
    assert directory.has_snapshot
    assert directory.version == 0


def test_instances_are_found_by_each_agent_and_names_are_sorted(directory: Directory):
    one, two = instance("a", agents=("upper", "echo")), instance("b", agents=("echo",), state=InstanceState.DRAINING)
    directory.apply("A", snapshot(one, two))
    assert directory.instances("echo") == (one, two)
    assert directory.instances("upper") == (one,)
    assert directory.names() == ["echo", "upper"]
    assert directory.all() == (one, two)


def test_the_version_grows_with_visible_changes_only(directory: Directory):
    directory.apply("A", snapshot(instance()))
    version = directory.version
    directory.apply("A", delta(instance()))
    directory.apply("B", snapshot(instance()))
    assert directory.version == version
    directory.apply("A", delta(instance(seq=2)))
    assert directory.version > version


def test_a_name_stays_known_after_its_last_instance_is_gone(directory: Directory):
    directory.apply("A", snapshot(instance()))
    directory.apply("A", delta(removed=[gone(seq=2)]))
    assert directory.known("echo")
    assert directory.names() == []
    assert directory.instances("echo") == ()


def test_of_names_that_nobody_serves_any_more_only_the_latest_stay_known(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(directory_module, "MAX_NAMES", 3)
    directory.apply("cp", snapshot(instance("stays", agents=("served",))))
    for number in range(5):
        directory.apply("cp", delta(instance(f"i{number}", agents=(f"a{number}",))))
        directory.apply("cp", delta(removed=[gone(f"i{number}")]))
    assert [name for name in ("a0", "a1", "a2", "a3", "a4") if directory.known(name)] == ["a2", "a3", "a4"]
    assert directory.known("served")


def test_an_instance_that_no_longer_serves_an_agent_leaves_its_list(directory: Directory):
    directory.apply("A", snapshot(instance(agents=("echo", "upper"))))
    directory.apply("A", delta(instance(seq=2, agents=("upper",))))
    assert directory.names() == ["upper"]


def test_the_highest_seq_wins_whoever_says_it(directory: Directory):
    directory.apply("A", snapshot(instance(seq=2, address="new:1")))
    directory.apply("B", snapshot(instance(seq=1, address="old:1")))
    assert [found.address for found in directory.instances("echo")] == ["new:1"]


def test_of_two_words_on_one_seq_the_more_ready_wins(directory: Directory):
    directory.apply("A", snapshot(instance(state=InstanceState.NOT_READY)))
    directory.apply("B", snapshot(instance(state=InstanceState.READY)))
    assert [found.state for found in directory.instances("echo")] == [InstanceState.READY]


def test_a_control_plane_that_is_heard_wins_over_one_that_is_not(directory: Directory):
    directory.apply("A", snapshot(instance(state=InstanceState.NOT_READY)))
    directory.apply("B", snapshot(instance(state=InstanceState.READY)))
    directory.lost("B")
    assert [found.state for found in directory.instances("echo")] == [InstanceState.NOT_READY]


def test_an_expiry_at_one_control_plane_takes_nothing_that_another_holds(directory: Directory):
    directory.apply("A", snapshot(instance()))
    directory.apply("B", snapshot(instance()))
    directory.apply("A", delta(removed=[gone(expired=True)]))
    assert len(directory.instances("echo")) == 1
    directory.apply("B", delta(removed=[gone(expired=True)]))
    assert directory.instances("echo") == ()


def test_a_deregistration_at_one_control_plane_ends_lower_seqs_everywhere(directory: Directory):
    directory.apply("A", snapshot(instance(seq=3)))
    directory.apply("B", snapshot(instance(seq=3)))
    directory.apply("A", delta(removed=[gone(seq=4)]))
    assert directory.instances("echo") == ()
    directory.apply("B", delta(instance(seq=4)))
    assert directory.instances("echo") == ()
    directory.apply("B", delta(instance(seq=5)))
    assert len(directory.instances("echo")) == 1


def test_a_drain_that_expired_does_not_give_way_to_an_older_word(directory: Directory):
    directory.apply("A", snapshot(instance(seq=2, state=InstanceState.DRAINING)))
    directory.apply("B", snapshot(instance(seq=1)))
    directory.apply("A", delta(removed=[gone(seq=2, expired=True)]))
    assert directory.instances("echo") == ()


def test_what_an_unreachable_control_plane_said_stays(directory: Directory, clock: Clock):
    directory.apply("A", snapshot(instance()))
    directory.lost("A")
    clock.now += 100_000
    directory.tick()
    assert len(directory.instances("echo")) == 1


def test_a_snapshot_of_the_same_epoch_removes_what_it_does_not_name(directory: Directory):
    directory.apply("A", snapshot(instance("a"), instance("b")))
    directory.lost("A")
    directory.apply("A", snapshot(instance("b")))
    assert directory.instances("echo") == (instance("b"),)


def test_after_a_restart_old_entries_stay_for_one_lease(directory: Directory, clock: Clock):
    directory.apply("A", snapshot(instance("a"), instance("b"), lease=30))
    directory.lost("A")
    version = directory.version
    directory.apply("A", snapshot(epoch="2", lease=10))
    assert len(directory.instances("echo")) == 2
    assert directory.version == version
    assert directory.next_expiry() == clock.now + 30
    directory.apply("A", delta(instance("a"), epoch="2"))
    clock.now += 30
    directory.tick()
    assert directory.instances("echo") == (instance("a"),)
    assert directory.next_expiry() is None


def test_a_deregistration_ends_an_old_entry_at_once(directory: Directory):
    directory.apply("A", snapshot(instance()))
    directory.apply("A", snapshot(epoch="2", removed=[gone(seq=2)]))
    assert directory.instances("echo") == ()


def test_old_entries_stay_while_the_restarted_control_plane_is_lost_again(directory: Directory, clock: Clock):
    directory.apply("A", snapshot(instance()))
    directory.apply("A", snapshot(epoch="2"))
    directory.lost("A")
    assert directory.next_expiry() is None
    clock.now += 100
    directory.tick()
    assert len(directory.instances("echo")) == 1
    directory.apply("A", snapshot(epoch="2"))
    assert directory.next_expiry() == clock.now + 10
    clock.now += 10
    directory.tick()
    assert directory.instances("echo") == ()


def test_a_change_without_a_snapshot_of_its_epoch_is_refused(directory: Directory):
    with pytest.raises(InternalError, match="no snapshot"):
        directory.apply("A", delta(instance()))
    directory.apply("A", snapshot())
    with pytest.raises(InternalError, match="no snapshot"):
        directory.apply("A", delta(instance(), epoch="2"))


def test_what_is_gone_is_forgotten_after_nobody_can_list_it_any_more(directory: Directory, clock: Clock):
    directory.apply("A", snapshot(removed=[gone(seq=9)]))
    clock.now += FLOOR_SECONDS + 1
    directory.apply("A", delta(instance(seq=1)))
    assert len(directory.instances("echo")) == 1


CONTROL_PLANES = st.sampled_from("AB")
KEYS = st.sampled_from("ab")


class TwoControlPlanes(RuleBasedStateMachine):
    """An instance announces to two control planes that restart, expire it, vanish and deliver late, in any order.

    The model keeps only what each control plane holds; the directory hears of it when the stream delivers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.directory = Directory(self.clock)
        self.held: dict[str, dict[str, Instance]] = {"A": {}, "B": {}}
        self.epochs = {"A": 1, "B": 1}
        self.queues: dict[str, list[Update]] = {"A": [], "B": []}
        self.seqs = {"a": 0, "b": 0}
        self.ended = {"a": 0, "b": 0}
        self.drained = {"a": 0, "b": 0}
        self.heard_end = {"a": 0, "b": 0}
        self.heard_drain = {"a": 0, "b": 0}
        for name in "AB":
            self.connect(name)

    def connect(self, name: str) -> None:
        held = tuple(self.held[name].values())
        removed = [gone(key, seq) for key, seq in self.ended.items() if seq]
        self.queues[name] = [snapshot(*held, epoch=str(self.epochs[name]), removed=removed)]

    def tell(self, name: str, *changed: Instance, removed=()) -> None:
        self.queues[name].append(delta(*changed, epoch=str(self.epochs[name]), removed=removed))

    @rule(key=KEYS, draining=st.booleans(), names=st.sampled_from(["A", "B", "AB"]))
    def announce(self, key: str, draining: bool, names: str) -> None:
        self.seqs[key] += 1
        state = InstanceState.DRAINING if draining else InstanceState.READY
        new = instance(key, self.seqs[key], state=state)
        if draining:
            self.drained[key] = new.seq
        for name in names:
            self.held[name][key] = new
            self.tell(name, new)

    @rule(key=KEYS, name=CONTROL_PLANES)
    def expire(self, key: str, name: str) -> None:
        held = self.held[name].pop(key, None)
        if held is not None:
            self.tell(name, removed=[gone(key, held.seq, expired=True)])

    @rule(key=KEYS, name=CONTROL_PLANES)
    def deregister(self, key: str, name: str) -> None:
        self.seqs[key] += 1
        self.ended[key] = self.seqs[key]
        self.held[name].pop(key, None)
        self.tell(name, removed=[gone(key, self.seqs[key])])

    @rule(name=CONTROL_PLANES)
    def restart(self, name: str) -> None:
        self.epochs[name] += 1
        self.held[name] = {}
        self.directory.lost(name)
        self.connect(name)

    @rule(name=CONTROL_PLANES)
    def reconnect(self, name: str) -> None:
        self.directory.lost(name)
        self.connect(name)

    @rule(seconds=st.integers(0, 15))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds
        self.directory.tick()

    @precondition(lambda self: any(self.queues.values()))
    @rule(name=CONTROL_PLANES, count=st.integers(1, 3))
    def deliver(self, name: str, count: int) -> None:
        for _ in range(min(count, len(self.queues[name]))):
            update = self.queues[name].pop(0)
            for removal in update.removed:
                if not removal.expired:
                    self.heard_end[removal.instance_id] = max(self.heard_end[removal.instance_id], removal.seq)
            for changed in update.changed:
                if changed.state is InstanceState.DRAINING:
                    self.heard_drain[changed.instance_id] = max(self.heard_drain[changed.instance_id], changed.seq)
            self.directory.apply(name, update)

    @invariant()
    def nothing_that_ended_or_drained_comes_back(self) -> None:
        for found in self.directory.all():
            assert found.seq > self.heard_end[found.instance_id]
            assert found.seq >= self.heard_drain[found.instance_id]

    @invariant()
    def the_highest_seq_that_is_held_and_delivered_is_shown(self) -> None:
        if any(self.queues.values()):
            return
        shown = {found.instance_id: found for found in self.directory.all()}
        for key in "ab":
            seqs = [held[key].seq for held in self.held.values() if key in held]
            highest = max(seqs, default=0)
            if highest == self.seqs[key] > 0:
                assert shown[key].seq == highest
            elif key in shown:
                assert shown[key].seq >= highest

    @invariant()
    def lists_by_name_agree_with_the_whole(self) -> None:
        assert sorted(found.instance_id for found in self.directory.instances("echo")) == sorted(
            found.instance_id for found in self.directory.all()
        )


TestTwoControlPlanes = TwoControlPlanes.TestCase
TestTwoControlPlanes.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def by_name(*changed: Instance, agents=(), ended=(), epoch="1", removed=(), first=True) -> Update:
    infos = tuple(AgentInfo(name, role="llm") for name in agents)
    return Update(epoch, 1, first, changed, tuple(removed), 10.0, infos, tuple(ended))


def test_a_name_is_known_and_described_before_its_instances_are_asked_for(directory: Directory):
    directory.apply("A", by_name(agents=["echo", "upper"]))
    assert (directory.names(), directory.known("echo"), directory.known("nobody")) == (["echo", "upper"], True, False)
    described = directory.described("echo")
    assert described is not None
    assert described.role == "llm"
    assert directory.instances("echo") == ()


def test_of_names_that_are_asked_for_the_instances_say_whether_they_are_served(directory: Directory):
    directory.apply("A", by_name(instance(), agents=["echo", "upper"]), ["echo"])
    assert directory.names() == ["echo", "upper"]
    directory.apply("A", by_name(removed=[gone()], first=False))
    assert directory.names() == ["upper"]
    assert directory.known("echo")


def test_names_come_and_end_and_are_visible_changes(directory: Directory):
    directory.apply("A", by_name(agents=["echo"]))
    version = directory.version
    directory.apply("A", by_name(agents=["upper"], ended=["echo"], first=False))
    assert directory.names() == ["upper"]
    assert directory.version > version
    version = directory.version
    directory.apply("A", by_name(agents=["upper"]))
    assert directory.version == version


def test_a_wider_watch_takes_nothing_away_and_drops_what_went_in_between(directory: Directory):
    directory.apply("A", by_name(instance("a"), instance("b"), agents=["echo", "upper"]), ["echo"])
    directory.apply("A", by_name(instance("a"), instance("c", agents=("upper",)), agents=["echo", "upper"]), ["upper"])
    assert {found.instance_id for found in directory.all()} == {"a", "c"}


def test_names_too_survive_a_restart_for_one_lease(directory: Directory, clock: Clock):
    directory.apply("A", by_name(agents=["echo", "upper"]))
    directory.lost("A")
    directory.apply("A", by_name(agents=["echo"], epoch="2"))
    assert directory.names() == ["echo", "upper"]
    assert directory.next_expiry() == clock.now + 10
    clock.now += 10
    version = directory.version
    directory.tick()
    assert directory.names() == ["echo"]
    assert directory.version > version


def test_names_of_a_control_plane_that_cannot_be_heard_count_only_while_none_can(directory: Directory):
    directory.apply("A", by_name(agents=["echo"]))
    directory.apply("B", by_name(agents=["upper"]))
    directory.lost("B")
    assert directory.names() == ["echo"]
    directory.lost("A")
    assert directory.names() == ["echo", "upper"]
