"""What an example does with another input than the first of its README: the side of its pattern not seen there."""

from __future__ import annotations

from decimal import Decimal

import pytest
from aixgo import Message, errors
from aixgo.config.load import load
from aixgo.launch import default_target, opened

from tests.examples.readme import Example


async def answer(name: str, text: str) -> Message:
    config = load(Example(name).config)
    async with opened(config) as runtime:
        return await runtime.call(default_target(config), text)


async def test_a_release_that_breaks_nothing_has_no_upgrade_notes():
    example = Example("sequential-release-notes")
    reply = await answer(example.name, example.inputs("run")[1])
    assert reply.metadata["skipped_steps"] == [{"step": 3, "agent": "upgrade", "reason": "condition"}]
    assert "The date picker begins the week as your country does." in reply.text


async def test_the_report_comes_without_the_analyst_that_is_down():
    example = Example("parallel-analysis")
    reply = await answer(example.name, example.inputs("run")[0])
    assert reply.metadata["parallel_errors"]["competitors"]["class"] == "ProviderUnavailable"
    assert list(reply.metadata["parallel_results"]) == ["sentiment", "topic", "churn"]


async def test_an_easy_question_goes_to_the_small_model_and_costs_less_than_a_hard_one():
    easy = await answer("router-costopt", "How do I export a report?")
    hard = await answer("router-costopt", "Which plan is cheaper for us?")
    assert (easy.metadata["routed_to"], hard.metadata["routed_to"]) == ("small", "large")
    assert easy.usage.cost_usd is not None
    assert hard.usage.cost_usd is not None
    assert Decimal() < easy.usage.cost_usd < hard.usage.cost_usd / 10


async def test_a_person_decides_where_the_three_opinions_differ():
    example = Example("ensemble-medical")
    reply = await answer(example.name, example.inputs("run")[1])
    assert reply.text == "person"
    assert reply.metadata["used_fallback"]
    assert reply.metadata["votes"] == {"today": 1.0, "appointment": 1.0, "self-care": 1.0}
    assert "nurse said self-care" in reply.metadata["note"]


async def test_a_review_that_cannot_be_read_is_left_out_and_said():
    reply = await answer("mapreduce-reviews", "Street noise all night.\nAbc def.\nHair in the shower.")
    assert reply.metadata["findings"] == 2
    assert [(one["index"], one["class"]) for one in reply.metadata["failed_items"]] == [(1, "ProviderRejected")]


async def test_the_second_plan_repeats_nothing_that_the_first_one_found():
    example = Example("planning-incident")
    reply = await answer(example.name, example.inputs("run")[0])
    assert [step["id"] for step in reply.metadata["plan"]] == ["load", "errors", "changes", "flag", "check", "message"]
    assert "rollback" not in reply.metadata["step_results"]


async def test_an_input_that_no_script_knows_fails_and_says_what_to_do():
    with pytest.raises(errors.ProviderRejected, match=r"no rule of .*script\.yaml holds"):
        await answer("swarm-customer-service", "Do you sell umbrellas?")
