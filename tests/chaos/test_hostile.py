"""The siege in its short form: one round, every attack on every port, both fleets."""

from __future__ import annotations

import pytest

from tests.chaos.hostile import besiege
from tests.chaos.raw_attacks import RAW
from tests.chaos.registry_attacks import CONTROL_PLANE
from tests.chaos.rpc_attacks import AGENTS, HEALTH_CHECKS


@pytest.mark.timeout(600)
async def test_a_round_of_hostile_input_on_every_port_breaks_no_promise() -> None:
    siege, broken = await besiege(minutes=0, seed=1, idle=100)
    assert broken == []
    assert {one.attack for one in siege.book.all} >= {*RAW, *AGENTS, *CONTROL_PLANE, *HEALTH_CHECKS}
    assert all(one.tries > 0 for one in siege.book.all)
    assert all(served.ok > 0 and not served.failed for served in siege.served.values())
