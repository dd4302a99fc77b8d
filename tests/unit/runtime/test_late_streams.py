"""A stream that is cut off by its deadline says what was spent until then."""

from __future__ import annotations

import pytest
from aixgo import AgentSpec, Event, LocalRuntime
from aixgo.agents.llm import LLMAgent
from aixgo.errors import DeadlineExceeded
from aixgo.testing import scripted_models


async def read(runtime: LocalRuntime, name: str, timeout: float) -> list[Event]:
    seen: list[Event] = []
    async with runtime.stream(name, "three short words", timeout=timeout) as events:
        async for event in events:
            seen.append(event)
    return seen


async def test_what_a_model_spent_until_it_was_stopped_is_counted() -> None:
    runtime = LocalRuntime()
    runtime.register(LLMAgent(AgentSpec(name="slow", role="llm", model=("test/slow",)), models=scripted_models()))
    with pytest.raises(DeadlineExceeded) as caught:
        await read(runtime, "slow", 0.1)
    assert caught.value.usage.completion_tokens > 0
    assert caught.value.usage.incomplete
