"""Metering: the ledger, the budget, prices and the span, however an LLM call ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest
from aixgo import errors
from aixgo.call import Budget, CallState, entered, root
from aixgo.llm.contract import ChatMessage, Chunk, Completion, CompletionRequest, Image
from aixgo.llm.metering import Metered, estimate_prompt
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.pricing import Price, Prices
from aixgo.llm.scripted import Reply, Scripted, ScriptedModel
from aixgo.usage import NO_USAGE, Usage

DEAR = {"test/m": Price(Decimal(1), Decimal(2))}


def asked(text: str = "one two three", **more: Any) -> CompletionRequest:
    return CompletionRequest((ChatMessage("user", text),), **more)


def models(*replies: Scripted, prices: dict[str, Price] | None = None) -> Models:
    return Models(ModelSettings(), scripted={"m": ScriptedModel(replies)}, prices=prices)


def calling(budget: Budget | None = None) -> CallState:
    state = root()
    state.budget = budget
    return state


async def test_a_completion_is_in_the_ledger_once_with_its_cost():
    state = calling()
    with entered(state):
        got = await models("four five", prices=DEAR).chat(["test/m"]).complete(asked())
    assert state.ledger.usage == Usage(3, 2, llm_calls=1, cost_usd=Decimal("0.007"))
    assert got.usage == state.ledger.usage


async def test_a_stream_is_in_the_ledger_once_when_it_has_ended():
    state = calling()
    with entered(state):
        async for _ in models("four five").chat(["test/m"]).stream(asked()):
            pass
    assert state.ledger.usage == Usage(3, 2, llm_calls=1, cost_usd=Decimal(0))


async def test_it_works_outside_of_any_call():
    assert (await models("x").chat(["test/m"]).complete(asked())).usage.llm_calls == 1


async def test_a_refused_call_costs_nothing_and_counts_as_a_call():
    state = calling()
    with entered(state), pytest.raises(errors.RateLimited):
        await models(errors.RateLimited("later")).chat(["test/m"]).complete(asked())
    assert state.ledger.usage == Usage(llm_calls=1, cost_usd=Decimal(0))


async def test_a_failure_that_says_what_it_spent_is_believed():
    failure = errors.ProviderUnavailable("gone")
    failure.usage = Usage(4, 6)
    state = calling()
    with entered(state), pytest.raises(errors.ProviderUnavailable):
        await models(failure, prices=DEAR).chat(["test/m"]).complete(asked())
    assert state.ledger.usage == Usage(4, 6, llm_calls=1, cost_usd=Decimal("0.016"))


def test_pictures_are_a_part_of_what_a_prompt_is_estimated_at():
    seen = CompletionRequest((ChatMessage("user", "what?", images=[Image(url="https://a.example/b.png")] * 2),))
    assert estimate_prompt(seen) == estimate_prompt(asked("what?")) + 2 * 1600


@pytest.mark.parametrize("prices", [DEAR, {}])
async def test_what_a_call_that_times_out_has_taken_is_not_known_and_at_most_what_it_asked_for(
    prices: dict[str, Price],
):
    prompt = estimate_prompt(asked())
    state = calling()
    with entered(state), pytest.raises(errors.ProviderTimeout):
        await models(errors.ProviderTimeout("late"), prices=prices).chat(["test/m"]).complete(asked(max_tokens=50))
    assert state.ledger.usage == Usage(
        llm_calls=1,
        cost_usd=Decimal(0),
        incomplete=True,
        unsettled_tokens=prompt + 50,
        unsettled_usd=Decimal(prompt + 100) / 1000 if prices else Decimal(0),
    )


async def test_what_a_vendor_said_before_it_broke_off_is_counted_and_the_rest_is_unsettled():
    gone = errors.ProviderUnavailable("gone")
    gone.usage = Usage(30, 1, incomplete=True)
    state = calling(Budget(tokens=5000))
    with entered(state), pytest.raises(errors.ProviderUnavailable):
        await models(gone, prices=DEAR).chat(["test/m"]).complete(asked(max_tokens=50))
    assert (state.ledger.usage.total_tokens, state.ledger.usage.cost_usd) == (31, Decimal("0.032"))
    assert (state.ledger.usage.unsettled_tokens, state.ledger.usage.unsettled_usd) == (49, Decimal("0.098"))
    assert state.budget is not None
    assert state.budget.left()[0] == 5000 - 80


async def test_a_budget_does_not_get_back_what_a_call_may_have_taken_that_was_broken_off():
    budget = Budget(tokens=5000)
    with entered(calling(budget)), pytest.raises(errors.ProviderTimeout):
        await models(errors.ProviderTimeout("late")).chat(["test/m"]).complete(asked(max_tokens=50))
    assert budget.tokens == 5000 - estimate_prompt(asked()) - 50


async def test_a_cancelled_completion_is_recorded():
    state = calling()
    with entered(state):
        asking = asyncio.create_task(Models(ModelSettings()).chat(["test/slow"]).complete(asked()))
        for _ in range(5):
            await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    spent = state.ledger.usage
    assert (spent.llm_calls, spent.total_tokens, spent.incomplete) == (1, 0, True)
    assert spent.unsettled_tokens == estimate_prompt(asked()) + asked().max_tokens


async def test_a_stream_that_is_left_counts_what_came_and_is_marked_incomplete():
    state = calling()
    with entered(state):
        stream = models(Reply("x", deltas=["abcd", "efgh", "ijkl"])).chat(["test/m"]).stream(asked())
        async with aclosing(stream) as chunks:  # pyright: ignore[reportArgumentType]
            await anext(chunks)
            await anext(chunks)
    spent = state.ledger.usage
    assert (spent.prompt_tokens, spent.completion_tokens, spent.llm_calls) == (estimate_prompt(asked()), 2, 1)
    assert (spent.incomplete, spent.unsettled_tokens) == (True, asked().max_tokens - 2)


async def test_a_stream_that_breaks_counts_what_came():
    state = calling()
    broken = Reply("x", deltas=["abcdefgh"], error=errors.ProviderUnavailable("gone"))
    with entered(state), pytest.raises(errors.ProviderUnavailable):
        async for _ in models(broken).chat(["test/m"]).stream(asked()):
            pass
    assert (state.ledger.usage.completion_tokens, state.ledger.usage.incomplete) == (2, True)


async def test_a_vendor_that_reports_no_usage_is_estimated():
    state = calling()
    with entered(state):
        await models(Reply("abcdefgh", usage=NO_USAGE)).chat(["test/m"]).complete(asked())
    assert (state.ledger.usage.completion_tokens, state.ledger.usage.incomplete) == (2, True)


async def test_a_budget_pays_what_was_really_spent():
    budget = Budget(tokens=5000, usd=Decimal(10))
    with entered(calling(budget)):
        await models("four five", prices=DEAR).chat(["test/m"]).complete(asked(max_tokens=100))
    assert budget.left() == (4995, Decimal("9.993"))


@pytest.mark.parametrize("ending", [errors.RateLimited("later"), Reply(error=errors.ProviderUnavailable("gone"))])
async def test_a_budget_gets_back_what_a_failed_call_had_reserved(ending: Scripted):
    budget = Budget(tokens=5000)
    with entered(calling(budget)), pytest.raises(errors.ProviderError):
        await models(ending).chat(["test/m"]).complete(asked(max_tokens=100))
    assert budget.tokens == 5000


async def test_the_completion_is_shortened_to_what_the_budget_leaves():
    model = ScriptedModel(["x"])
    budget = Budget(tokens=estimate_prompt(asked()) + 20)
    with entered(calling(budget)):
        await Models(ModelSettings(), scripted={"m": model}).chat(["test/m"]).complete(asked(max_tokens=1000))
    assert model.requests[0].max_tokens == 20


async def test_the_completion_is_shortened_to_what_the_usd_leave():
    model = ScriptedModel(["x"])
    prompt_cost = DEAR["test/m"].of(Usage(prompt_tokens=estimate_prompt(asked())))
    budget = Budget(usd=prompt_cost + Decimal("0.0501"))
    with entered(calling(budget)):
        chat = Models(ModelSettings(), scripted={"m": model}, prices=DEAR).chat(["test/m"])
        await chat.complete(asked(max_tokens=1000))
    assert model.requests[0].max_tokens == 25


@pytest.mark.parametrize("budget", [Budget(tokens=10), Budget(usd=Decimal("0.02"))])
async def test_a_budget_that_leaves_too_little_refuses_before_anything_is_sent(budget: Budget):
    model = ScriptedModel(["x"])
    state = calling(budget)
    before = budget.left()
    with entered(state), pytest.raises(errors.BudgetExceeded):
        await Models(ModelSettings(), scripted={"m": model}, prices=DEAR).chat(["test/m"]).complete(asked())
    assert model.requests == []
    assert state.ledger.usage is NO_USAGE
    assert budget.left() == before


async def test_calls_at_the_same_time_cannot_overspend_together():
    gate = asyncio.Event()
    both = models(Reply("x", gate=gate), Reply("y", gate=gate))
    budget = Budget(tokens=estimate_prompt(asked()) * 2 + 100)
    with entered(calling(budget)):
        first = asyncio.create_task(both.chat(["test/m"]).complete(asked(max_tokens=95)))
        await asyncio.sleep(0)
        with pytest.raises(errors.BudgetExceeded):
            await both.chat(["test/m"]).complete(asked(max_tokens=95))
        gate.set()
        await first


async def test_an_unknown_price_is_none_with_one_warning_and_never_zero(caplog: pytest.LogCaptureFixture):
    prices = Prices({"mine": Price(Decimal(1), Decimal(1)), "xai/grok-9": Price(Decimal(3), Decimal(3))})
    assert [prices.find("openai", "gpt-9") for _ in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "openai/gpt-9" in caplog.text
    assert prices.find("openai", "mine") == Price(Decimal(1), Decimal(1))
    assert prices.find("xai", "grok-9") == Price(Decimal(3), Decimal(3))
    gpt4 = prices.find("openai", "gpt-4")
    assert gpt4 is not None
    assert gpt4.of(Usage(1000, 500)) == Decimal("0.06")
    local = prices.find("local", "smollm2-135m")
    assert local is not None
    assert local.of(Usage(10, 10)) == 0


class Endless:
    """A client whose stream ends without its completion."""

    vendor = "test"

    async def complete(self, request: CompletionRequest) -> Completion:
        raise NotImplementedError

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        yield Chunk("abcd")

    async def close(self) -> None: ...


async def test_a_client_that_ends_its_stream_without_a_completion_is_found_out_and_counted():
    budget = Budget(tokens=5000)
    state = calling(budget)
    stream = Metered(Endless(), Prices()).stream(asked())
    with entered(state):
        assert (await anext(stream)).text == "abcd"
        with pytest.raises(errors.InternalError, match="without its completion"):
            await anext(stream)
    assert budget.tokens == 5000 - estimate_prompt(asked()) - asked().max_tokens
    assert budget.tokens == 5000 - state.ledger.usage.held_tokens
    assert state.ledger.usage.incomplete
