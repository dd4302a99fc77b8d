"""One request, one reply: what arrives, what is inherited, and who cannot be called."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aixgo import CallOptions, Message, Usage
from aixgo.errors import AgentNotFound, AgentUnavailable, DeadlineExceeded, DepthExceeded, InvalidReply, MessageTooLarge
from aixgo.message import Payload

from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise
from tests.support import seconds_of


@promise("call.reply")
async def test_a_call_returns_the_reply_of_the_named_agent(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("upper", "hello", timeout=BOUND)
    assert reply.payload == "HELLO"


@promise("call.payloads")
@pytest.mark.parametrize(
    "payload",
    ["", "text, ünïcode ☂", b"", b"\x00\xff", {"a": [1, 2.5, None, {"b": True}]}, [], {}, 0, 2**53, -1.5, True, None],
    ids=repr,
)
async def test_a_payload_arrives_as_it_was_sent(mesh: Mesh, payload: Payload) -> None:
    reply = await mesh.runtime.call("echo", payload)
    assert reply.payload == payload
    assert type(reply.payload) is type(payload)


@promise("call.payloads")
async def test_metadata_session_and_id_arrive_with_the_message(mesh: Mesh) -> None:
    sent = Message("x", {"tags": ["a", "b"], "n": {"deep": 1}}, session_id=mesh.key)
    reply = await mesh.runtime.call("echo", sent)
    assert (reply.metadata, reply.session_id, reply.id) == (sent.metadata, mesh.key, sent.id)


@promise("call.session")
async def test_a_session_is_inherited_over_two_hops(mesh: Mesh) -> None:
    route = Message({"route": ["via-two", "observer"]}, session_id="s-1")
    reply = await mesh.runtime.call("via-one", route)
    assert observed(reply)["session"] == "s-1"


@promise("call.session")
async def test_the_session_of_a_call_can_be_given_as_an_option(mesh: Mesh) -> None:
    reply = await mesh.runtime.call("observer", "", options=CallOptions(session_id="s-2"))
    assert observed(reply)["session"] == "s-2"


@promise("call.reply")
async def test_a_callee_sees_the_agents_above_it(mesh: Mesh) -> None:
    seen = observed(await mesh.runtime.call("via-one", {"route": ["via-two", "via-three", "observer"]}))
    assert seen["path"] == ["via-one", "via-two", "via-three", "observer"]
    assert seen["depth"] == 4


@promise("usage.stripped")
async def test_usage_that_a_caller_writes_is_removed(mesh: Mesh) -> None:
    forged = Message("x", usage=Usage(prompt_tokens=1_000_000, llm_calls=1))
    assert observed(await mesh.runtime.call("observer", forged))["usage"] == 0
    assert (await mesh.runtime.call("echo", forged)).usage == Usage()


@promise("call.unknown")
async def test_an_unknown_agent_is_not_found_and_the_error_names_those_that_are(mesh: Mesh) -> None:
    with pytest.raises(AgentNotFound, match=r"no agent named 'nobody'; known: .*boom") as caught:
        await mesh.runtime.call("nobody", "x", timeout=BOUND)
    assert caught.value.fields["agent"] == "nobody"
    assert caught.value.agent_path == ("nobody",)


@promise("call.unknown")
async def test_an_unknown_agent_is_not_found_by_an_agent_either(mesh: Mesh) -> None:
    with pytest.raises(AgentNotFound) as caught:
        await mesh.runtime.call("via-one", {"route": ["via-two", "nobody"]}, timeout=BOUND)
    assert caught.value.agent_path == ("via-one", "via-two", "nobody")


@promise("call.unready")
async def test_an_agent_that_is_not_ready_is_unavailable_after_a_short_wait(mesh: Mesh) -> None:
    with seconds_of() as taken, pytest.raises(AgentUnavailable) as caught:
        await mesh.runtime.call("unready", "x")
    assert caught.value.retry_after is not None
    assert 1.0 < taken.seconds < 10.0


@promise("call.wait_for_ready")
async def test_waiting_for_ready_ends_at_the_deadline(mesh: Mesh) -> None:
    with pytest.raises(DeadlineExceeded):
        await mesh.runtime.call("unready", "x", timeout=0.3, options=CallOptions(wait_for_ready=True))


@promise("call.wait_for_ready")
async def test_waiting_for_ready_outlasts_the_usual_wait(mesh: Mesh) -> None:
    patient = CallOptions(timeout=BOUND, wait_for_ready=True)
    call = asyncio.create_task(mesh.runtime.call("waking", "hi", options=patient))
    with pytest.raises(AgentUnavailable):
        await mesh.runtime.call("waking", "hi")
    await mesh.note("waking", "awake")
    assert (await call).payload == "hi"


@promise("call.too_large")
@pytest.mark.parametrize("payload", ["x" * (4 * 1024 * 1024 + 1), b"x" * (4 * 1024 * 1024 + 1)], ids=["text", "bytes"])
async def test_a_message_over_the_limit_is_refused(mesh: Mesh, payload: Payload) -> None:
    with pytest.raises(MessageTooLarge, match="max_message_bytes"):
        await mesh.runtime.call("echo", payload)


@promise("call.too_large")
async def test_a_message_at_the_limit_passes(mesh: Mesh) -> None:
    payload = b"x" * (4 * 1024 * 1024)
    assert (await mesh.runtime.call("echo", payload, timeout=BOUND)).payload == payload


@promise("call.invalid_reply")
@pytest.mark.parametrize("name", ["returns-text", "returns-none"])
async def test_what_is_no_reply_is_refused(mesh: Mesh, name: str) -> None:
    with pytest.raises(InvalidReply, match=name) as caught:
        await mesh.runtime.call(name, "x")
    assert caught.value.agent_path == (name,)


@promise("call.depth")
async def test_a_circle_of_agents_ends_with_an_error_that_shows_it(mesh: Mesh) -> None:
    with pytest.raises(DepthExceeded, match="ping > pong > ping") as caught:
        await mesh.runtime.call("ping", "x", timeout=BOUND)
    assert len(caught.value.agent_path) == 11
    assert caught.value.fields["limit"] == 10


@promise("call.depth")
async def test_ten_calls_inside_one_another_are_allowed(mesh: Mesh) -> None:
    hops = ["via-two", "via-three", "via-one"] * 3
    reply = await mesh.runtime.call("via-one", {"route": [*hops[:8], "observer"]}, timeout=BOUND)
    assert observed(reply)["depth"] == 10


def observed(reply: Message) -> dict[str, Any]:
    return cast("dict[str, Any]", reply.payload)
