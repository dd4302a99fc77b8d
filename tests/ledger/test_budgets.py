"""A budget that ten members of other processes share is never overspent, whatever they do."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from aixgo.errors import BudgetExceeded
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.cast import HERE, Tree
from tests.ledger.conftest import IN_A_MESH, Mesh
from tests.ledger.trees import crowds

CENT = Decimal("0.01")


def test_ten_parallel_members_in_other_processes_never_overspend_their_budget(remote: Mesh) -> None:
    spent: list[bool] = []

    @IN_A_MESH
    @given(crowds(), st.integers(100, 4000), st.integers(1, 60))
    def check(tree: Tree, tokens: int, cents: int) -> None:
        run = remote.run(tree, tokens, cents * CENT)
        assert run.billed.total_tokens <= run.ledger.held_tokens <= tokens
        assert (run.billed.cost_usd or 0) <= run.ledger.held_usd <= cents * CENT
        assert run.budget.left() == (tokens - run.ledger.held_tokens, cents * CENT - run.ledger.held_usd)
        spent.append(run.billed.total_tokens > tokens // 2)

    check()
    assert any(spent)


def call(**more: Any) -> Tree:
    takes = {"completion": 50, "cached": 0, "written": 0}
    made: Tree = {"model": "cheap", "prompt": 40, "max_tokens": 50, "pieces": 0, "left": False, "does": "answer"}
    return made | {"takes": takes, "forgiven": False} | more


def leaf(agent: str, *calls: Tree, ends: str = "reply") -> Tree:
    return {"agent": agent, "calls": list(calls), "ends": ends, "timeout": None, "by": "call"}


def node(*children: Tree, agent: str = HERE[0]) -> Tree:
    made: Tree = {"agent": agent, "children": list(children), "how": "in turn", "at_once": None, "wanted": 0}
    return made | {"strict": True, "timeout": None, "by": "call"}


def test_who_spent_what_is_said_when_a_budget_is_exceeded(mesh: Mesh) -> None:
    """Each LLM call takes 14 tokens of prompt and 50 of completion."""
    tree = node(leaf("leaf-one", call(), call()), leaf("leaf-two", call()), leaf("leaf-one", call(), call()))
    run = mesh.run(tree, 4 * 64 + 20, None)
    assert isinstance(run.error, BudgetExceeded)
    assert run.error.agent_path == (HERE[0], "leaf-one")
    assert run.error.fields["spent"] == {
        "leaf-one": {"tokens": 192, "cost_usd": "0.000342"},
        "leaf-two": {"tokens": 64, "cost_usd": "0.000114"},
    }
    assert run.billed.total_tokens == 256


@pytest.mark.parametrize("place", ["node-here", "node-one"])
def test_the_error_of_a_callee_says_who_spent_what_below_it(mesh: Mesh, place: str) -> None:
    run = mesh.run(node(leaf("leaf-one", call()), leaf("leaf-two", call()), agent=place), 64 + 20, None)
    assert isinstance(run.error, BudgetExceeded)
    assert run.error.fields["spent"] == {"leaf-one": {"tokens": 64, "cost_usd": "0.000114"}}
