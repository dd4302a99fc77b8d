"""The embedded model with a tool: it has no tool calls of its own and chooses by a schema."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from aixgo.agents.react import ReActAgent
from aixgo.config.spec import AgentSpec
from aixgo.events import Delta, Result, ToolCall
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.weights import find_weights
from aixgo.testing import running
from aixgo.tools import tool
from aixgo.tools.toolbox import Toolbox

_DIRECTORY = Path(os.environ["AIXGO_MODEL_DIR"]) if os.environ.get("AIXGO_MODEL_DIR") else None

pytestmark = [
    pytest.mark.embedded,
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is missing: aixgo[local]"),
    pytest.mark.skipif(find_weights(_DIRECTORY) is None, reason="the weights are missing: run `aixgo model pull`"),
]


async def test_the_embedded_model_uses_a_tool_and_then_answers():
    used: list[str] = []

    @tool
    def get_weather(city: str) -> str:
        """Tells the weather of a city."""
        used.append(city)
        return "sunny, 21 degrees"

    models = Models(ModelSettings(model_dir=_DIRECTORY))
    config = {"temperature": 0, "max_tokens": 48, "max_iterations": 1}
    spec = AgentSpec(
        name="r",
        role="react",
        model=("local/smollm2-135m",),
        prompt="Choose a tool.",
        tools=("get_weather",),
        config=config,
    )
    try:
        agent = ReActAgent(spec, models=models, tools=Toolbox([get_weather]))
        async with running(agent) as runtime, runtime.stream("r", "Call get_weather for Rome.") as events:
            seen = [event async for event in events]
    finally:
        await models.close()
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.text
    calls = [event for event in seen if isinstance(event, ToolCall)]
    assert used == ["Rome"]
    assert [(call.name, call.done) for call in calls] == [("get_weather", False), ("get_weather", True)]
    assert "".join(event.text for event in seen if isinstance(event, Delta)).endswith(seen[-1].message.text)
    assert seen[-1].message.metadata["stopped"] == "max_iterations"
    assert seen[-1].message.usage.llm_calls == 2
