"""The ambient call state, and the arithmetic of budgets."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from aixgo import call as ambient
from aixgo.call import KEPT_TOKENS, KEPT_USD, Budget, CallState
from aixgo.errors import BudgetExceeded, DepthExceeded
from aixgo.usage import Ledger, Usage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule


def spent(tokens: int, usd: Decimal | None = None) -> Usage:
    return Usage(tokens, llm_calls=1, cost_usd=usd)


class Spending(RuleBasedStateMachine):
    """LLM calls under one budget, some of them through lent parts, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Budget(1000, Decimal(10))
        self.budgets = [self.root]
        self.lent: dict[int, tuple[Budget, Budget]] = {}
        self.reserved: list[tuple[Budget, Budget]] = []
        self.tokens, self.usd = 0, Decimal()

    @rule(which=st.integers(0, 9), tokens=st.integers(0, 600), cents=st.integers(0, 600))
    def reserve(self, which: int, tokens: int, cents: int) -> None:
        budget = self.budgets[which % len(self.budgets)]
        left = budget.left()
        try:
            self.reserved.append((budget, budget.reserve(tokens, Decimal(cents) / 100)))
        except BudgetExceeded:
            assert budget.left() == left
            assert tokens > left[0] or Decimal(cents) / 100 > left[1]

    @precondition(lambda self: self.reserved)
    @rule(which=st.integers(0, 9), share=st.integers(0, 100))
    def settle(self, which: int, share: int) -> None:
        """A call takes at most what it reserved."""
        budget, reservation = self.reserved.pop(which % len(self.reserved))
        tokens, usd = reservation.tokens * share // 100, reservation.usd * share / 100
        budget.repay(reservation, spent(tokens, usd))
        self.tokens += tokens
        self.usd += usd

    @rule(which=st.integers(0, 9), share=st.integers(1, 5))
    def lend(self, which: int, share: int) -> None:
        budget = self.budgets[which % len(self.budgets)]
        part = budget.lend(share)
        self.lent[id(part)] = (budget, part)
        self.budgets.append(part)

    @rule(tokens=st.none() | st.integers(0, 500), which=st.integers(0, 9))
    def narrow(self, tokens: int | None, which: int) -> None:
        """A call with a limit of its own, in the same process."""
        self.budgets.append(Budget(tokens, None, above=self.budgets[which % len(self.budgets)]))

    @invariant()
    def never_overspent(self) -> None:
        assert self.tokens <= 1000
        assert self.usd <= 10
        assert all(budget.tokens is None or budget.tokens >= 0 for budget in self.budgets)
        assert all(budget.usd is None or budget.usd >= 0 for budget in self.budgets)

    @invariant()
    def nothing_is_lost(self) -> None:
        """What is spent, reserved, lent out and left is what there was."""
        while self.lent and not self.reserved:
            _, (above, part) = self.lent.popitem()
            self.budgets = [b for b in self.budgets if b is self.root]
            above.reclaim(part)
        if not self.reserved:
            tokens, usd = self.root.left()
            assert tokens == 1000 - self.tokens
            assert abs(usd - (10 - self.usd)) < Decimal("1e-20")


TestSpending = Spending.TestCase


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_equal_shares_add_up_to_all_that_is_left(tokens: int, count: int) -> None:
    budget = Budget(tokens, Decimal(tokens) / 7)
    parts = [budget.lend(share) for share in range(count, 0, -1)]
    assert sum(part.tokens for part in parts if part.tokens is not None) == tokens
    assert budget.left() == (0, Decimal())
    assert max(p.tokens or 0 for p in parts) - min(p.tokens or 0 for p in parts) <= 1
    for part in parts:
        budget.reclaim(part)
    assert budget.tokens == tokens


def test_what_a_lent_part_did_not_spend_comes_back() -> None:
    budget = Budget(100, Decimal(1))
    lent = budget.lend()
    assert budget.left() == (0, Decimal())
    budget.repay(lent, spent(30, Decimal("0.25")))
    assert budget.left() == (70, Decimal("0.75"))


