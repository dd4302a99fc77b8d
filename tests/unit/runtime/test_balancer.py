"""Choosing an instance: the less loaded of two, never one that is ejected, unready or draining."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from aixgo.runtime.balancer import (
    FAILURES_IN_A_ROW,
    LONGEST_REST,
    REPORT_COUNTS,
    RETRY_CAPACITY,
    TRIAL,
    Balancer,
    RetryBudget,
)
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from hypothesis import given
from hypothesis import strategies as st


def instance(
    name: str, state: InstanceState = InstanceState.READY, *, ready: bool = True, agent: str = "a"
) -> Instance:
    return Instance(name, f"{name}:1", 1, (AgentInfo(agent, ready=ready),), state)


def balancer(**in_flight: int) -> Balancer:
    made = Balancer(random.Random(7))
    for name, count in in_flight.items():
        made.load(name).in_flight = count
    return made


def picks(made: Balancer, *instances: Instance, times: int = 300) -> Counter[str]:
    chosen = (made.pick("a", instances, ()) for _ in range(times))
    return Counter(pick.instance_id for pick in chosen if pick is not None)


def test_the_busiest_of_three_is_never_chosen_and_the_idlest_most() -> None:
    counts = picks(balancer(x=9, y=5, z=0), instance("x"), instance("y"), instance("z"))
    assert counts["x"] == 0
    assert counts["z"] > counts["y"] > 0


def test_equal_loads_are_spread() -> None:
    counts = picks(balancer(), *(instance(name) for name in "wxyz"), times=4000)
    assert set(counts) == set("wxyz")
    assert min(counts.values()) > 700


@given(st.lists(st.integers(0, 100), min_size=2, max_size=2), st.integers())
def test_of_two_the_less_loaded_is_chosen(loads: list[int], seed: int) -> None:
    made = Balancer(random.Random(seed))
    made.load("x").in_flight, made.load("y").in_flight = loads
    pick = made.pick("a", [instance("x"), instance("y")], ())
    assert pick is not None
    assert made.load(pick.instance_id).in_flight == min(loads)


def test_an_instance_that_said_that_it_is_busy_is_tried_once_in_a_while_until_it_says_otherwise() -> None:
    """It says nothing as long as nothing has changed: without a new word the last one holds."""
    now = 0.0
    made = Balancer(random.Random(7), lambda: now)
    made.load("x").in_flight = made.load("y").in_flight = 0
    made.reported("x", 20)
    both = instance("x"), instance("y")
    assert picks(made, *both) == {"y": 300}
    for _ in range(3):
        now += REPORT_COUNTS + 0.1
        assert picks(made, *both)["x"] == 1
        now += TRIAL / 2
        assert picks(made, *both) == {"y": 300}
    made.reported("x", 0)
    assert picks(made, *both)["x"] > 100


@given(
    st.lists(st.tuples(st.sampled_from(InstanceState), st.booleans(), st.booleans(), st.booleans()), max_size=6),
    st.integers(),
)
def test_only_a_usable_instance_is_chosen_and_one_is_whenever_there_is_any(
    kinds: list[tuple[InstanceState, bool, bool, bool]], seed: int
) -> None:
    made = Balancer(random.Random(seed))
    instances = [instance(str(n), state, ready=ready) for n, (state, ready, _, _) in enumerate(kinds)]
    tried = {str(n) for n, (_, _, was_tried, _) in enumerate(kinds) if was_tried}
    for n, (_, _, _, ejected) in enumerate(kinds):
        made.load(str(n)).ejected = ejected
    usable = {
        str(n)
        for n, (state, ready, was_tried, ejected) in enumerate(kinds)
        if state is InstanceState.READY and ready and not was_tried and not ejected
    }
    pick = made.pick("a", instances, tried)
    assert (pick is None) == (not usable)
    assert pick is None or pick.instance_id in usable


@pytest.mark.parametrize(
    "unusable",
    [
        instance("x", InstanceState.DRAINING), instance("x", InstanceState.NOT_READY), instance("x", ready=False),
        instance("x", agent="b"),
    ],
    ids=["draining", "not ready", "agent not ready", "another agent"],
)  # fmt: skip
def test_an_instance_that_takes_no_calls_is_not_chosen_even_alone(unusable: Instance) -> None:
    assert balancer().pick("a", [unusable], ()) is None
    assert picks(balancer(y=50), unusable, instance("y")) == Counter(y=300)


def test_failures_in_a_row_eject_and_an_answer_between_them_does_not() -> None:
    made = balancer()
    for _ in range(10):
        assert [made.failed("x", refused=False) for _ in range(FAILURES_IN_A_ROW - 1)] == [False] * (
            FAILURES_IN_A_ROW - 1
        )
        made.succeeded("x")
    assert [made.failed("x", refused=False) for _ in range(FAILURES_IN_A_ROW + 1)] == [False, False, True, False]
    assert made.pick("a", [instance("x")], ()) is None


def test_a_refused_connection_ejects_at_once_and_health_readmits() -> None:
    made = balancer()
    assert made.failed("x", refused=True)
    assert not made.failed("x", refused=True)
    assert picks(made, instance("x"), instance("y")) == Counter(y=300)
    made.readmit("x")
    assert made.pick("a", [instance("x")], ()) is not None
    assert not made.failed("x", refused=False)


class Clock:
    """A clock that is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def resting(*names: str, retry_after: float = 2.0) -> tuple[Balancer, Clock]:
    clock = Clock()
    made = Balancer(random.Random(7), clock)
    for name in names:
        made.refused("a", name, retry_after)
    return made, clock


