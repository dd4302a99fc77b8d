"""Patterns nest: each in each in one process, and twelve pairs over one fleet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from aixgo import CallOptions, MemberFinished, Result
from aixgo.errors import AixgoError, DepthExceeded
from aixgo.runtime.base import BaseRuntime

from tests.patterns.mesh import PAIRS, PATTERNS
from tests.support import ROOT

BOUND = 30.0
TASK = "tell me about tea"
DO_WITHOUT = ("parallel",)
"""Patterns whose other members answer where one has failed, at whatever depth."""


@pytest.fixture(scope="session")
def nests() -> Mapping[tuple[str, str], dict[str, Any]]:
    """What became of each pair in one process."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.patterns.nest"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    return {(one["outer"], one["inner"]): one for one in found}


@pytest.mark.parametrize("inner", PATTERNS)
@pytest.mark.parametrize("outer", PATTERNS)
def test_every_pattern_nests_in_every_other(nests: Mapping[Any, dict[str, Any]], outer: str, inner: str) -> None:
    one = nests[outer, inner]
    assert "RESULT" in one["text"]
    assert one["pattern"] == outer
    assert one["usage"] == one["counted"]
    assert one["metadata_tokens"] == one["span_tokens"] == one["usage"][1]
    assert one["spans"][0].startswith("invoke_agent ")
    assert one["spans"][1] == f"orchestration.{outer}"
    assert one["spans"][-1] == f"orchestration.{inner}"
    assert one["left"] == 0


@pytest.mark.parametrize("inner", PATTERNS)
@pytest.mark.parametrize("outer", PATTERNS)
def test_no_nest_overspends_its_budget(nests: Mapping[Any, dict[str, Any]], outer: str, inner: str) -> None:
    for bounded in nests[outer, inner]["bounded"]:
        assert bounded["spent"] == bounded["counted"] <= bounded["budget"]


def test_budgets_end_trees_before_their_first_call_in_their_midst_and_not_at_all(nests: Mapping[Any, Any]) -> None:
    ends = [bounded for one in nests.values() for bounded in one["bounded"]]
    broken = [bounded for bounded in ends if bounded["end"] != "reply"]
    assert any(not bounded["spent"] for bounded in broken)
    assert any(bounded["spent"] for bounded in broken)
    assert len(ends) - len(broken) > len(nests)


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
async def test_pairs_nest_over_a_fleet(runtime: BaseRuntime, outer: str, inner: str) -> None:
    name = f"{outer}.{inner}"
    async with runtime.stream(name, TASK, timeout=BOUND) as events:
        seen = [event async for event in events]
    assert isinstance(seen[-1], Result)
    reply = seen[-1].message
    assert "RESULT" in reply.text
    assert reply.metadata["pattern"] == outer
    within = [e.message for e in seen if isinstance(e, MemberFinished) and e.path == (name, f"inner-{inner}")]
    assert within
    assert within[0].metadata["pattern"] == inner
    direct = [e.message for e in seen if isinstance(e, MemberFinished) and len(e.path) == 2]
    assert reply.usage.total_tokens == sum(member.usage.total_tokens for member in direct)
    assert reply.usage.llm_calls == sum(member.usage.llm_calls for member in direct)


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
async def test_pairs_hold_a_budget_over_a_fleet(runtime: BaseRuntime, outer: str, inner: str) -> None:
    tokens = 20
    try:
        reply = await runtime.call(f"{outer}.{inner}", TASK, timeout=BOUND, options=CallOptions(max_tokens=tokens))
        spent = reply.usage
    except AixgoError as error:
        spent = error.usage
    assert spent.total_tokens <= tokens


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_pattern_that_contains_itself_ends_at_the_depth_limit(runtime: BaseRuntime, pattern: str) -> None:
    if pattern in DO_WITHOUT:
        assert "RESULT" in (await runtime.call(f"circle-{pattern}", TASK, timeout=BOUND)).text
        return
    with pytest.raises(DepthExceeded) as caught:
        await runtime.call(f"circle-{pattern}", TASK, timeout=BOUND)
    assert len(caught.value.agent_path) == 11
