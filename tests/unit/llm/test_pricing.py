"""What tokens cost: whose price is taken, what cached tokens cost, and that nothing is rounded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import genai_prices
import pytest
from aixgo.llm.known_prices import KnownPrices
from aixgo.llm.price import Price
from aixgo.llm.pricing import DEFAULT_PRICES, Prices
from aixgo.usage import Ledger, Usage
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
NIGHT = datetime(2026, 7, 1, 20, tzinfo=UTC)
TABLE = {
    "openai/gpt-4-turbo": ("0.01", "0.03"),
    "openai/gpt-4-turbo-preview": ("0.01", "0.03"),
    "openai/gpt-4": ("0.03", "0.06"),
    "openai/gpt-3.5-turbo": ("0.0005", "0.0015"),
    "openai/gpt-3.5-turbo-16k": ("0.003", "0.004"),
    "anthropic/claude-3-5-sonnet-20241022": ("0.003", "0.015"),
    "anthropic/claude-3-opus-20240229": ("0.015", "0.075"),
    "anthropic/claude-3-sonnet-20240229": ("0.003", "0.015"),
    "anthropic/claude-3-haiku-20240307": ("0.00025", "0.00125"),
    "xai/grok-beta": ("0.005", "0.015"),
    "gemini/gemini-1.5-pro": ("0.00125", "0.005"),
    "gemini/gemini-1.5-flash": ("0.000075", "0.0003"),
    "deepseek/deepseek-chat": ("0.00014", "0.00028"),
    "deepseek/deepseek-coder": ("0.00014", "0.00028"),
}
"""The rows of the architecture document."""
PRICED_OTHERWISE = {"deepseek/deepseek-chat"}
"""Rows whose vendor asks something else today."""


def prices(own: dict[str, Price] | None = None, now: datetime = NOW) -> Prices:
    return Prices(own, now=lambda: now)


def price(name: str, **more: datetime) -> Price:
    vendor, _, model = name.partition("/")
    found = prices(**more).find(vendor, model)
    assert found is not None, name
    return found


def usd(*digits: str) -> tuple[Decimal, ...]:
    return tuple(map(Decimal, digits))


def test_the_table_has_every_row_of_the_architecture_document() -> None:
    assert {name.partition("/")[2]: usd(*row) for name, row in TABLE.items()} == {
        name: (row.prompt, row.completion) for name, row in DEFAULT_PRICES.items()
    }


@pytest.mark.parametrize("name", sorted(TABLE.keys() - PRICED_OTHERWISE))
def test_the_models_of_the_table_cost_what_it_says(name: str) -> None:
    found = price(name)
    assert (found.prompt, found.completion) == usd(*TABLE[name])


def test_the_library_wins_over_the_table() -> None:
    assert price("deepseek/deepseek-chat").prompt == Decimal("0.00027")


def test_a_price_may_depend_on_the_time_of_day() -> None:
    assert price("deepseek/deepseek-chat", now=NIGHT).prompt == Decimal("0.000135")


def test_the_users_price_wins_over_all_others() -> None:
    own = {"gpt-4": Price(*usd("1", "2")), "local/smollm2-135m": Price(*usd("3", "4"))}
    found = prices(own)
    assert found.find("openai", "gpt-4") is own["gpt-4"]
    assert found.find("local", "smollm2-135m") is own["local/smollm2-135m"]


def test_a_full_name_wins_over_a_bare_one() -> None:
    own = {"gpt-4": Price(*usd("1", "2")), "openai/gpt-4": Price(*usd("3", "4"))}
    assert prices(own).find("openai", "gpt-4") is own["openai/gpt-4"]


@pytest.mark.parametrize(
    ("name", "per_thousand"),
    [
        ("openai/text-embedding-3-small", "0.00002"),
        ("openai/text-embedding-3-large", "0.00013"),
        ("gemini/gemini-embedding-001", "0.00015"),
    ],
)
def test_embeddings_have_a_price(name: str, per_thousand: str) -> None:
    assert price(name).of(Usage(1000)) == Decimal(per_thousand)


def test_cached_tokens_cost_what_the_vendor_asks_for_them() -> None:
    """Per million: 3 fresh, 0.30 read, 3.75 written, 15 completed."""
    usage = Usage(1_000_000, 1_000_000, cached_tokens=500_000, cache_write_tokens=300_000)
    found = price("anthropic/claude-3-5-sonnet-20241022")
    assert found.of(usage) == Decimal("0.6") + Decimal("0.15") + Decimal("1.125") + 15


def test_cached_tokens_without_a_price_of_their_own_cost_what_others_do() -> None:
    plain = Price(*usd("1", "2"))
    assert plain.of(Usage(1000, cached_tokens=400, cache_write_tokens=100)) == 1


def test_a_long_prompt_costs_more_from_its_first_token_on() -> None:
    found = price("gemini/gemini-1.5-pro")
    assert found.of(Usage(128_000)) == 128 * found.prompt
    assert found.of(Usage(128_001)) == Decimal("128.001") * found.prompt * 2


def test_what_is_not_sold_by_the_token_has_no_price(caplog: pytest.LogCaptureFixture) -> None:
    assert prices().find("openai", "whisper-1") is None
    assert "openai/whisper-1 is not known" in caplog.text


def test_an_unknown_model_is_warned_of_once_however_it_is_looked_up(caplog: pytest.LogCaptureFixture) -> None:
    found = prices()

    async def look_up() -> list[Price | None]:
        return [await found.look_up("xai", "grok-99") for _ in range(3)]

    assert asyncio.run(look_up()) == [found.find("xai", "grok-99")] * 3 == [None] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_without_the_library_the_table_stands_and_the_warning_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(KnownPrices, "available", False)
    assert prices().find("deepseek", "deepseek-chat") is DEFAULT_PRICES["deepseek-chat"]
    assert prices().find("openai", "gpt-5-mini") is None
    assert "aixgo[prices]" in caplog.text


def test_the_library_is_imported_when_a_model_is_asked_for_that_only_it_may_know() -> None:
    code = (
        "import asyncio, sys; from aixgo.llm.pricing import Prices; prices = Prices();"
        " asyncio.run(prices.look_up('local', 'm')); print('genai_prices' in sys.modules);"
        " asyncio.run(prices.look_up('openai', 'gpt-4')); print('genai_prices' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "True"]


def listed() -> Sequence[tuple[str, str]]:
    """Every model of our vendors that the library sells by the token."""
    from aixgo.llm.known_prices import _PROVIDERS
    from genai_prices.data_snapshot import get_snapshot

    known, snapshot = KnownPrices(lambda: NOW), get_snapshot()
    ours = [(vendor, one) for vendor, name in _PROVIDERS.items() for one in snapshot.providers if one.id == name]
    return [(vendor, model.id) for vendor, one in ours for model in one.models if known.find(vendor, model.id)]


LISTED = listed()
counts = st.integers(0, 2_000_000)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LISTED), counts, counts, counts, counts)
def test_a_price_of_the_library_is_what_the_library_calculates(
    name: tuple[str, str], fresh: int, read: int, written: int, completion: int
) -> None:
    from aixgo.llm.known_prices import _PROVIDERS

    usage = Usage(fresh + read + written, completion, cached_tokens=read, cache_write_tokens=written)
    reported = genai_prices.Usage(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=completion,
    )
    expected = genai_prices.calc_price(reported, name[1], provider_id=_PROVIDERS[name[0]], genai_request_timestamp=NOW)
    found = prices().find(*name)
    assert found is not None
    assert found.of(usage) == expected.total_price


rates = st.decimals(0, 10, places=9)
made = st.builds(Price, rates, rates, st.none() | rates, st.none() | rates)


@given(made, counts, counts, st.integers(0, 100), st.integers(0, 100))
def test_no_use_of_the_cache_costs_more_than_the_most(
    one: Price, prompt: int, completion: int, read: int, written: int
) -> None:
    one = replace(one, cached=min(one.cached or one.prompt, one.prompt))
    cached = prompt * min(read, 100 - written) // 100
    usage = Usage(prompt, completion, cached_tokens=cached, cache_write_tokens=(prompt - cached) * written // 100)
    assert one.of(usage) <= one.most(prompt, completion)


@given(made, st.integers(0, 100_000), st.decimals(0, 1000, places=6))
def test_an_affordable_completion_is_the_longest_that_does_not_cost_more(
    one: Price, prompt: int, most: Decimal
) -> None:
    tokens = one.affordable(prompt, most)
    if tokens is None:
        assert one.completion == 0
    elif tokens >= 0:
        assert one.most(prompt, tokens) <= most < one.most(prompt, tokens + 1)
    else:
        assert one.most(prompt, 0) > most


@given(st.lists(st.tuples(counts, counts), max_size=50), made)
def test_the_cost_of_many_calls_is_the_cost_of_their_tokens(calls: list[tuple[int, int]], one: Price) -> None:
    """Sums of decimals are exact: the order and the number of calls make no difference, to the last digit."""
    above = Ledger()
    for prompt, completion in calls:
        usage = Usage(prompt, completion, llm_calls=1)
        above.record(replace(usage, cost_usd=one.of(usage)))
    prompt, completion = (sum(column) for column in zip(*calls, strict=True)) if calls else (0, 0)
    assert (above.usage.cost_usd or 0) == one.of(Usage(prompt, completion))