def test_an_instance_that_refuses_calls_rests_as_long_as_it_says_and_then_one_call_tries_it() -> None:
    made, clock = resting("x")
    pair = instance("x"), instance("y")
    assert picks(made, *pair) == Counter(y=300)
    clock.now = 2.0
    assert picks(made, *pair)["x"] > 0
    made.tries("a", made.load("x"))
    assert picks(made, *pair) == Counter(y=300)  # while that call is out
    made.answered("a", made.load("x"))
    assert picks(made, *pair)["x"] > 0
    assert made.load("x").rests == {}


def test_a_trial_that_says_nothing_is_followed_by_another() -> None:
    made, clock = resting("x")
    clock.now = 2.0
    made.tries("a", made.load("x"))
    clock.now += TRIAL
    assert picks(made, instance("x"), instance("y"))["x"] > 0


def test_an_answer_to_a_call_from_before_the_refusal_does_not_end_the_rest() -> None:
    made, _ = resting("x")
    made.answered("a", made.load("x"))
    assert picks(made, instance("x"), instance("y")) == Counter(y=300)


def test_where_all_rest_calls_go_on() -> None:
    made, _ = resting("x", "y")
    assert set(picks(made, instance("x"), instance("y"))) == {"x", "y"}


def test_a_rest_is_of_one_agent_and_never_long() -> None:
    made, clock = resting("x", retry_after=1e9)
    other = [instance("x", agent="b"), instance("y", agent="b")]
    assert {pick.instance_id for _ in range(50) if (pick := made.pick("b", other, ()))} == {"x", "y"}
    clock.now = LONGEST_REST
    assert picks(made, instance("x"), instance("y"))["x"] > 0


def test_records_of_instances_that_are_gone_are_dropped_unless_calls_are_out() -> None:
    made = balancer(gone=0, busy=1, here=0)
    made.forget({"here"})
    assert made.loads.keys() == {"busy", "here"}


def test_choosing_records_nothing() -> None:
    made = balancer()
    picks(made, instance("x"), instance("y"))
    assert not made.loads


def test_retries_are_a_fifth_of_the_calls_once_the_reserve_is_spent() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(1000)) == RETRY_CAPACITY
    granted = 0
    for _ in range(1000):
        budget.paid()
        granted += budget.spend()
    assert granted == pytest.approx(200, abs=2)


def test_the_reserve_of_retries_does_not_grow_beyond_its_capacity() -> None:
    budget = RetryBudget()
    for _ in range(10_000):
        budget.paid()
    assert sum(budget.spend() for _ in range(1000)) == RETRY_CAPACITY
