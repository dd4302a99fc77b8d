"""Every pattern, in one process and over many, from Python and from YAML."""

from __future__ import annotations

import asyncio

import pytest
from aixgo import LocalRuntime, MemberFinished, MemberStarted, Result
from aixgo.runtime.base import BaseRuntime

from tests.patterns.cast import Brain
from tests.patterns.mesh import PATTERNS, all_agents
from tests.patterns.table import TABLE

BOUND = 30.0
"""Seconds that anything may take that should happen at once."""
TASK = "tell me about tea"


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("origin", ["py", "yaml"])
async def test_every_pattern_answers(runtime: BaseRuntime, origin: str, pattern: str) -> None:
    reply = await runtime.call(f"{origin}-{pattern}", TASK, timeout=BOUND)
    assert "RESULT" in reply.text
    assert reply.metadata["pattern"] == pattern
    assert {key: reply.metadata[key] for key in TABLE[pattern].metadata} == TABLE[pattern].metadata
    assert reply.metadata["tokens_total"] == reply.usage.total_tokens > 0
    assert reply.metadata["tokens_prompt"] + reply.metadata["tokens_completion"] == reply.usage.total_tokens
    assert reply.metadata["cost_usd"] == 0


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_every_pattern_streams_its_members_and_one_result(runtime: BaseRuntime, pattern: str) -> None:
    name = f"py-{pattern}"
    async with runtime.stream(name, TASK, timeout=BOUND) as events:
        seen = [event async for event in events]
    called = await runtime.call(name, TASK, timeout=BOUND)
    assert [type(event) for event in seen].count(Result) == 1
    assert seen[-1].message.payload == called.payload
    assert seen[-1].message.usage.total_tokens == called.usage.total_tokens
    started = [event.path for event in seen if isinstance(event, MemberStarted)]
    finished = [event.path for event in seen if isinstance(event, MemberFinished)]
    assert started
    assert sorted(started) == sorted(finished)
    assert all(path[0] == name for path in started)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("origin", ["py", "yaml"])
async def test_usage_is_what_the_leaves_really_took(origin: str, pattern: str) -> None:
    brain = Brain()
    runtime = LocalRuntime()
    for agent in all_agents(brain):
        runtime.register(agent)
    before = asyncio.all_tasks()
    async with runtime:
        reply = await runtime.call(f"{origin}-{pattern}", TASK, timeout=BOUND)
    assert (reply.usage.llm_calls, reply.usage.total_tokens) == (brain.calls, brain.tokens)
    assert asyncio.all_tasks() == before


async def test_a_pattern_costs_the_same_over_processes_as_in_one(processes) -> None:
    from aixgo import DistributedRuntime

    local = LocalRuntime()
    for agent in all_agents(Brain()):
        local.register(agent)
    async with local, DistributedRuntime(control_plane=[processes.control_plane]) as remote:
        for pattern in PATTERNS:
            here = await local.call(f"py-{pattern}", TASK, timeout=BOUND)
            there = await remote.call(f"py-{pattern}", TASK, timeout=BOUND)
            assert (pattern, there.payload, there.usage) == (pattern, here.payload, here.usage)
