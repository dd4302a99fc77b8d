"""Usage and budgets: what is spent is counted once, and nobody spends more than was granted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, cast

import pytest
from aixgo import CallOptions, Delta, Event, Usage
from aixgo.errors import BudgetExceeded, DeadlineExceeded

from tests.contract.agents import PRICE
from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise


def tokens(prompt: int, completion: int, calls: int) -> tuple[int, int, int]:
    return prompt, completion, calls


def spent(usage: Usage) -> tuple[int, int, int]:
    return tokens(usage.prompt_tokens, usage.completion_tokens, usage.llm_calls)


@promise("usage.reply")
async def test_a_reply_carries_what_its_model_spent(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("writer", "four words of text")
    assert spent(reply.usage) == tokens(4, 4, 1)
    assert not reply.usage.incomplete


@promise("usage.reply")
async def test_a_reply_sums_up_the_usage_of_all_calls_below(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("drafts", "four words of text")
    assert spent(reply.usage) == tokens(8, 8, 2)


@promise("usage.reply")
async def test_usage_is_counted_once_however_many_agents_pass_it_on(mesh: Mesh) -> None:
    route = {"route": ["via-two", "via-three", "drafts"], "message": "two words"}
    reply = await mesh.runtime.call("via-one", route, timeout=BOUND)
    assert spent(reply.usage) == tokens(4, 4, 2)


@promise("usage.reply")
async def test_parallel_usage_is_summed(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("paid-panel", "one two three")
    assert spent(reply.usage) == tokens(6, 6, 2)


@promise("usage.reply")
async def test_an_agent_that_asks_no_model_costs_nothing(mesh: Mesh) -> None:
    assert (await mesh.runtime.call("via-one", {"route": ["upper"], "message": "x"})).usage == Usage()


@promise("usage.reply")
async def test_the_cost_is_summed_exactly(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("via-two", {"route": ["drafts"], "message": "four words of text"})
    assert reply.usage.cost_usd == (4 * PRICE.prompt + 4 * PRICE.completion) / 1000


@promise("budget.refused")
async def test_a_model_call_that_may_cost_more_than_granted_is_refused(mesh: Mesh) -> None:
    with pytest.raises(BudgetExceeded, match="USD"):
        await mesh.runtime.call("writer", "x", options=CallOptions(max_cost_usd=Decimal("0.00001")))


@promise("usage.left")
async def test_a_call_whose_deadline_passes_says_what_it_has_spent(mesh: Mesh) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        await mesh.runtime.call("paid-then-slow", "two words", timeout=1.0)
    usage = caught.value.usage
    assert usage.incomplete or spent(usage) == tokens(2, 2, 1)


@promise("usage.left")
async def test_what_a_stream_has_spent_that_was_left_early_is_counted(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("leaver", "two words", timeout=BOUND)
    assert reply.payload == "left"
    assert reply.usage.incomplete or spent(reply.usage) == tokens(2, 2, 1)


@promise("budget.refused")
async def test_a_model_call_over_the_budget_is_refused_before_it_is_made(mesh: Mesh) -> None:
    with pytest.raises(BudgetExceeded, match="tokens") as caught:
        await mesh.runtime.call("writer", "x", options=CallOptions(max_tokens=5))
    assert caught.value.usage.total_tokens == 0


@promise("budget.refused", "stream.errors")
async def test_a_streamed_model_call_over_the_budget_is_refused_too(mesh: Mesh) -> None:
    streamed: list[Event] = []
    async with mesh.runtime.stream("writer", "x", options=CallOptions(max_tokens=5)) as events:
        with pytest.raises(BudgetExceeded):  # noqa: PT012  # the loop is what raises
            async for event in events:
                streamed.append(event)
    assert not any(isinstance(event, Delta) for event in streamed)


@promise("budget.inherited", "budget.refused")
async def test_a_budget_holds_the_agents_below_too(mesh: Mesh) -> None:
    route = {"route": ["via-two", "writer"], "message": "x"}
    with pytest.raises(BudgetExceeded) as caught:
        await mesh.runtime.call("via-one", route, options=CallOptions(max_tokens=5))
    assert caught.value.agent_path == ("via-one", "via-two", "writer")


@promise("budget.inherited")
async def test_the_second_step_gets_what_the_first_has_left(mesh: Mesh) -> None:
    """The first step spends 60 of 90 tokens; the second's prompt and least completion need more than 30."""
    text = "w " * 30
    with pytest.raises(BudgetExceeded) as caught:
        await mesh.runtime.call("drafts", text, options=CallOptions(max_tokens=90))
    assert caught.value.agent_path == ("drafts", "shouter")
    assert spent(caught.value.usage) == tokens(30, 30, 1)


@promise("budget.inherited")
async def test_a_budget_arrives_over_two_hops(mesh: Mesh) -> None:
    reply = await mesh.runtime.call(
        "via-one", {"route": ["via-two", "observer"]}, options=CallOptions(max_tokens=1_000)
    )
    assert seen(reply.payload)["tokens"] == 1_000


@promise("budget.inherited")
async def test_without_a_budget_there_is_no_limit(mesh: Mesh) -> None:
    assert seen((await mesh.runtime.call("via-one", {"route": ["observer"]})).payload)["tokens"] is None


@promise("budget.shares")
async def test_parallel_members_get_equal_shares(mesh: Mesh) -> None:
    body = {"targets": ["observer"] * 4}
    reply = await mesh.runtime.call("fan", body, options=CallOptions(max_tokens=1_000))
    assert [seen(payload)["tokens"] for _, payload in cast("list[Any]", reply.payload)] == [250] * 4


@promise("budget.shares")
async def test_what_parallel_members_leave_comes_back(mesh: Mesh) -> None:
    """Two calls that spend nothing leave the whole budget to the one after them."""
    body = {"targets": ["fan-then-observe"]}
    reply = await mesh.runtime.call("fan", body, options=CallOptions(max_tokens=1_000))
    ((_, inner),) = cast("list[Any]", reply.payload)
    assert seen(inner)["tokens"] == 1_000


def seen(payload: object) -> dict[str, Any]:
    return cast("dict[str, Any]", payload)