@given(st.integers(0, 10**6), st.decimals(0, 100, places=6))
def test_a_grant_keeps_a_quarter_back_where_that_is_of_use(tokens: int, usd: Decimal) -> None:
    budget = Budget(tokens, usd)
    granted = budget.grant()
    assert granted.tokens is not None
    assert granted.usd is not None
    kept_tokens, kept_usd = budget.left()
    assert kept_tokens == (tokens // 4 if tokens // 4 >= KEPT_TOKENS else 0)
    assert kept_usd == (usd / 4 if usd / 4 >= KEPT_USD else 0)
    assert (granted.tokens + (kept_tokens or 0), granted.usd + (kept_usd or 0)) == (tokens, usd)


def test_a_grant_without_limits_has_none() -> None:
    assert Budget().grant().left() == (None, None)


@given(st.decimals(0, 1, places=9), st.integers(1, 50))
def test_shares_of_usd_never_add_up_to_more_than_there_is(usd: Decimal, count: int) -> None:
    budget = Budget(None, usd)
    lent = sum((budget.lend(share).usd or Decimal() for share in range(count, 0, -1)), Decimal())
    assert lent == usd
    assert budget.usd == 0


def test_what_may_have_been_spent_counts_as_spent() -> None:
    budget = Budget(100, Decimal(1))
    lost = budget.lend()
    budget.repay(lost, lost.as_unsettled())
    assert budget.left() == (0, Decimal())


def test_who_still_holds_a_part_that_was_reclaimed_can_reserve_nothing_more() -> None:
    budget = Budget(100, Decimal(1))
    part = budget.lend(2)
    budget.reclaim(part)
    assert budget.left() == (100, Decimal(1))
    with pytest.raises(BudgetExceeded):
        part.reserve(1)
    with pytest.raises(BudgetExceeded):
        part.reserve(0, Decimal("0.01"))


def test_a_budget_inside_a_budget_is_bound_by_both() -> None:
    above = Budget(100)
    own = Budget(40, above=above)
    own.reserve(30)
    assert own.left() == (10, None)
    assert above.left() == (70, None)
    above.reserve(65)
    assert own.left() == (5, None)
    with pytest.raises(BudgetExceeded) as caught:
        own.reserve(6)
    assert caught.value.fields == {"needed_tokens": 6, "left_tokens": 5}


def test_without_limits_everything_may_be_reserved() -> None:
    budget = Budget()
    budget.repay(budget.reserve(10**12, Decimal(10**6)), spent(10**12))
    assert budget.left() == (None, None)
    assert budget.lend(3).left() == (None, None)


def test_usd_of_an_unknown_price_do_not_stand_in_the_way() -> None:
    assert Budget(None, Decimal(0)).reserve(10, None).tokens == 10


def test_too_little_money_names_what_is_needed_and_what_is_left() -> None:
    with pytest.raises(BudgetExceeded, match="max_cost_usd") as caught:
        Budget(None, Decimal("0.1")).reserve(1, Decimal("0.2"))
    assert caught.value.fields == {"needed_usd": "0.2", "left_usd": "0.1"}


def state(depth: int = 0, path: tuple[str, ...] = ()) -> CallState:
    return CallState(100.0, depth, path, "s", Ledger(), Budget(10))


def test_a_child_inherits_all_but_its_own_level() -> None:
    above = state()
    child = above.child("a").child("b")
    assert (child.deadline, child.depth, child.path, child.session_id) == (100.0, 2, ("a", "b"), "s")
    assert child.budget is above.budget
    child.ledger.record(spent(7))
    assert above.ledger.usage.total_tokens == 7


def test_a_call_deeper_than_the_limit_names_the_circle() -> None:
    deep = state(2, ("a", "b")).child("a")
    deep.check_depth(3)
    with pytest.raises(DepthExceeded, match="a > b > a") as caught:
        deep.check_depth(2)
    assert caught.value.agent_path == ("a", "b", "a")
    assert caught.value.fields == {"limit": 2}


async def test_the_current_call_ends_with_its_block() -> None:
    assert ambient.current() is None
    assert ambient.remaining() is None
    assert ambient.current_path() == ()
    with ambient.entered(ambient.root(50).child("a")) as nothing:
        assert nothing is None
        assert ambient.current_path() == ("a",)
        left = ambient.remaining()
        assert left is not None
        assert 0 < left <= 50
    assert ambient.current() is None


async def test_what_remains_is_never_negative() -> None:
    with ambient.entered(ambient.root(-1).child("a")):
        assert ambient.remaining() == 0.0


async def test_the_start_of_a_reactive_agent_is_a_path_of_its_own() -> None:
    async def start() -> tuple[str, ...]:
        ambient.set_reactive_agent("feed")
        return ambient.current_path()

    assert await asyncio.create_task(start()) == ("feed",)
    assert ambient.reactive_agent() == ""
