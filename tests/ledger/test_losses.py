"""What a process that was killed has spent cannot be known: it is unsettled, and counts against the budget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aixgo.errors import InstanceLost

from tests.ledger.conftest import CAST, Mesh, meshes
from tests.ledger.test_budgets import call, leaf, node
from tests.support import Fleet, fleet

BUDGET = 100_000


@pytest.fixture
def mortal() -> Iterator[Fleet]:
    """A fleet of one, for one death."""
    with fleet(["node-one", "leaf-one"], cast=CAST) as running:
        yield running


@pytest.fixture
def mesh(mortal: Fleet, tmp_path: Path) -> Iterator[Mesh]:
    yield from meshes(mortal, tmp_path / "bill")


def test_all_that_a_killed_process_was_granted_is_unsettled_and_the_rest_can_be_spent(mesh: Mesh) -> None:
    """It is killed with three quarters of the budget in hand, of which it has spent 64 tokens and told nobody."""
    before, after = leaf("leaf-here", call()), leaf("leaf-here", call(), call())
    tree = node(before, leaf("leaf-one", call(), ends="die"), after) | {"strict": False}
    run = mesh.run(tree, BUDGET, None)
    assert run.error is None
    assert run.told == run.ledger
    assert run.told.incomplete
    assert run.told.total_tokens == 3 * 64
    assert run.told.unsettled_tokens == BUDGET - 64 - (BUDGET - 64) // 4
    assert run.billed.total_tokens == 4 * 64
    assert run.budget.left()[0] == BUDGET - run.told.held_tokens


def test_a_killed_process_below_another_is_unsettled_all_the_way_up(mesh: Mesh) -> None:
    """`node-one` dies with its leaf; what it was granted is what its caller reports."""
    run = mesh.run(node(node(leaf("leaf-one", call(), ends="die"), agent="node-one")), BUDGET, None)
    assert isinstance(run.error, InstanceLost)
    assert run.told.unsettled_tokens == BUDGET - BUDGET // 4
    assert run.told.total_tokens == 0


def test_without_a_budget_a_loss_is_marked_and_has_no_bound(mesh: Mesh) -> None:
    run = mesh.run(node(leaf("leaf-one", call(), ends="die")), None, None)
    assert isinstance(run.error, InstanceLost)
    assert run.told.incomplete
    assert run.told.at_least
    assert run.told.unsettled_tokens == 0
