"""The short form of `make chaos`: each fault twice, some trees, the same seed every time. Counts, never the clock."""

from __future__ import annotations

import pytest

from tests.chaos import report, trees
from tests.chaos.faults import FAULTS
from tests.chaos.networks import available

SEED, TIMES, TREES, IN_FLIGHT = 6, 2, 5, 32
TRANSPORTS = ("session", "plain")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_no_fault_of_a_process_fails_an_idempotent_call_or_leaves_one_hanging(transport: str) -> None:
    faults = [fault for fault in FAULTS if not fault.needs_networks]
    ended = await report.run(faults, times=TIMES, seed=SEED, transport=transport, in_flight=IN_FLIGHT)
    assert ended.held, ended.table()
    assert [row.times for row in ended.rows] == [TIMES] * len(faults)
    killed = ended.rows[0].tally
    assert killed.streams_cut, ended.table()  # else nothing was under way, and nothing was shown
    assert all(row.tally.ok and row.tally.late for row in ended.rows), ended.table()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_no_cut_of_the_network_fails_an_idempotent_call_or_leaves_one_hanging(transport: str) -> None:
    if why := available():
        pytest.skip(f"networks cannot be cut here: {why}")
    faults = [fault for fault in FAULTS if fault.needs_networks]
    ended = await report.run(faults, times=TIMES, seed=SEED, transport=transport, in_flight=IN_FLIGHT)
    assert ended.held, ended.table()
    assert [row.times for row in ended.rows] == [TIMES] * len(faults)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_everything_of_a_cancelled_tree_stops_and_what_it_spent_is_told(transport: str) -> None:
    ended = await trees.run(times=TREES, seed=SEED, transport=transport)
    assert ended.held, ended.table()
    assert ended.trees == TREES
    assert ended.requests_cut, ended.table()  # else no model was at work
