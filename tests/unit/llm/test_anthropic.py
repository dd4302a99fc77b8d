"""What only Anthropic's format has: thinking, the system's words apart, the two kinds of cached tokens, schemas."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo import errors
from aixgo.llm.anthropic import AnthropicClient
from aixgo.llm.anthropic_wire import StreamedMessage, completion, is_expressible, parameters
from aixgo.llm.contract import ChatMessage, CompletionRequest, ToolUse
from aixgo.llm.sdk_client import Endpoint
from aixgo.usage import Usage
from pydantic import SecretStr
from vendor_server import Exchange, VendorServer

types = pytest.importorskip("anthropic.types")

USAGE: dict[str, Any] = {"input_tokens": 5, "output_tokens": 7}
THINKING = {"type": "thinking", "thinking": "hm, add", "signature": "c2ln"}
SEALED = {"type": "redacted_thinking", "data": "ZGF0YQ=="}
USE = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}}


def message(*blocks: dict[str, Any], reason: str = "end_turn", **usage: Any) -> Any:
    frame = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "stop_sequence": None}
    return types.Message.model_validate({**frame, "content": blocks, "stop_reason": reason, "usage": USAGE | usage})


def events(*given: dict[str, Any]) -> list[Any]:
    from pydantic import TypeAdapter

    read: TypeAdapter[Any] = TypeAdapter(types.RawMessageStreamEvent)
    return [read.validate_python(event) for event in given]


def test_tokens_written_to_and_read_from_the_cache_are_part_of_the_prompt():
    got = completion(message(cache_read_input_tokens=3, cache_creation_input_tokens=2))
    assert got.usage == Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=3, cache_write_tokens=2)


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "refused"),
        ("pause_turn", "other"),
    ],
)
def test_reasons_to_stop(reason: str, wanted: str):
    assert completion(message({"type": "text", "text": "x"}, reason=reason)).stop_reason == wanted


def test_what_the_model_thought_goes_back_before_its_uses_of_tools():
    got = completion(message(THINKING, SEALED, {"type": "text", "text": "so"}, USE, reason="tool_use"))
    turns = (ChatMessage("user", "1+1?"), ChatMessage("assistant", got.text, got.tool_uses))
    sent = parameters(CompletionRequest((*turns, ChatMessage("tool", "2", tool_call_id="c1")), model="claude"), None)
    assert sent["messages"][1]["content"] == [THINKING, SEALED, {"type": "text", "text": "so"}, USE]
    assert "hm, add" not in repr(got)


def test_streamed_thinking_is_put_together():
    got = StreamedMessage("claude")
    for event in events(
        {"type": "content_block_start", "index": 0, "content_block": {**THINKING, "thinking": "", "signature": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm, "}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "add"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "content_block_start", "index": 1, "content_block": {**USE, "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a": 1}'}},
    ):
        assert got.add(event) == ""
    assert got.completion().tool_uses == completion(message(THINKING, USE)).tool_uses


def test_what_another_vendor_thought_is_left_out():
    foreign = ToolUse("c1", "add", {}, "gemini:abc")
    sent = parameters(CompletionRequest((ChatMessage("assistant", "", (foreign,)),), model="claude"), None)
    assert [block["type"] for block in sent["messages"][0]["content"]] == ["tool_use"]


def test_arguments_that_are_cut_off_are_an_invalid_completion_that_was_paid_for():
    got = StreamedMessage("claude", usage=Usage(5, 7))
    for event in events(
        {"type": "content_block_start", "index": 0, "content_block": {**USE, "input": {}}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": '{"a": '}},
    ):
        got.add(event)
    with pytest.raises(errors.InvalidCompletion, match="'add'") as caught:
        got.completion()
    assert caught.value.usage == Usage(5, 7)


def test_the_system_speaks_first_and_after_that_through_the_user_and_sides_take_turns():
    turns = [("system", "a"), ("system", "b"), ("user", "c"), ("assistant", ""), ("system", "d"), ("assistant", "e")]
    request = CompletionRequest([ChatMessage(role, text) for role, text in turns], model="claude")  # pyright: ignore[reportArgumentType]
    sent = parameters(request, None)
    assert sent["system"] == "a\n\nb"
    said = [(turn["role"], [block["text"] for block in turn["content"]]) for turn in sent["messages"]]
    assert said == [("user", ["c", "d"]), ("assistant", ["e"])]


def test_a_request_of_the_systems_words_alone_is_said_by_the_user():
    sent = parameters(CompletionRequest((ChatMessage("system", "a"), ChatMessage("system", "b")), model="claude"), None)
    assert (sent["system"], sent["messages"][0]["content"][0]["text"]) == ("a", "b")


def test_parameters_of_the_callers_own_are_sent_and_join_the_schema():
    request = CompletionRequest(
        (ChatMessage("user", "x"),),
        model="claude",
        temperature=1.7,
        extra={"output_config": {"effort": "low"}, "thinking": {"type": "adaptive"}},
    )
    assert parameters(request, {"type": "object"})["extra_body"] == {
        "temperature": 1.0,
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    }


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}}, True),
        ({"type": "object", "properties": {"type": {"type": "array", "items": {"type": "integer"}}}}, True),
        ({"type": "object", "properties": {"a": {"type": "object"}}}, False),
        (
            {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}},
            False,
        ),
        ({"type": "object", "properties": {"a": {"anyOf": [{"type": ["string", "null"]}]}}}, False),
    ],
)
def test_schemas_that_the_mode_cannot_hold_a_model_to_are_known(schema: dict[str, Any], wanted: bool):
    assert is_expressible(schema) is wanted


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("overloaded_error", errors.ProviderUnavailable),
        ("rate_limit_error", errors.RateLimited),
        ("invalid_request_error", errors.ProviderRejected),
        ("new_error", errors.ProviderUnavailable),
    ],
)
async def test_an_error_after_the_prompt_was_read_is_of_its_kind_and_carries_what_was_paid(
    vendor: VendorServer, kind: str, wanted: type[errors.ProviderError]
):
    async def handle(exchange: Exchange) -> None:
        started = message(cache_read_input_tokens=3, output_tokens=1).model_dump(mode="json")
        await exchange.begin_stream()
        await exchange.send({"type": "message_start", "message": started}, "message_start")
        await exchange.send({"type": "error", "error": {"type": kind, "message": "no"}}, "error")
        await exchange.end_stream()

    vendor.handlers = [handle]
    client = AnthropicClient(Endpoint("anthropic", vendor.url.removesuffix("/v1"), SecretStr("k")))
    with pytest.raises(wanted) as caught:
        async for _ in client.stream(CompletionRequest((ChatMessage("user", "x"),), model="claude")):
            pass
    await client.close()
    assert type(caught.value) is wanted
    assert caught.value.usage == Usage(8, 1, cached_tokens=3, incomplete=True)
