"""A member that uses up its pattern's time ends the pattern: nobody does without it, skips it or falls back then.

Members in other processes end a margin before their deadline, so that their error arrives. Here `Late` does so.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aixgo import (
    RAG,
    Debate,
    Ensemble,
    Limits,
    Message,
    Orchestrator,
    Planning,
    Reflection,
    Sequential,
    Supervisor,
)
from aixgo import call as ambient
from aixgo.agent import Agent
from aixgo.errors import DeadlineExceeded
from aixgo.testing import running

LIMITS = Limits(timeout=0.5)
MARGIN = 0.02
"""Seconds before the deadline, and after LATE_SHARE of the time before it has begun."""


class Late(Agent):
    """Answers as often as it has answers; then it runs out of time, shortly before its pattern does."""

    def __init__(self, name: str, *answers: Any) -> None:
        self.name, self.answers = name, list(answers)

    async def execute(self, message: Message) -> Message:
        if self.answers:
            return Message(self.answers.pop(0))
        state = ambient.current()
        assert state is not None
        await asyncio.sleep(state.deadline - MARGIN - asyncio.get_running_loop().time())
        raise DeadlineExceeded("a margin before the end")


class Says(Agent):
    """Answers always the same."""

    def __init__(self, name: str, answer: Any) -> None:
        self.name, self.answer = name, answer

    async def execute(self, message: Message) -> Message:
        return Message(self.answer)


PLAN = {"steps": [{"id": "1", "agent": "bad", "task": "t"}]}
CHUNKS = {"chunks": [{"id": name, "text": name} for name in "ab"]}


class Bad(Agent):
    name = "bad"

    async def execute(self, message: Message) -> Message:
        raise ValueError("no")


@pytest.mark.parametrize(
    "made",
    [
        Sequential("o", [Late("late"), Says("b", "x")], on_error="skip", limits=LIMITS),
        Supervisor("o", [Late("late"), Says("b", "x")], select="round_robin", limits=LIMITS),
        RAG("o", Says("shelf", CHUNKS), Says("b", "x"), reranker=Late("late"), limits=LIMITS),
        Reflection("o", Late("late", "draft"), Says("critic", {"score": 0.1, "feedback": "f"}), limits=LIMITS),
        Ensemble(
            "o", [Says("a", "x"), Says("b", "y")], strategy="judge", judge=Late("late"), fallback=Says("c", "z"),
            limits=LIMITS,
        ),
        Debate(
            "o", [Says("a", {"position": "x"}), Says("b", {"position": "y"})], rounds=1, moderator=Late("late"),
            verdict="moderator", fallback=Says("c", "z"), limits=LIMITS,
        ),
    ],
    ids=lambda made: made.pattern,
)  # fmt: skip
async def test_time_that_is_used_up_is_got_over_by_no_pattern(made: Orchestrator) -> None:
    async with running(made) as runtime:
        with pytest.raises(DeadlineExceeded):
            await runtime.call("o", "x")


async def test_time_that_is_used_up_by_a_new_plan_is_no_failed_plan() -> None:
    made = Planning("o", [Bad()], Late("late", PLAN), limits=LIMITS)
    async with running(made) as runtime:
        with pytest.raises(DeadlineExceeded):
            await runtime.call("o", "x")
