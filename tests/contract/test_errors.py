"""Errors: the caller catches the class that was raised, wherever it was raised."""

from __future__ import annotations

import pytest
from aixgo import CallOptions
from aixgo.errors import AgentFailed, CallCancelled, Code, RateLimited

from tests.contract.conftest import BOUND, Mesh
from tests.contract.failures import OutOfStock
from tests.contract.requirements import promise


@promise("errors.class")
async def test_an_author_s_own_error_class_is_caught_with_its_fields(mesh: Mesh) -> None:
    with pytest.raises(OutOfStock, match="only 3 of apples left") as caught:
        await mesh.runtime.call("sold-out", "apples")
    assert (caught.value.item, caught.value.fields["left"], caught.value.code) == (
        "apples",
        3,
        Code.FAILED_PRECONDITION,
    )


@promise("errors.class", "errors.path")
async def test_an_error_passes_callers_on_its_way_as_it_is(mesh: Mesh) -> None:
    with pytest.raises(OutOfStock) as caught:
        await mesh.runtime.call("via-one", {"route": ["via-two", "sold-out"], "message": "pears"}, timeout=BOUND)
    assert caught.value.item == "pears"
    assert caught.value.agent_path == ("via-one", "via-two", "sold-out")


@promise("errors.class")
async def test_an_error_of_a_model_is_caught_by_its_class(mesh: Mesh) -> None:
    with pytest.raises(RateLimited):
        await mesh.runtime.call("limited", "x")


@promise("errors.foreign", "errors.path")
async def test_an_exception_of_an_agent_s_own_is_named_in_the_error(mesh: Mesh) -> None:
    with pytest.raises(AgentFailed, match="agent 'boom' raised ValueError: no luck") as caught:
        await mesh.runtime.call("via-one", {"route": ["boom"], "message": "luck"})
    assert caught.value.fields == {"exception": "builtins.ValueError"}
    assert caught.value.agent_path == ("via-one", "boom")


@promise("errors.foreign")
async def test_a_payload_that_is_none_fails_like_any_exception(mesh: Mesh) -> None:
    with pytest.raises(Exception, match="set") as caught:
        await mesh.runtime.call("returns-set", "x")
    assert "returns-set" in str(caught.value)


@promise("errors.not_retried")
async def test_an_error_of_an_idempotent_agent_is_not_retried(mesh: Mesh) -> None:
    with pytest.raises(AgentFailed, match="ConnectionError"):
        await mesh.runtime.call("flaky", mesh.key)
    await mesh.note(mesh.key, "end")
    assert await mesh.noted(2) == ["ran", "end"]


@promise("errors.usage")
async def test_an_error_carries_what_was_spent_before_it(mesh: Mesh) -> None:
    with pytest.raises(AgentFailed) as caught:
        await mesh.runtime.call("paid-then-boom", "two words")
    assert (caught.value.usage.llm_calls, caught.value.usage.total_tokens) == (1, 4)


@promise("errors.usage")
async def test_a_model_call_that_failed_is_counted(mesh: Mesh) -> None:
    with pytest.raises(RateLimited) as caught:
        await mesh.runtime.call("limited", "x", options=CallOptions(timeout=BOUND))
    assert (caught.value.usage.llm_calls, caught.value.usage.total_tokens) == (1, 0)


@promise("errors.own_cancellation")
async def test_something_cancelled_inside_an_agent_is_its_failure_and_not_its_caller_s(mesh: Mesh) -> None:
    with pytest.raises(CallCancelled) as caught:
        await mesh.runtime.call("via-two", {"route": ["self-cancelled"]}, timeout=BOUND)
    assert caught.value.agent_path == ("via-two", "self-cancelled")
    assert (await mesh.runtime.call("echo", "alive")).payload == "alive"
