"""Whatever a call tree does, what the vendor billed is what the ledger has and what the caller is told."""

from __future__ import annotations

from decimal import Decimal

from aixgo import Usage
from hypothesis import given

from tests.ledger.cast import Tree
from tests.ledger.conftest import IN_A_MESH, Mesh
from tests.ledger.trees import trees

TOKENS, USD = 10**7, Decimal(1000)
"""More than any tree spends."""
MOSTLY, WHOLLY = 0.6, 0.25
"""Of all trees, those of which all is known that can be, to the token: in the others a call was cancelled on its way,
before its callee knew of it. And those of which everything is known, because no LLM call was broken off."""


def test_what_was_billed_is_in_the_ledger_and_in_the_reply_to_the_token_and_the_cent(mesh: Mesh) -> None:
    known: list[bool] = []
    whole: list[bool] = []

    @IN_A_MESH
    @given(trees)
    def check(tree: Tree) -> None:
        run = mesh.run(tree, TOKENS, USD)
        assert run.told == run.ledger
        assert run.budget.left() == (TOKENS - run.ledger.held_tokens, USD - run.ledger.held_usd)
        assert run.ledger.total_tokens <= run.billed.total_tokens <= run.ledger.held_tokens
        assert cost(run.ledger) <= cost(run.billed) <= run.ledger.held_usd
        known.append(run.ledger.unsettled_tokens == run.known.unsettled_tokens)
        whole.append(not run.ledger.incomplete)
        if known[-1]:
            assert run.ledger == run.known
        else:
            assert run.ledger.incomplete
            assert run.ledger.unsettled_tokens > run.known.unsettled_tokens
        if whole[-1]:
            assert run.ledger == run.billed

    check()
    assert len(known) >= 200
    assert sum(known) >= MOSTLY * len(known)
    assert sum(whole) >= WHOLLY * len(whole)


def cost(usage: Usage) -> Decimal:
    return usage.cost_usd or Decimal()
