"""Three examples with the embedded model instead of a script: it can choose between categories, and costs nothing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aixgo.config.load import load
from aixgo.launch import opened
from aixgo.llm.weights import find_weights
from aixgo.runtime.base import BaseRuntime

from tests.examples.readme import Example

MODEL = "local/smollm2-135m"
_DIRECTORY = Path(os.environ["AIXGO_MODEL_DIR"]) if os.environ.get("AIXGO_MODEL_DIR") else None

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is missing: aixgo[local]"),
    pytest.mark.skipif(find_weights(_DIRECTORY) is None, reason="the weights are missing: run `aixgo model pull`"),
]


@pytest.fixture
async def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BaseRuntime]:
    """The example that the test names, every agent with the embedded model."""
    monkeypatch.setenv("AIXGO_MODEL", MODEL)
    monkeypatch.setenv("AIXGO_LARGE_MODEL", MODEL)
    async with opened(load(Example(request.param).config)) as made:
        yield made


@pytest.mark.parametrize("runtime", ["parallel-analysis"], indirect=True)
async def test_three_analysts_choose_among_their_categories(runtime: BaseRuntime):
    reply = await runtime.call("analysis", "It crashes whenever I open a photo. I have cancelled.", timeout=120)
    results = reply.metadata["parallel_results"]
    assert results["sentiment"]["payload"] in ("positive", "negative", "mixed")
    assert results["topic"]["payload"] == "reliability"
    assert results["churn"]["payload"] in ("leaves", "stays")
    assert all(0 < results[name]["metadata"]["confidence"] <= 1 for name in ("sentiment", "topic", "churn"))
    assert reply.metadata["parallel_errors"]["competitors"]["class"] == "ProviderUnavailable"
    assert reply.usage.llm_calls == 4  # the one that failed among them
    assert reply.usage.cost_usd == 0


@pytest.mark.parametrize("runtime", ["router-costopt"], indirect=True)
async def test_a_question_is_routed_by_what_the_model_makes_of_it(runtime: BaseRuntime):
    reply = await runtime.call("help-desk", "What are your opening hours?", timeout=120)
    assert reply.metadata["category"] in ("easy", "hard")
    sure = reply.metadata["confidence"] >= 0.6
    assert reply.metadata["routed_to"] == ("small" if sure and reply.metadata["category"] == "easy" else "large")
    assert reply.text.strip()
    assert reply.usage.cost_usd == 0


@pytest.mark.parametrize("runtime", ["ensemble-medical"], indirect=True)
async def test_three_votes_are_counted_and_a_person_decides_without_agreement(runtime: BaseRuntime):
    reply = await runtime.call("urgency", "My ankle is swollen.", timeout=120)
    assert sum(reply.metadata["votes"].values()) == 3
    assert set(reply.metadata["votes"]) <= {"emergency", "today", "appointment", "self-care"}
    agreed = max(reply.metadata["votes"].values()) >= 2
    assert reply.metadata["used_fallback"] is not agreed
    assert (reply.text == "person") is not agreed
    assert reply.usage.llm_calls == 3
