"""What a classifier reads out of log probabilities, and calibration."""

from __future__ import annotations

import math
from typing import Any

import pytest
from aixgo.agents.classifier import ClassifierAgent
from aixgo.agents.leanings import leanings, softmax
from aixgo.config.spec import AgentSpec
from aixgo.llm.contract import Completion, TokenChoice
from aixgo.testing import Reply, ScriptedModel, running, scripted_models

NAMES = ("billing", "technical", "sales")


def tokens(name: str = "billing", **likeliest: float) -> tuple[TokenChoice, ...]:
    logs = {text: math.log(share) for text, share in likeliest.items()}
    return (TokenChoice('{"category"'), TokenChoice(':"'), TokenChoice(name[:4], logs), TokenChoice(name[4:] + '"}'))


def named(name: str, **likeliest: float) -> Completion:
    return Completion(f'{{"category":"{name}"}}', "m", tokens=tokens(name, **likeliest))


def test_leanings_are_read_where_the_name_begins():
    found = leanings(named("billing", bill=0.5, b=0.1, tech=0.3, other=0.1), NAMES)
    assert found is not None
    assert softmax(found) == pytest.approx({"billing": 0.6, "technical": 0.3, "sales": 0.1})


def test_a_category_that_was_not_listed_gets_the_least():
    found = leanings(named("billing", bill=0.8, zzz=0.2), NAMES)
    assert found is not None
    assert found["sales"] == pytest.approx(math.log(0.2))


def test_a_token_that_begins_with_the_quote_is_understood():
    logs = {'"bill': math.log(0.75), '"sales': math.log(0.25), "{": 0.0}
    parts = (TokenChoice('{"category":'), TokenChoice('"bill', logs), TokenChoice('ing"}'))
    found = leanings(Completion('{"category":"billing"}', "m", tokens=parts), ("billing", "sales"))
    assert found is not None
    assert softmax(found) == pytest.approx({"billing": 0.75, "sales": 0.25})


@pytest.mark.parametrize(
    "completion", [Completion('{"category":"billing"}', "m"), Completion("", "m", tokens=tokens())]
)
def test_nothing_is_made_up(completion: Completion):
    assert leanings(completion, NAMES) is None


def scripted(*replies: Completion) -> ScriptedModel:
    return ScriptedModel([Reply(one.text, tokens=one.tokens) for one in replies])


async def classified(model: ScriptedModel, times: int = 1, **config: Any) -> Any:
    spec = AgentSpec(name="c", role="classifier", model=("test/m",), config={"categories": list(NAMES), **config})
    reply = None
    async with running(ClassifierAgent(spec, models=scripted_models(m=model))) as runtime:
        for _ in range(times):
            reply = await runtime.call("c", "text")
    return reply


async def test_confidence_is_the_models_share_of_the_category():
    reply = await classified(scripted(named("billing", bill=0.6, tech=0.2)))
    assert reply.metadata["confidence"] == pytest.approx(0.6)
    assert reply.metadata["confidence_from"] == "logprobs"


async def test_calibration_takes_the_leaning_out_and_is_done_once():
    leaning = named("billing", bill=0.8, tech=0.1, sale=0.1)
    model = scripted(leaning, named("billing", bill=0.6, tech=0.3, sale=0.1), named("billing", bill=0.9, tech=0.1))
    reply = await classified(model, times=2, calibrate=["N/A"])
    assert [one.messages[-1].content for one in model.requests] == ["N/A", "text", "text"]
    assert reply.payload == "billing"


async def test_a_calibrated_answer_may_differ_from_the_models_own():
    model = scripted(named("billing", bill=0.8, tech=0.1, sale=0.1), named("billing", bill=0.6, tech=0.3, sale=0.1))
    reply = await classified(model, calibrate=["N/A"])
    assert reply.payload == "technical"
    assert reply.metadata["confidence"] == pytest.approx(3 / 4.75)
    assert reply.usage.llm_calls == 2


async def test_without_log_probabilities_calibration_changes_nothing():
    model = ScriptedModel([{"category": "sales"}, {"category": "billing"}])
    reply = await classified(model, calibrate=["N/A"])
    assert reply.payload == "billing"
    assert "confidence" not in reply.metadata
