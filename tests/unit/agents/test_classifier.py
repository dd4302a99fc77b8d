"""The classifier's methods beyond one choice of a model: embeddings, several labels, stated confidence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aixgo.agents.classifier import ClassifierAgent
from aixgo.config.spec import AgentSpec
from aixgo.errors import AgentFailed, ConfigError, InvalidCompletion, InvalidInput
from aixgo.llm.embeddings import Embedder
from aixgo.message import Message
from aixgo.orchestration.router import Router
from aixgo.runtime.contract import CallOptions
from aixgo.testing import ScriptedModel, running, scripted_models

TEAMS = {"billing": "refund, invoice, money", "technical": "crash, error, login"}


def classifier(*replies: Any, **config: Any) -> tuple[ClassifierAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    spec = AgentSpec(name="c", role="classifier", model=("test/m",), config={"categories": TEAMS, **config})
    return ClassifierAgent(spec, models=scripted_models(m=model)), model


def similar(**config: Any) -> ClassifierAgent:
    spec = AgentSpec(
        name="c",
        role="classifier",
        config={"categories": TEAMS, "method": "embeddings", "embeddings": "test/words", **config},
    )
    return ClassifierAgent(spec, models=scripted_models())


async def classified(made: ClassifierAgent, text: str = "x") -> Message:
    async with running(made) as runtime:
        return await runtime.call("c", text)


# embeddings


async def test_the_most_similar_category_is_chosen_and_its_cosine_is_the_confidence() -> None:
    reply = await classified(similar(), "the login has an error")
    assert reply.payload == "technical"
    known = reply.metadata
    assert (known["category"], known["confidence_from"], known["model"]) == ("technical", "similarity", "test/words")
    assert known["confidence"] == known["similarities"]["technical"] == pytest.approx(2 / 20**0.5)
    assert known["similarities"]["billing"] == 0


async def test_an_example_can_be_nearer_than_every_description() -> None:
    examples = [{"text": "my screen stays black", "category": "technical"}]
    reply = await classified(similar(examples=examples), "my screen stays black")
    assert (reply.payload, reply.metadata["confidence"]) == ("technical", pytest.approx(1))


async def test_what_is_similar_to_nothing_goes_to_the_fallback_of_a_router() -> None:
    made = similar(min_similarity=0.3)
    router = Router("r", made, {"billing": "echo", "technical": "echo"}, fallback="human")
    agents = [named("echo"), named("human")]
    async with running(router, *agents) as runtime:
        reply = await runtime.call("r", "what a lovely day")
        assert (reply.payload, reply.metadata["category"]) == ("human", "none")
        assert (await runtime.call("r", "an invoice and a refund")).payload == "echo"


def named(name: str) -> Any:
    from aixgo.agent import agent

    @agent(name=name)
    async def answer(_: Message) -> str:
        return name

    return answer


async def test_categories_are_embedded_once_and_counted_with_the_first_call() -> None:
    async with running(similar()) as runtime:
        first, second = [await runtime.call("c", "error") for _ in range(2)]
    assert first.usage.llm_calls == 2
    assert second.usage.llm_calls == 1


async def test_two_first_calls_at_once_embed_the_categories_once() -> None:
    made = similar()
    counted = Counting(made._method._embedder)  # type: ignore[attr-defined]
    made._method._embedder = counted  # type: ignore[attr-defined]
    async with running(made) as runtime:
        await asyncio.gather(*(runtime.call("c", "error") for _ in range(3)))
    assert sorted(len(texts) for texts in counted.asked) == [1, 1, 1, 2]


async def test_categories_that_could_not_be_embedded_are_tried_again() -> None:
    made = similar()
    counted = Counting(made._method._embedder, fail_first=True)  # type: ignore[attr-defined]
    made._method._embedder = counted  # type: ignore[attr-defined]
    async with running(made) as runtime:
        with pytest.raises(AgentFailed):
            await runtime.call("c", "error")
        assert (await runtime.call("c", "error")).payload == "technical"


class Counting:
    """An embedder that notes what it was asked, and may fail at first."""

    name = "test/words"
    dimensions = None

    def __init__(self, inner: Embedder, *, fail_first: bool = False) -> None:
        self.inner, self.failing = inner, fail_first
        self.asked: list[Any] = []

    async def embed(self, texts: Any) -> Any:
        self.asked.append(texts)
        if self.failing:
            self.failing = False
            raise OSError("no")
        await asyncio.sleep(0)
        return await self.inner.embed(texts)


async def test_an_empty_text_has_no_embedding() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        await classified(similar(), " ")


async def test_several_categories_can_be_similar_enough() -> None:
    made = similar(multi_label=True, threshold=0.25)
    reply = await classified(made, "invoice refund error")
    assert reply.payload == ["billing", "technical"]
    assert [each["category"] for each in reply.metadata["categories"]] == ["billing", "technical"]
    assert reply.metadata["category"] == "billing"
    assert (await classified(similar(multi_label=True), "nothing")).payload == []


# several labels by a model


async def test_the_model_decides_on_each_category() -> None:
    made, model = classifier({"billing": True, "technical": True}, multi_label=True)
    reply = await classified(made)
    assert reply.payload == ["billing", "technical"]
    assert reply.metadata == {
        "category": "billing", "input": "x", "model": "m", "stop_reason": "stop",
        "categories": [{"category": "billing"}, {"category": "technical"}],
    }  # fmt: skip
    asked = model.requests[0].schema
    assert asked is not None
    assert {name: part["type"] for name, part in asked["properties"].items()} == dict.fromkeys(TEAMS, "boolean")
    assert model.requests[0].top_logprobs == 0


async def test_a_message_may_belong_nowhere() -> None:
    made, _ = classifier({"billing": False, "technical": False}, multi_label=True, otherwise="other")
    reply = await classified(made)
    assert (reply.payload, reply.metadata["category"], reply.metadata["categories"]) == ([], "other", [])
    assert "confidence" not in reply.metadata


async def test_a_categorys_share_of_the_votes_is_its_confidence() -> None:
    both, one = {"billing": True, "technical": True}, {"billing": False, "technical": True}
    none = {"billing": False, "technical": False}
    made, _ = classifier(both, one, one, none, multi_label=True, votes=4, temperature=0.7)
    reply = await classified(made)
    assert reply.metadata["categories"] == [{"category": "technical", "confidence": 0.75}]
    assert (reply.metadata["confidence"], reply.metadata["confidence_from"]) == (0.75, "votes")
    assert reply.usage.llm_calls == 4


async def test_the_model_says_how_sure_it_is_of_each_and_the_threshold_decides() -> None:
    examples: list[Any] = [{"text": "both", "category": ["technical", "billing"]}, {"text": "neither", "category": []}]
    made, model = classifier(
        {"billing": 0.4, "technical": 0.9}, multi_label=True, confidence="model", threshold=0.3, examples=examples
    )
    reply = await classified(made)
    assert reply.payload == ["technical", "billing"]
    assert reply.metadata["categories"] == [
        {"category": "technical", "confidence": 0.9},
        {"category": "billing", "confidence": 0.4},
    ]
    shown = [turn.content for turn in model.requests[0].messages if turn.role == "assistant"]
    assert shown == ['{"billing":1.0,"technical":1.0}', '{"billing":0.0,"technical":0.0}']


async def test_names_that_are_no_identifiers_work_as_labels() -> None:
    categories = ["e-mail & post", "model_config", "class"]
    made, _ = classifier(
        {"e-mail & post": True, "model_config": False, "class": True}, multi_label=True, categories=categories
    )
    assert (await classified(made)).payload == ["e-mail & post", "class"]


# confidence from the model


async def test_the_model_is_asked_how_sure_it_is() -> None:
    made, model = classifier(
        {"category": "billing", "confidence": 0.8},
        confidence="model",
        examples=[{"text": "it hangs", "category": "technical"}],
    )
    reply = await classified(made)
    assert (reply.metadata["confidence"], reply.metadata["confidence_from"]) == (0.8, "model")
    asked = model.requests[0]
    assert "how sure you are" in asked.messages[0].content
    assert asked.messages[2].content == '{"category":"technical","confidence":1.0}'
    assert asked.top_logprobs == 0


async def test_a_confidence_that_is_no_share_is_asked_for_again_and_refused_in_the_end() -> None:
    wrong = {"category": "billing", "confidence": 8}
    made, _ = classifier(wrong, {"category": "billing", "confidence": 0.8}, confidence="model")
    assert (await classified(made)).metadata["confidence"] == 0.8
    with pytest.raises(InvalidCompletion):
        await classified(classifier(wrong, wrong, wrong, confidence="model")[0])


async def test_a_percentage_is_understood_as_the_share_that_was_asked_for() -> None:
    made, _ = classifier({"category": "billing", "confidence": 80}, confidence="model")
    assert (await classified(made)).metadata["confidence"] == 0.8


async def test_embedding_obeys_the_budget_of_the_call() -> None:
    from aixgo.errors import BudgetExceeded

    async with running(similar()) as runtime:
        with pytest.raises(BudgetExceeded):
            await runtime.call("c", "error", options=CallOptions(max_tokens=1))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"method": "embeddings", "votes": 3}, "votes: only method model uses it"),
        ({"method": "embeddings", "template": "{text}?"}, "template: only method model uses it"),
        ({"embeddings": "test/words"}, "embeddings: only method embeddings uses it"),
        ({"min_similarity": 0.5}, "min_similarity: only method embeddings uses it"),
        ({"threshold": 0.5}, "threshold: only multi_label uses it"),
        ({"method": "embeddings", "multi_label": True, "min_similarity": 0.5}, "with multi_label set threshold"),
        ({"method": "embeddings", "embeddings": "test/wrods"}, "agents.c.config.embeddings: .*did you mean 'words'"),
        ({"multi_label": True, "calibrate": ["N/A"]}, "calibrate: it works on the choice of one category"),
        ({"confidence": "model", "votes": 3, "temperature": 1}, "confidence: votes and calibrate find it"),
        ({"examples": [{"text": "x", "category": ["billing", "technical"]}]}, "examples.0: has 2 categories; name one"),
        ({"method": "llm"}, "method: "),
    ],
)
def test_what_does_not_go_together_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        classifier(**config)


def test_embeddings_need_no_chat_model() -> None:
    assert similar().ready()
