"""Orchestration patterns: the same in one process and over many, and nested."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aixgo import Message
from aixgo.errors import AgentFailed, AllMembersFailed, NoRoute

from tests.contract.agents import PRICE
from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise
from tests.support import eventually


@promise("patterns.sequential", "patterns.metadata")
async def test_each_step_gets_the_output_of_the_one_before(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("pipeline", "abc", timeout=BOUND)
    assert reply.payload == "CBA"
    metadata = dict(reply.metadata)
    assert (metadata["pattern"], metadata["agent_count"], metadata["step_count"]) == ("sequential", 2, 2)


@promise("patterns.sequential", "errors.path")
async def test_a_step_that_fails_ends_the_sequence_and_is_named(mesh: Mesh) -> None:
    with pytest.raises(AgentFailed) as caught:
        await mesh.runtime.call("broken-pipeline", "abc", timeout=BOUND)
    assert caught.value.fields["step"] == 2
    assert caught.value.agent_path == ("broken-pipeline", "boom")


@promise("patterns.parallel")
async def test_parallel_merges_the_replies_by_member(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("panel", "abc", timeout=BOUND)
    assert reply.payload == {"upper": "ABC", "reverse": "cba"}
    assert "parallel_errors" not in reply.metadata


@promise("patterns.parallel")
async def test_parallel_succeeds_with_what_succeeded_and_names_what_failed(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("half-panel", "abc", timeout=BOUND)
    assert reply.payload == {"upper": "ABC"}
    errors = cast("dict[str, Any]", reply.metadata["parallel_errors"])
    assert errors["boom"]["class"] == "AgentFailed"
    assert reply.metadata["agent_count"] == 2


@promise("patterns.parallel", "errors.class")
async def test_parallel_fails_when_all_members_fail(mesh: Mesh) -> None:
    with pytest.raises(AllMembersFailed) as caught:
        await mesh.runtime.call("hopeless", "abc", timeout=BOUND)
    errors = caught.value.fields["errors"]
    assert {name: error["class"] for name, error in errors.items()} == {"boom": "AgentFailed", "sold-out": "OutOfStock"}
    assert caught.value.agent_path == ("hopeless",)


@promise("patterns.parallel")
async def test_an_aggregator_sees_every_result(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("judged", "abc", timeout=BOUND)
    assert reply.payload == {"upper": "ABC", "reverse": "cba"}
    results = cast("dict[str, Any]", reply.metadata["parallel_results"])
    assert results["reverse"]["payload"] == "cba"


@promise("patterns.router")
@pytest.mark.parametrize(
    ("text", "target", "answer"),
    [
        ("loud", "upper", "LOUD"),
        ("back", "reverse", "kcab"),
        ("loud 0.9", "upper", "LOUD 0.9"),
        ("loud 0.2", "echo", "loud 0.2"),
        ("other", "echo", "other"),
    ],
)
async def test_a_router_calls_the_agent_of_the_category_or_the_fallback(
    mesh: Mesh, text: str, target: str, answer: str
) -> None:
    reply = await mesh.runtime.call("triage", text, timeout=BOUND)
    assert reply.payload == answer
    assert (reply.metadata["routed_to"], reply.metadata["category"]) == (target, text.split(maxsplit=1)[0])


@promise("patterns.router")
async def test_a_router_without_a_route_and_a_fallback_says_so(mesh: Mesh) -> None:
    with pytest.raises(NoRoute, match="other") as caught:
        await mesh.runtime.call("strict", "other", timeout=BOUND)
    assert caught.value.fields["category"] == "other"


@promise("patterns.nested", "patterns.metadata")
async def test_patterns_nest(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("nested", "loud", timeout=BOUND)
    assert reply.payload == {"pipeline": "DUOL", "nested/1": "LOUD", "triage": "LOUD"}
    assert (reply.metadata["pattern"], reply.metadata["agent_count"]) == ("parallel", 3)


@promise("patterns.idempotent")
async def test_a_pattern_is_idempotent_when_all_its_members_are(mesh: Mesh) -> None:
    await eventually(lambda: mesh.runtime.get_agent("gentle-panel").idempotent)
    assert not mesh.runtime.get_agent("panel").idempotent
    assert not mesh.runtime.get_agent("nested").idempotent


@promise("patterns.metadata", "usage.reply")
async def test_a_pattern_says_what_its_models_took(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("drafts", "two words", timeout=BOUND)
    cost = float((2 * PRICE.prompt + 2 * PRICE.completion) / 1000)
    metadata = dict(reply.metadata)
    assert (metadata["tokens_total"], metadata["tokens_prompt"], metadata["tokens_completion"]) == (8, 4, 4)
    assert metadata["cost_usd"] == pytest.approx(cost)


@promise("patterns.sequential", "call.session")
async def test_a_session_passes_through_patterns(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("judged", Message("abc", session_id=mesh.key), timeout=BOUND)
    assert reply.session_id == mesh.key
