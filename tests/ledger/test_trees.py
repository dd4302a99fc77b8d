"""Whatever a call tree does, what the vendor billed is what the ledger has and what the caller is told."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from aixgo import Usage
from hypothesis import given

from tests.ledger.cast import Tree
from tests.ledger.conftest import IN_A_MESH, Mesh
from tests.ledger.trees import trees

TOKENS, USD = 10**7, Decimal(1000)
"""More than any tree spends."""
MOSTLY = 0.6
"""Of all trees, those whose spending must be known to the token. In the others a call was cancelled on its way, before
its callee knew of it, and nobody can say what it has spent."""


def test_what_was_billed_is_in_the_ledger_and_in_the_reply_to_the_token_and_the_cent(mesh: Mesh) -> None:
    exact: list[bool] = []

    @IN_A_MESH
    @given(trees)
    def check(tree: Tree) -> None:
        run = mesh.run(tree, TOKENS, USD)
        assert run.told == run.ledger
        assert run.budget.left() == (TOKENS - run.ledger.held_tokens, USD - run.ledger.held_usd)
        exact.append(not run.ledger.unsettled_tokens)
        if exact[-1]:
            assert plain(run.ledger) == run.billed
        else:
            assert run.ledger.incomplete
            assert run.ledger.total_tokens <= run.billed.total_tokens <= run.ledger.held_tokens
            assert cost(run.ledger) <= cost(run.billed) <= run.ledger.held_usd

    check()
    assert len(exact) >= 200
    assert sum(exact) >= MOSTLY * len(exact)


def plain(usage: Usage) -> Usage:
    """Without the mark of an estimate, which the vendor of these tests bills as it is."""
    return replace(usage, incomplete=False)


def cost(usage: Usage) -> Decimal:
    return usage.cost_usd or Decimal()
