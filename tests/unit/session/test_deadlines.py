"""Deadlines against a loop whose clock the test turns."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aixgo.runtime.deadlines import Deadlines
from hypothesis import given
from hypothesis import strategies as st


class Timer:
    def __init__(self, when: float, run: Any) -> None:
        self.when, self.run, self.cancelled = when, run, False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The part of an event loop that deadlines use."""

    def __init__(self) -> None:
        self.now = 100.25
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Any, *args: Any) -> Timer:
        self.timers.append(Timer(when, lambda: callback(*args)))
        return self.timers[-1]

    def turn(self, until: float) -> None:
        """Let time pass, timer by timer."""
        while due := [timer for timer in self.timers if timer.when <= until and not timer.cancelled]:
            timer = min(due, key=lambda timer: timer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            timer.run()
        self.now = until


class Watched:
    def __init__(self) -> None:
        self.clock = Clock()
        self.expired: list[tuple[str, float]] = []
        loop = cast("asyncio.AbstractEventLoop", self.clock)
        self.deadlines = Deadlines[str](loop, lambda item: self.expired.append((item, self.clock.now)))


@pytest.mark.parametrize("after", [0.0, 0.01, 0.74, 0.75, 1.0, 29.999, 300.0])
def test_an_item_expires_when_it_is_due(after: float) -> None:
    watched = Watched()
    due = watched.clock.now + after
    watched.deadlines.add(due, "a")
    watched.clock.turn(due - 0.000_1)
    assert watched.expired == []
    watched.clock.turn(due)
    assert watched.expired == [("a", due)]
    watched.deadlines.remove(due, "a")
    assert len(watched.deadlines) == 0


def test_many_items_of_one_second_share_a_timer_which_stays_for_the_next() -> None:
    watched = Watched()
    for number in range(1000):
        watched.deadlines.add(400.5, str(number))
        watched.deadlines.remove(400.5, str(number))
    assert len(watched.clock.timers) == 1
    watched.deadlines.add(500.5, "later")
    assert len(watched.deadlines) == 1


def test_no_timers_stay_behind_whatever_deadlines_callers_choose() -> None:
    watched = Watched()
    for number in range(1000):
        watched.deadlines.add(200.0 + number * 7919, "a")
        watched.deadlines.remove(200.0 + number * 7919, "a")
    assert len(watched.deadlines) == 1
    assert sum(not timer.cancelled for timer in watched.clock.timers) == 1


TIMES = st.floats(0, 5, allow_nan=False)


@given(st.lists(st.tuples(TIMES, TIMES, st.booleans()), max_size=20))
def test_what_is_removed_in_time_never_expires_and_the_rest_does_on_time(plan: list[tuple[float, float, bool]]) -> None:
    watched = Watched()
    begin = watched.clock.now
    steps = [(begin + at, index, "add") for index, (at, _, _) in enumerate(plan)]
    steps += [(begin + at + after, index, "end") for index, (at, after, removed) in enumerate(plan) if removed]
    dues = [begin + at + after + 0.5 for at, after, _ in plan]
    for when, index, what in sorted(steps, key=lambda step: step[0]):
        watched.clock.turn(when)
        change = watched.deadlines.add if what == "add" else watched.deadlines.remove
        change(dues[index], str(index))
    watched.clock.turn(begin + 20)
    expected = {str(index): dues[index] for index, (_, _, removed) in enumerate(plan) if not removed}
    assert dict(watched.expired) == expected
    assert len(watched.expired) == len(expected)
