"""The OpenAI format, against a small server that speaks it."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from typing import Any

import pytest
from aixgo import errors
from aixgo.call import entered, root
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest, ToolOffer, ToolUse
from aixgo.llm.metering import Metered
from aixgo.llm.openai import Endpoint, OpenAIClient
from aixgo.llm.pricing import Prices
from aixgo.usage import Usage
from pydantic import BaseModel, SecretStr
from vendor_server import Exchange, VendorServer, answers, chat_chunk, refuses, usage_chunk


def request(text: str = "hello", **more: Any) -> CompletionRequest:
    return CompletionRequest((ChatMessage("user", text),), model="gpt-4", **more)


async def test_a_completion_carries_text_model_and_every_kind_of_token(vendor: VendorServer, client: OpenAIClient):
    vendor.handlers = [answers("hi")]
    got = await client.complete(request(temperature=0.5, max_tokens=7, stop=("END",), extra={"seed": 3}))
    assert got == Completion("hi", "gpt-4-0613", Usage(10, 5, 4, 2))
    body = vendor.seen[0].body
    assert vendor.seen[0].path == "/v1/chat/completions"
    assert body == {
        "model": "gpt-4",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.5,
        "max_tokens": 7,
        "stop": ["END"],
        "seed": 3,
    }


async def test_tools_are_offered_called_and_answered(vendor: VendorServer, client: OpenAIClient):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    vendor.handlers = [answers(None, reason="tool_calls", tool_calls=[call])]
    offer = ToolOffer("add", "adds", {"type": "object", "properties": {"a": {"type": "integer"}}})
    history = (
        ChatMessage("user", "add"),
        ChatMessage("assistant", "", tool_uses=(ToolUse("c0", "add", {"a": 0}),)),
        ChatMessage("tool", "0", tool_call_id="c0"),
    )
    got = await client.complete(CompletionRequest(history, model="gpt-4", tools=(offer,)))
    assert got.tool_uses == (ToolUse("c1", "add", {"a": 1}),)
    assert got.stop_reason == "tool_calls"
    body = vendor.seen[0].body
    assert body["tools"][0]["function"] == {"name": "add", "description": "adds", "parameters": offer.parameters}
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":0}'}
    assert body["messages"][2] == {"role": "tool", "content": "0", "tool_call_id": "c0"}


async def test_a_tool_call_with_broken_arguments_is_an_invalid_completion(vendor: VendorServer, client: OpenAIClient):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": '}}
    vendor.handlers = [answers(None, tool_calls=[call])]
    with pytest.raises(errors.InvalidCompletion, match="add") as caught:
        await client.complete(request())
    assert caught.value.usage.total_tokens == 15


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, errors.ProviderRejected),
        (401, errors.ProviderDenied),
        (403, errors.ProviderDenied),
        (404, errors.ProviderRejected),
        (422, errors.ProviderRejected),
        (408, errors.ProviderTimeout),
        (500, errors.ProviderUnavailable),
        (503, errors.ProviderUnavailable),
    ],
)
async def test_a_status_becomes_the_error_of_its_kind(vendor: VendorServer, status: int, cls: type[Exception]):
    client = OpenAIClient(Endpoint("openai", vendor.url, SecretStr("sk-secret")))
    vendor.handlers = [refuses(status, f"no: sk-secret {'x' * 900}")]
    with pytest.raises(cls) as caught:
        await client.complete(request())
    await client.close()
    assert type(caught.value) is cls
    text = str(caught.value)
    assert f"answers {status}: no: ***" in text
    assert "sk-secret" not in text
    assert "inside" not in text
    assert len(text) < 700


async def test_429_says_when_to_come_back_and_the_sdk_does_not_try_again(vendor: VendorServer, client: OpenAIClient):
    vendor.handlers = [refuses(429, "slow down", retry_after_ms="5")]
    with pytest.raises(errors.RateLimited) as caught:
        await client.complete(request())
    assert len(vendor.seen) == 1
    assert caught.value.retry_after == 0.005


async def test_an_account_without_credit_is_denied_rather_than_asked_to_wait(
    vendor: VendorServer, client: OpenAIClient
):
    async def broke(exchange: Exchange) -> None:
        await exchange.answer(429, {"error": {"message": "no credit", "code": "insufficient_quota"}})

    vendor.handlers = [broke]
    with pytest.raises(errors.ProviderDenied, match="no credit"):
        await client.complete(request())


async def test_a_vendor_may_say_that_trying_again_is_of_no_use(vendor: VendorServer, client: OpenAIClient):
    vendor.handlers = [refuses(500, "never", x_should_retry="false")]
    with pytest.raises(errors.ProviderUnavailable) as caught:
        await client.complete(request())
    assert caught.value.fields == {"status": 500, "final": True}


async def test_nobody_there_is_unavailable():
    client = OpenAIClient(Endpoint("ollama", "http://127.0.0.1:1/v1"))
    with pytest.raises(errors.ProviderUnavailable, match=r"127\.0\.0\.1:1"):
        await client.complete(request())
    await client.close()


async def test_the_deadline_of_the_call_is_the_timeout(vendor: VendorServer):
    async def stall(exchange: Exchange) -> None:
        await exchange.closed_by_peer()

    vendor.handlers = [stall]
    client = OpenAIClient(Endpoint("openai", vendor.url))
    await client._open()
    with entered(root(timeout=0.05)), pytest.raises(errors.ProviderTimeout):
        await client.complete(request())
    await client.close()


async def test_a_stream_comes_in_pieces_and_ends_with_the_whole(vendor: VendorServer, client: OpenAIClient):
    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for piece in (chat_chunk("He"), chat_chunk("llo"), chat_chunk(reason="length"), usage_chunk(3, 2), "[DONE]"):
            await exchange.send(piece)
        await exchange.end_stream()

    vendor.handlers = [handle]
    chunks = [chunk async for chunk in client.stream(request())]
    assert [chunk.text for chunk in chunks] == ["He", "llo", ""]
    assert chunks[-1].completion == Completion("Hello", "gpt-4-0613", Usage(3, 2), "length")
    assert vendor.seen[0].body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_in_the_vendors_own_field_is_one(vendor: VendorServer, client: OpenAIClient, stream: bool):
    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for piece in (chat_chunk(refusal="I will "), chat_chunk(refusal="not."), chat_chunk(reason="stop"), "[DONE]"):
            await exchange.send(piece)
        await exchange.end_stream()

    vendor.handlers = [handle if stream else answers(None, refusal="I will not.")]
    if stream:
        got = [chunk async for chunk in client.stream(request())][-1].completion
    else:
        got = await client.complete(request())
    assert got is not None
    assert (got.text, got.stop_reason) == ("I will not.", "refused")


async def test_streamed_tool_calls_are_put_together(vendor: VendorServer, client: OpenAIClient):
    def part(**function: str) -> list[dict[str, Any]]:
        return [{"index": 0, "id": "c1", "type": "function", "function": function}]

    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.send(chat_chunk(tool_calls=part(name="add", arguments="")))
        await exchange.send(chat_chunk(tool_calls=part(arguments='{"a"')))
        await exchange.send(chat_chunk(tool_calls=part(arguments=":1}"), reason="tool_calls"))
        await exchange.send("[DONE]")
        await exchange.end_stream()

    vendor.handlers = [handle]
    chunks = [chunk async for chunk in client.stream(request())]
    assert chunks[-1].completion is not None
    assert chunks[-1].completion.tool_uses == (ToolUse("c1", "add", {"a": 1}),)


@pytest.mark.parametrize("cleanly", [True, False])
async def test_a_stream_that_breaks_off_is_unavailable(vendor: VendorServer, client: OpenAIClient, cleanly: bool):
    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.send(chat_chunk("He"))
        if cleanly:
            await exchange.end_stream()
        exchange.writer.close()

    vendor.handlers = [handle]
    chunks = client.stream(request())
    assert (await anext(chunks)).text == "He"
    with pytest.raises(errors.ProviderUnavailable):
        await anext(chunks)


async def test_cancelling_a_completion_closes_the_http_request(vendor: VendorServer, client: OpenAIClient):
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        arrived.set()
        await exchange.closed_by_peer()
        closed.set()

    vendor.handlers = [handle]
    asking = asyncio.create_task(client.complete(request()))
    await arrived.wait()
    asking.cancel()
    async with asyncio.timeout(5):
        await closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_leaving_a_stream_closes_the_http_request(vendor: VendorServer, client: OpenAIClient):
    closed = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.send(chat_chunk("He"))
        await exchange.closed_by_peer()
        closed.set()

    vendor.handlers = [handle]
    async with aclosing(client.stream(request())) as chunks:  # pyright: ignore[reportArgumentType]
        assert (await anext(chunks)).text == "He"
    async with asyncio.timeout(5):
        await closed.wait()


class Weather(BaseModel):
    city: str
    degrees: int = 0


async def test_a_structured_answer_is_asked_for_strictly(vendor: VendorServer, client: OpenAIClient):
    vendor.handlers = [answers('{"city": "Oslo", "degrees": 3}')]
    got, _ = await Metered(client, Prices()).complete_structured(request(), Weather)
    assert got == Weather(city="Oslo", degrees=3)
    wanted = vendor.seen[0].body["response_format"]["json_schema"]
    assert wanted["strict"] is True
    assert wanted["schema"]["required"] == ["city", "degrees"]
    assert wanted["schema"]["additionalProperties"] is False


async def test_a_malformed_structured_answer_is_repaired(vendor: VendorServer, client: OpenAIClient):
    vendor.handlers = [answers("Oslo, I think"), answers('```json\n{"city": "Oslo", "degrees": 3}\n```')]
    got, completion = await Metered(client, Prices()).complete_structured(request(), Weather)
    assert got.city == "Oslo"
    assert completion.usage.llm_calls == 2
    assert completion.usage.total_tokens == 30
    again = vendor.seen[1].body["messages"]
    assert again[1] == {"role": "assistant", "content": "Oslo, I think"}
    assert "does not fit" in again[2]["content"]


async def test_repairs_are_bounded(vendor: VendorServer, client: OpenAIClient):
    vendor.handlers = [answers("no") for _ in range(9)]
    with pytest.raises(errors.InvalidCompletion, match="2 repairs"):
        await Metered(client, Prices()).complete_structured(request(), Weather)
    assert len(vendor.seen) == 3


async def test_a_model_without_schema_mode_is_asked_in_words_from_then_on(vendor: VendorServer, client: OpenAIClient):
    good = answers('{"city": "Oslo", "degrees": 3}')
    vendor.handlers = [refuses(400, "'response_format' is not supported with this model"), good, good]
    for _ in range(2):
        got, _ = await Metered(client, Prices()).complete_structured(request(), Weather)
        assert got.city == "Oslo"
    assert ["response_format" in seen.body for seen in vendor.seen] == [True, False, False]
    assert "JSON schema" in vendor.seen[1].body["messages"][0]["content"]


async def test_a_missing_key_is_named():
    client = OpenAIClient(Endpoint("openai", "http://127.0.0.1:1/v1", key_env="OPENAI_API_KEY"))
    with pytest.raises(errors.ProviderDenied, match="OPENAI_API_KEY"):
        await client.complete(request())


async def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    client = OpenAIClient(Endpoint("openai", "http://127.0.0.1:1/v1"))
    with pytest.raises(errors.ConfigError, match=r"aixgo\[openai\]"):
        await client.complete(request())


def test_a_key_is_never_shown():
    assert "sk-secret" not in repr(Endpoint("openai", "http://x/v1", SecretStr("sk-secret")))
