"""A stream that is cut off by its deadline says what was spent until then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aixgo import Agent, AgentSpec, Delta, Event, LocalRuntime, Message
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


async def test_an_agent_that_ignores_its_end_does_not_hold_up_the_reader() -> None:
    class Stubborn(Agent):
        name = "stubborn"

        async def execute(self, message: Message) -> Message:
            return message

        async def stream(self, message: Message) -> AsyncIterator[Event]:
            while True:
                try:
                    await blocked.wait()
                    return
                except BaseException:  # noqa: BLE001  # what the test is about
                    yield Delta("still here")

    blocked = asyncio.Event()
    runtime = LocalRuntime()
    runtime.register(Stubborn())
    with pytest.raises(DeadlineExceeded):
        await read(runtime, "stubborn", 0.05)
    blocked.set()
