"""How the chaos program counts: a table that hides what broke would be worse than none."""

from __future__ import annotations

import asyncio
import random

import pytest
from aixgo import DistributedRuntime, Usage
from aixgo.errors import DeadlineExceeded, InstanceLost

from tests.chaos.cast import ONCE, STUCK, TELL, WORK
from tests.chaos.lag import LoopLag
from tests.chaos.load import KINDS, STUCK_KINDS, Cut, Kind, Load, Wrong
from tests.chaos.report import Report, Row
from tests.chaos.trees import Cancelled, Lags, Told

LAGS = Lags({1: [(10.0, 12.0), (14.0, 15.0)], 2: [(11.0, 13.0)], 3: [(0.0, 100.0)]})


@pytest.mark.parametrize(
    ("processes", "begin", "end", "lag"),
    [
        ({1}, 9.0, 20.0, 3.0),
        ({2}, 9.0, 20.0, 2.0),
        ({1, 2}, 9.0, 20.0, 4.0),  # what both lost at once counts once
        ({1, 2}, 11.5, 14.5, 2.0),
        ({1}, 12.0, 14.0, 0.0),
        ({4}, 9.0, 20.0, 0.0),
        ({1, 2, 3}, 9.0, 20.0, 11.0),
    ],
)
def test_lag_is_the_time_in_which_any_process_on_the_way_could_not_act(
    processes: set[int], begin: float, end: float, lag: float
) -> None:
    assert LAGS.within(processes, begin, end) == pytest.approx(lag)


def kind(agent: str) -> Kind:
    return next(kind for kind in (*KINDS, *STUCK_KINDS) if kind.agent == agent)


@pytest.mark.parametrize(
    ("agent", "error", "held"),
    [
        (WORK, None, True),
        (STUCK, DeadlineExceeded("late"), True),
        (ONCE, InstanceLost("gone"), True),
        (TELL, Cut(InstanceLost("gone")), True),
        (WORK, InstanceLost("gone"), False),
        (WORK, DeadlineExceeded("late"), False),
        (STUCK, InstanceLost("gone"), False),
        (ONCE, ValueError("not typed"), False),
        (ONCE, Wrong("the reply to another call"), False),
    ],
)
async def test_which_ends_break_a_promise(agent: str, error: Exception | None, held: bool) -> None:
    async def end() -> None:
        if error is not None:
            raise error

    load = Load(DistributedRuntime(), LoopLag(), "", in_flight=1, rng=random.Random(1))
    task = asyncio.create_task(end())
    await asyncio.wait({task})
    load._judge(kind(agent), task, 0.0)
    row = Row("a fault", times=1, tally=load.tally)
    assert row.held is held
    assert bool(row.complaints()) is not held
    assert Report("plain", 1, [row]).held is held


@pytest.mark.parametrize(
    ("usage", "exact", "silent"),
    [
        (Usage(30, 15, llm_calls=3), True, False),
        (Usage(20, 10, llm_calls=2), False, True),
        (Usage(20, 10, llm_calls=2, incomplete=True), False, False),
        (Usage(10, 5, llm_calls=3), False, True),
    ],
)
def test_usage_that_is_missing_without_a_word_breaks_a_promise(usage: Usage, exact: bool, silent: bool) -> None:
    told = Told(usage, begun=3, answered=2)
    assert (told.exact, told.silent) == (exact, silent)
    assert Cancelled("plain", 1, trees=1, told=[told]).held is not silent
