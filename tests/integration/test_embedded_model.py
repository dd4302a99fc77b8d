"""The embedded model itself: needs xllamacpp and the weights (`aixgo model pull`)."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aixgo import errors
from aixgo.agents.classifier import ClassifierAgent
from aixgo.agents.llm import LLMAgent
from aixgo.config.spec import AgentSpec
from aixgo.events import Delta
from aixgo.llm.contract import ChatMessage, CompletionRequest, ToolOffer
from aixgo.llm.embedded import ServedModel, serve_model
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.weights import find_weights, pull_weights
from aixgo.testing import running

MODEL = "local/smollm2-135m"
_DIRECTORY = Path(os.environ["AIXGO_MODEL_DIR"]) if os.environ.get("AIXGO_MODEL_DIR") else None
WEIGHTS = find_weights(_DIRECTORY)

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is missing: aixgo[local]"),
    pytest.mark.skipif(WEIGHTS is None, reason="the weights are missing: run `aixgo model pull`"),
]


@pytest.fixture(scope="module")
def served() -> Iterator[ServedModel]:
    assert WEIGHTS is not None
    made = serve_model(WEIGHTS, n_parallel=2)
    yield made
    made.close()
    gc.collect()


@pytest.fixture
async def models(served: ServedModel) -> AsyncIterator[Models]:
    made = Models(ModelSettings(local_url=served.base_url))
    yield made
    await made.close()


def llm(models: Models, **config: Any) -> LLMAgent:
    spec = AgentSpec(name="a", role="llm", model=(MODEL,), prompt="Answer in one sentence.", config=config)
    return LLMAgent(spec, models=models)


async def test_it_answers_a_question(models: Models):
    async with running(llm(models, temperature=0, max_tokens=30)) as runtime:
        reply = await runtime.call("a", "What is the capital of France?")
    assert "Paris" in reply.text
    assert reply.metadata["model"] == "smollm2-135m"
    assert reply.usage.prompt_tokens > 10
    assert reply.usage.completion_tokens > 2
    assert reply.usage.cost_usd == 0
    assert not reply.usage.incomplete


async def test_it_streams_with_usage(models: Models):
    made = llm(models, temperature=0, max_tokens=8)
    async with running(made) as runtime, runtime.stream("a", "Count to ten.") as events:
        seen = [event async for event in events]
        assert events.result is not None
    deltas = [event.text for event in seen if isinstance(event, Delta)]
    assert len(deltas) > 3
    assert "".join(deltas) == events.result.text
    assert events.result.usage.completion_tokens == 8
    assert events.result.metadata["stop_reason"] == "length"


async def test_it_chooses_only_among_the_categories_and_says_how_sure_it_is(models: Models):
    config = {
        "categories": {"positive": "praise, thanks", "negative": "a complaint, a problem"},
        "examples": [
            {"text": "Thank you, this works wonderfully!", "category": "positive"},
            {"text": "This is broken and I am angry.", "category": "negative"},
        ],
        "calibrate": ["N/A"],
    }
    spec = AgentSpec(name="mood", role="classifier", model=(MODEL,), config=config)
    async with running(ClassifierAgent(spec, models=models)) as runtime:
        reply = await runtime.call("mood", "I love it, great work!")
    assert reply.payload == "positive"
    assert reply.metadata["confidence_from"] == "logprobs"
    assert 0.5 < reply.metadata["confidence"] <= 1
    assert reply.usage.llm_calls == 2


async def test_tools_are_offered_as_choices(models: Models):
    offer = ToolOffer(
        "get_weather",
        "tells the weather of a city",
        {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}}, "required": ["city"]},
    )
    asked = CompletionRequest((ChatMessage("user", "What is the weather in Rome?"),), tools=(offer,), temperature=0)
    got = await models.chat([MODEL]).complete(asked)
    if got.tool_uses:
        assert got.tool_uses[0].name == "get_weather"
        assert got.tool_uses[0].arguments["city"] in ("Oslo", "Rome")
        assert got.stop_reason == "tool_calls"
    else:
        assert got.text


async def test_a_prompt_that_is_too_long_is_rejected(models: Models):
    with pytest.raises(errors.ProviderRejected, match="400"):
        await models.chat([MODEL]).complete(CompletionRequest((ChatMessage("user", "word " * 5000),)))


async def test_a_cancelled_stream_frees_its_place(models: Models):
    long = CompletionRequest((ChatMessage("user", "Tell a very long story."),), max_tokens=1500, temperature=0)
    for _ in range(4):  # twice as many as there are places
        async with aclosing(models.chat([MODEL]).stream(long)) as chunks:  # pyright: ignore[reportArgumentType]
            await anext(chunks)
    async with asyncio.timeout(20):
        await models.chat([MODEL]).complete(CompletionRequest((ChatMessage("user", "Hi"),), max_tokens=4))


async def test_it_is_loaded_here_when_nobody_serves_it_once_for_all_clients():
    first, second = (Models(ModelSettings(model_dir=_DIRECTORY)) for _ in range(2))
    asked = CompletionRequest((ChatMessage("user", "Hi"),), max_tokens=4)
    try:
        assert (await first.chat([MODEL]).complete(asked)).usage.completion_tokens > 0
        await second.chat([MODEL]).complete(asked)
        providers: list[Any] = [made.provider(MODEL)[0] for made in (first, second)]
        clients = [provider._provider._client for provider in providers]
        assert clients[0]._served is clients[1]._served
    finally:
        await first.close()
        await second.close()


def test_a_port_that_is_taken_is_a_typed_error(served: ServedModel):
    assert WEIGHTS is not None
    port = int(served.base_url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(errors.WrongState, match=str(port)):
        serve_model(WEIGHTS, port=port)


async def test_pulling_what_is_there_changes_nothing():
    assert WEIGHTS is not None
    before = WEIGHTS.stat().st_mtime_ns
    assert await pull_weights(_DIRECTORY) == WEIGHTS
    assert WEIGHTS.stat().st_mtime_ns == before


def test_the_labelled_messages_are_well_formed():
    path = Path(__file__).parents[2] / "examples" / "support-desk" / "messages.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert 30 <= len(rows) <= 40
    assert len({row["text"] for row in rows}) == len(rows)
    for row in rows:
        assert row["team"] in ("billing", "technical", "sales", "account")
        assert row["sentiment"] in ("positive", "negative", "neutral")
        assert isinstance(row["urgent"], bool)
