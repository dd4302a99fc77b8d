"""Tokens, USD and the ledgers that sum them up a call tree."""

from __future__ import annotations

from decimal import Decimal

from aixgo.usage import NO_USAGE, Ledger, Usage
from hypothesis import given
from hypothesis import strategies as st

counts = st.integers(0, 10**9)
prices = st.none() | st.decimals(0, 1000, places=6)
unsettled = st.decimals(0, 1000, places=6)
usages = st.builds(
    Usage, counts, counts, counts, counts, counts, prices, counts, st.booleans(), counts, counts, unsettled
)


@given(usages, usages, usages)
def test_addition_is_associative_and_commutative(a: Usage, b: Usage, c: Usage) -> None:
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a


@given(usages)
def test_no_usage_adds_nothing(usage: Usage) -> None:
    assert usage + NO_USAGE is usage
    assert NO_USAGE + usage is usage


@given(usages, usages)
def test_total_tokens_add_up_and_a_lower_bound_stays_one(a: Usage, b: Usage) -> None:
    total = a + b
    assert total.total_tokens == a.total_tokens + b.total_tokens
    assert total.at_least == (a.at_least or b.at_least)


def test_an_unknown_cost_is_never_zero() -> None:
    unknown = Usage(10, 5, llm_calls=1, unpriced_calls=1)
    priced = Usage(10, 5, llm_calls=1, cost_usd=Decimal("0.5"))
    assert (unknown + unknown).cost_usd is None
    assert (unknown + priced).cost_usd == Decimal("0.5")
    assert (unknown + priced).at_least
    assert not priced.at_least


@given(st.lists(st.tuples(st.integers(0, 100), usages), max_size=30))
def test_each_record_counts_once_at_its_own_level_and_at_each_above(records: list[tuple[int, Usage]]) -> None:
    """Ledger number n hangs below number (n - 1) // 2; a record goes to one of them."""
    ledgers = [Ledger()]
    for number in range(1, 31):
        ledgers.append(Ledger(ledgers[(number - 1) // 2]))
    expected = [NO_USAGE] * len(ledgers)
    for choice, usage in records:
        number = choice % len(ledgers)
        ledgers[number].record(usage)
        while True:
            expected[number] += usage
            if number == 0:
                break
            number = (number - 1) // 2
    assert [ledger.usage for ledger in ledgers] == expected


@given(st.lists(st.tuples(st.sampled_from("abc"), usages), max_size=10))
def test_a_ledger_says_who_spent_what(records: list[tuple[str, Usage]]) -> None:
    above = Ledger(Ledger(), "above")
    for name, usage in records:
        Ledger(above, name).record(usage)
    assert sum(above.by_agent.values(), NO_USAGE) == above.usage
    for name, share in above.by_agent.items():
        assert share == sum((usage for other, usage in records if other == name), NO_USAGE)


@given(usages, usages)
def test_what_counts_against_a_budget_adds_up(a: Usage, b: Usage) -> None:
    assert (a + b).held_tokens == a.held_tokens + b.held_tokens
    assert (a + b).held_usd == a.held_usd + b.held_usd


def test_recording_nothing_leaves_a_ledger_without_usage() -> None:
    ledger = Ledger(Ledger())
    ledger.record(Usage())
    assert ledger.usage is NO_USAGE
