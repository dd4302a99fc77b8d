"""Several calls at once: ordered outcomes, partial results, and how many run."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aixgo.errors import AgentFailed, AgentNotFound, InvalidInput

from tests.contract.conftest import BOUND, Mesh
from tests.contract.failures import OutOfStock
from tests.contract.requirements import promise


@promise("parallel.ordered")
async def test_outcomes_come_in_the_order_of_the_targets(mesh: Mesh) -> None:
    outcomes = await mesh.runtime.call_parallel(["reverse", "boom", "upper", "nobody", "sold-out"], "ab", timeout=BOUND)
    assert [outcome.target for outcome in outcomes] == ["reverse", "boom", "upper", "nobody", "sold-out"]
    assert [message.payload for message in outcomes.results] == ["ba", "AB"]
    assert [type(error) for error in outcomes.errors] == [AgentFailed, AgentNotFound, OutOfStock]
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False, False]


@promise("parallel.by_name")
async def test_an_outcome_can_be_looked_up_by_name(mesh: Mesh) -> None:
    outcomes = await mesh.runtime.call_parallel(["upper", "boom"], "x")
    upper, boom = outcomes.by_name["upper"], outcomes.by_name["boom"]
    assert upper.message is not None
    assert (upper.message.payload, upper.error) == ("X", None)
    assert isinstance(boom.error, AgentFailed)


@promise("parallel.ordered")
async def test_no_targets_give_no_outcomes(mesh: Mesh) -> None:
    assert list(await mesh.runtime.call_parallel([], "x")) == []


@promise("parallel.ordered")
async def test_all_may_fail_without_raising(mesh: Mesh) -> None:
    outcomes = await mesh.runtime.call_parallel(["boom", "sold-out"], "x")
    assert (len(outcomes.results), len(outcomes.errors)) == (0, 2)


@promise("parallel.concurrency")
async def test_all_calls_run_at_once(mesh: Mesh) -> None:
    crowd = {"key": mesh.key, "size": 12}
    outcomes = await mesh.runtime.call_parallel(["crowd"] * 12, crowd, timeout=BOUND)
    assert [message.payload for message in outcomes.results] == ["together"] * 12


@promise("parallel.concurrency")
async def test_no_more_calls_run_than_concurrency_allows(mesh: Mesh) -> None:
    """Three would have to meet, and only two may: the third never starts before the others' deadline."""
    crowd = {"key": mesh.key, "size": 3}
    outcomes = await mesh.runtime.call_parallel(["crowd"] * 2, crowd, timeout=0.5, concurrency=2)
    assert len(outcomes.errors) == 2
    again = {"key": f"{mesh.key}-again", "size": 2}
    outcomes = await mesh.runtime.call_parallel(["crowd"] * 6, again, timeout=BOUND, concurrency=2)
    assert len(outcomes.results) == 6


@promise("parallel.concurrency")
async def test_a_concurrency_below_one_is_refused(mesh: Mesh) -> None:
    with pytest.raises(InvalidInput, match="concurrency"):
        await mesh.runtime.call_parallel(["upper"], "x", concurrency=0)


@promise("parallel.ordered", "call.session")
async def test_an_agent_calls_several_others_in_its_own_call_tree(mesh: Mesh) -> None:
    body = {"targets": ["upper", "nobody", "observer"], "message": "x"}
    reply = await mesh.runtime.call("fan", body, timeout=BOUND)
    (_, upper), (_, missing), (_, seen) = cast("list[Any]", reply.payload)
    assert (upper, missing) == ("X", "AgentNotFound")
    assert seen["path"] == ["fan", "observer"]
    assert seen["remaining"] < BOUND


@promise("parallel.concurrency")
async def test_calls_from_many_tasks_do_not_mix_their_replies(mesh: Mesh) -> None:
    texts = [f"text {number}" for number in range(100)]
    replies = await asyncio.gather(*(mesh.runtime.call("reverse", text, timeout=BOUND) for text in texts))
    assert [reply.payload for reply in replies] == [text[::-1] for text in texts]
