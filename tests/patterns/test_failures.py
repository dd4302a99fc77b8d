"""A member that fails in the middle of a pattern: the documented outcome, usage until then, and nothing left running.

OUTCOMES is what docs/PATTERNS.md says: an error that is raised, or the metadata in which the reply tells of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from aixgo import DistributedRuntime, LocalRuntime
from aixgo.errors import (
    AgentFailed,
    AixgoError,
    DeadlineExceeded,
    InstanceLost,
    PlanFailed,
    TooFewSucceeded,
    Unavailable,
)
from aixgo.runtime.base import BaseRuntime

from tests.patterns.cast import Brain
from tests.patterns.conftest import CAST
from tests.patterns.mesh import PATTERNS, all_agents
from tests.support import Fleet, Process, eventually, start_host

BOUND = 60.0
TASK = "tell me about tea"
PAID = 7
"""Tokens that `paid-boom` spends before it raises: `You work. spend these words` and a few in answer, at least."""

OUTCOMES: dict[str, type[AixgoError] | str] = {
    "supervisor": "history",
    "sequential": AgentFailed,
    "parallel": "parallel_errors",
    "router": AgentFailed,
    "swarm": AgentFailed,
    "hierarchical": "team_errors",
    "rag": AgentFailed,
    "reflection": AgentFailed,
    "ensemble": "parallel_errors",
    "debate": TooFewSucceeded,
    "mapreduce": AgentFailed,
    "planning": PlanFailed,
}
HANGING: dict[str, type[AixgoError] | str] = {
    "parallel": "parallel_errors",
    "hierarchical": "team_errors",
    "ensemble": "parallel_errors",
    "debate": TooFewSucceeded,
}
"""How a member that uses up all the time ends it: with DeadlineExceeded, where nothing else is said."""
PATIENCE = 10.0
"""Seconds of the calls that hang."""


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_member_that_raises_has_the_documented_outcome(runtime: BaseRuntime, pattern: str) -> None:
    before = asyncio.all_tasks()
    outcome = OUTCOMES[pattern]
    if isinstance(outcome, str):
        reply = await runtime.call(f"{pattern}.paid-boom", TASK, timeout=BOUND)
        told = str(reply.metadata[outcome])
        assert "boom, after it was paid for" in told
        assert "AgentFailed" in told
        assert "RESULT" in reply.text
        assert reply.usage.total_tokens >= PAID
    else:
        with pytest.raises(outcome, match="boom, after it was paid for") as caught:
            await runtime.call(f"{pattern}.paid-boom", TASK, timeout=BOUND)
        assert caught.value.agent_path[0] == f"{pattern}.paid-boom"
        assert caught.value.usage.total_tokens >= PAID
    if isinstance(runtime, LocalRuntime):
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_usage_of_a_failure_is_what_the_leaves_really_took(pattern: str) -> None:
    brain, runtime = Brain(), LocalRuntime()
    for agent in all_agents(brain):
        runtime.register(agent)
    async with runtime:
        try:
            usage = (await runtime.call(f"{pattern}.paid-boom", TASK, timeout=BOUND)).usage
        except AixgoError as error:
            usage = error.usage
    assert (usage.llm_calls, usage.total_tokens) == (brain.calls, brain.tokens)


async def test_a_member_that_hangs_has_the_documented_outcome_and_is_cancelled(runtime: BaseRuntime) -> None:
    """All patterns at once, because each takes its whole time."""
    before = asyncio.all_tasks()
    outcomes = await runtime.call_parallel([f"{pattern}.hangs" for pattern in PATTERNS], TASK, timeout=PATIENCE)
    for pattern, outcome in zip(PATTERNS, outcomes, strict=True):
        expected = HANGING.get(pattern, DeadlineExceeded)
        if isinstance(expected, str):
            assert outcome.message is not None, (pattern, outcome.error)
            assert "DeadlineExceeded" in str(outcome.message.metadata[expected])
            assert "RESULT" in outcome.message.text
        else:
            assert (pattern, type(outcome.error)) == (pattern, expected)

    async def hanging() -> Any:
        return (await runtime.call("hanging", "", timeout=BOUND)).payload

    async with asyncio.timeout(BOUND):
        while await hanging():
            pass
    if isinstance(runtime, LocalRuntime):
        assert asyncio.all_tasks() == before


async def test_losers_of_an_early_stop_are_cancelled_where_they_run(runtime: BaseRuntime) -> None:
    reply = await runtime.call("early", TASK, timeout=BOUND)
    assert (reply.payload, reply.metadata["parallel_cancelled"]) == ({"late": "late"}, ["hangs", "hangs#2"])
    async with asyncio.timeout(BOUND):
        while (await runtime.call("hanging", "", timeout=BOUND)).payload:
            pass


@pytest.fixture
def mortal(processes: Fleet) -> Iterator[Process]:
    """A process with the agent that kills it."""
    with start_host(["mortal"], control_plane=[processes.control_plane], cast=CAST) as process:
        yield process.wait_ready()


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_member_whose_process_is_killed_has_the_documented_outcome(
    processes: Fleet, mortal: Process, pattern: str
) -> None:
    async with DistributedRuntime(control_plane=[processes.control_plane]) as runtime:
        await runtime.all_instances()
        await eventually(lambda: mortal.instance_id in {one.instance_id for one in runtime.instances()})
        outcome = OUTCOMES[pattern]
        if isinstance(outcome, str):
            reply = await runtime.call(f"{pattern}.mortal", TASK, timeout=BOUND)
            assert "InstanceLost" in str(reply.metadata[outcome])
            assert "RESULT" in reply.text
        else:
            lost = (InstanceLost, Unavailable) if outcome is AgentFailed else outcome
            with pytest.raises(lost) as caught:
                await runtime.call(f"{pattern}.mortal", TASK, timeout=BOUND)
            assert caught.value.agent_path[0] == f"{pattern}.mortal"
    await eventually(lambda: not mortal.running)
