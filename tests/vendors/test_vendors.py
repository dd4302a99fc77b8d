"""What every vendor's file does, whatever the vendor."""

from __future__ import annotations

import logging
import traceback
from base64 import b64encode
from dataclasses import replace
from typing import Any

import pytest
from aixgo import errors
from aixgo.agents.react import ReActAgent
from aixgo.call import entered, root
from aixgo.config.spec import AgentSpec
from aixgo.events import Result
from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, CompletionRequest, Image, ToolOffer, ToolUse
from aixgo.llm.models import Models
from aixgo.testing import running
from aixgo.tools import tool
from aixgo.tools.toolbox import Toolbox
from aixgo.usage import Usage
from pydantic import BaseModel

from tests.unit.llm.vendor_server import VendorServer
from tests.vendors.asking import asked, streamed
from tests.vendors.conftest import KEY, Clock
from tests.vendors.dialects import Dialect, Said

ADD = ToolOffer("add", "adds", {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
BOTH = Said("let me see", (ToolUse("c1", "add", {"a": 1}), ToolUse("c2", "add", {"a": 2})), "tool_calls")
SAID = [
    Said("Hello there, you"),
    Said("cut o", stop="length"),
    Said("I will not", stop="refused"),
    BOTH,
    Said(uses=BOTH.uses[:1], stop="tool_calls"),
]


def tokens(usage: Usage) -> Usage:
    """Without what the metering adds, and without what only one vendor reports."""
    return replace(usage, llm_calls=0, cost_usd=None, unpriced_calls=0, cache_write_tokens=0)


@pytest.mark.parametrize("said", SAID, ids=["text", "cut", "refused", "text and tools", "tool"])
async def test_a_stream_gives_what_a_whole_answer_gives(server: VendorServer, dialect: Dialect, chat: Chat, said: Said):
    server.handlers = [dialect.answers(said), dialect.answers(said)]
    whole = await chat.complete(asked(tools=(ADD,)))
    texts, gathered = await streamed(chat, asked(tools=(ADD,)))
    assert gathered == whole
    assert (whole.text, whole.stop_reason, whole.model) == (said.text, said.stop, "model-1-0613")
    assert [(use.id, use.name, dict(use.arguments)) for use in whole.tool_uses] == [
        (use.id, use.name, use.arguments) for use in said.uses
    ]
    assert tokens(whole.usage) == dialect.spent
    assert "".join(texts) == said.text
    assert len(texts) == len(said.text) // 4 + bool(len(said.text) % 4)


async def test_what_is_asked_arrives_with_the_key(server: VendorServer, dialect: Dialect, chat: Chat):
    server.handlers = [dialect.answers(Said("hi"))]
    await chat.complete(asked(temperature=0.5, max_tokens=7, stop=("END",)))
    exchange = server.seen[0]
    assert dialect.key_of(exchange) == (KEY if dialect.keyed else "none")
    told = dialect.sent(exchange.body)
    assert "be brief" in told
    assert "hello" in told
    for value in (0.5, 7, ["END"]):
        assert value in [*exchange.body.values(), *exchange.body.get("generationConfig", {}).values()]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_go_there_and_back(server: VendorServer, dialect: Dialect, chat: Chat, stream: bool):
    server.handlers = [dialect.answers(BOTH), dialect.answers(Said("it is 3"))]
    first = asked("1+2?", tools=(ADD,))
    got = (await streamed(chat, first))[1] if stream else await chat.complete(first)
    told = [ChatMessage("tool", str(use.arguments["a"]), tool_call_id=use.id) for use in got.tool_uses]
    again = replace(first, messages=(*first.messages, ChatMessage("assistant", got.text, got.tool_uses), *told))
    last = (await streamed(chat, again))[1] if stream else await chat.complete(again)
    assert last.text == "it is 3"
    assert dialect.results(server.seen[1].body) == [("c1", "1"), ("c2", "2")]
    assert "let me see" in dialect.sent(server.seen[1].body)


async def test_the_role_react_uses_tools_and_may_end_without_them(
    server: VendorServer, dialect: Dialect, models: Models
):
    @tool
    async def add(a: int) -> int:
        """Adds."""
        return a + 10

    spec = AgentSpec(name="r", role="react", model=(dialect.model,), tools=("add",), config={"max_iterations": 1})
    server.handlers = [dialect.answers(BOTH), dialect.answers(Said("23"))]
    agent = ReActAgent(spec, models=models, tools=Toolbox([add]))
    async with running(agent) as runtime, runtime.stream("r", "go") as events:
        seen = [event async for event in events]
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.payload == "23"
    assert seen[-1].message.usage.total_tokens == 2 * dialect.spent.total_tokens
    body = server.seen[1].body
    assert dialect.results(body) == [("c1", "11"), ("c2", "12")]
    # Anthropic wants tools that were used to be declared, and can be told that they are not to be used again.
    assert ("tools" in body) == ("tool_choice" in body) == (dialect.vendor == "anthropic")


class Weather(BaseModel):
    city: str
    degrees: int = 0


async def test_an_answer_by_a_schema_is_validated_and_repaired(server: VendorServer, dialect: Dialect, chat: Chat):
    server.handlers = [dialect.answers(Said("Oslo, I think")), dialect.answers(Said('{"city": "Oslo", "degrees": 3}'))]
    got, completion = await chat.complete_structured(asked(), Weather)
    assert got == Weather(city="Oslo", degrees=3)
    assert tokens(completion.usage) == tokens(dialect.spent + dialect.spent)
    first, second = (exchange.body for exchange in server.seen)
    assert dialect.asks_schema(first) == (dialect.vendor != "deepseek")
    assert dialect.asks_schema(first) or "JSON schema" in dialect.sent(first)
    assert "does not fit" in dialect.sent(second)


async def test_repairs_end(server: VendorServer, dialect: Dialect, chat: Chat):
    server.handlers = [dialect.answers(Said("no")) for _ in range(9)]
    with pytest.raises(errors.InvalidCompletion, match="2 repairs"):
        await chat.complete_structured(asked(), Weather)
    assert len(server.seen) == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_refuses_the_schema_mode_is_asked_in_words_from_then_on(
    server: VendorServer, dialect: Dialect, chat: Chat, stream: bool
):
    if dialect.vendor == "deepseek":
        pytest.skip("DeepSeek is never asked for it")
    request = asked(schema={"type": "object", "properties": {"city": {"type": "string"}}})
    good = dialect.answers(Said('{"city": "Oslo"}'))
    server.handlers = [dialect.refuses(400, dialect.schema_refusal), good, good]
    for _ in range(2):
        got = (await streamed(chat, request))[1] if stream else await chat.complete(request)
        assert got.text == '{"city": "Oslo"}'
    assert [dialect.asks_schema(seen.body) for seen in server.seen] == [True, False, False]
    assert "JSON schema" in dialect.sent(server.seen[1].body)


async def test_a_temperature_that_a_model_refuses_is_left_out_from_then_on(
    server: VendorServer, dialect: Dialect, chat: Chat
):
    good = dialect.answers(Said("hi"))
    server.handlers = [dialect.refuses(400, "'temperature' does not support 0.5 with this model"), good, good]
    for _ in range(2):
        await chat.complete(asked(temperature=0.5))
    bodies = [seen.body.get("generationConfig", seen.body) for seen in server.seen]
    assert ["temperature" in body for body in bodies] == [True, False, False]


async def test_a_parameter_that_was_not_the_fault_is_sent_again_next_time(
    server: VendorServer, dialect: Dialect, chat: Chat
):
    server.handlers = [dialect.refuses(400, "too high a temperature in here") for _ in range(2)]
    server.handlers.append(dialect.answers(Said("hi")))
    with pytest.raises(errors.ProviderRejected):
        await chat.complete(asked(temperature=0.5))
    await chat.complete(asked(temperature=0.5))
    bodies = [seen.body.get("generationConfig", seen.body) for seen in server.seen]
    assert ["temperature" in body for body in bodies] == [True, False, True]


STATUSES = [
    (400, errors.ProviderRejected),
    (401, errors.ProviderDenied),
    (402, errors.ProviderDenied),
    (403, errors.ProviderDenied),
    (404, errors.ProviderRejected),
    (413, errors.ProviderRejected),
    (422, errors.ProviderRejected),
    (429, errors.RateLimited),
    (408, errors.ProviderTimeout),
    (500, errors.ProviderUnavailable),
    (503, errors.ProviderUnavailable),
    (529, errors.ProviderUnavailable),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_a_status_becomes_the_error_of_its_kind(
    server: VendorServer, dialect: Dialect, chat: Chat, status: int, kind: type[Exception], stream: bool
):
    server.handlers = [dialect.refuses(status, f"no: {'x' * 900}") for _ in range(3)]
    with pytest.raises(kind) as caught:
        await (streamed(chat, asked()) if stream else chat.complete(asked()))
    assert type(caught.value) is kind
    assert f"{dialect.model} at http://127.0.0.1" in str(caught.value)
    assert f"answers {status}: no: xxx" in str(caught.value)
    assert "inside" not in str(caught.value)
    assert len(str(caught.value)) < 700
    passes = status in (408, 429) or status >= 500
    assert len(server.seen) == (3 if passes else 1)


@pytest.mark.parametrize("stream", [False, True])
async def test_429_is_waited_for_as_long_as_the_vendor_says(
    server: VendorServer, dialect: Dialect, chat: Chat, clock: Clock, stream: bool
):
    server.handlers = [dialect.refuses(429, "slow down", retry_after="7"), dialect.answers(Said("hi"))]
    state = root()
    with entered(state):
        got = (await streamed(chat, asked()))[1] if stream else await chat.complete(asked())
    assert got.text == "hi"
    (nap,) = clock.naps
    assert 7 <= nap < 8
    assert tokens(state.ledger.usage) == dialect.spent
    assert state.ledger.usage.llm_calls == 2


async def test_a_wait_beyond_the_deadline_is_not_begun(
    server: VendorServer, dialect: Dialect, chat: Chat, clock: Clock
):
    server.handlers = [dialect.refuses(429, "slow down", retry_after="7")]
    with entered(root(timeout=5)), pytest.raises(errors.RateLimited) as caught:
        await chat.complete(asked())
    assert caught.value.retry_after == 7
    assert clock.naps == []


async def test_failures_that_pass_are_not_seen(server: VendorServer, dialect: Dialect, chat: Chat, clock: Clock):
    server.handlers = [dialect.refuses(500, "oops"), dialect.refuses(503, "oops"), dialect.answers(Said("fine"))]
    assert (await chat.complete(asked())).text == "fine"
    first, second = clock.naps
    assert first <= 0.5
    assert second <= 1


async def test_images_arrive(server: VendorServer, dialect: Dialect, chat: Chat):
    data = bytes(range(256))
    images = (Image(data, "image/png"), Image(url="https://example.com/cat.jpg"))
    request = CompletionRequest((ChatMessage("user", "what is it?", images=images),))
    if dialect.vendor == "deepseek":
        with pytest.raises(errors.ProviderRejected, match="sees no images"):
            await chat.complete(request)
        return
    server.handlers = [dialect.answers(Said("a cat"))]
    await chat.complete(request)
    assert dialect.images(server.seen[0].body) == [b64encode(data).decode(), "https://example.com/cat.jpg"]
    assert "what is it?" in dialect.sent(server.seen[0].body)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
async def test_no_secret_is_in_any_error_log_or_repr(
    server: VendorServer,
    dialect: Dialect,
    models: Models,
    chat: Chat,
    caplog: pytest.LogCaptureFixture,
    status: int,
):
    if not dialect.keyed:
        pytest.skip("there is no key")
    caplog.set_level(logging.DEBUG)
    server.handlers = [dialect.refuses(status, f"what is {KEY}?") for _ in range(3)]
    with pytest.raises(errors.ProviderError) as caught:
        await chat.complete(asked())
    logging.getLogger("user").error("it failed", exc_info=caught.value)
    provider: Any = models.provider(dialect.model)[0]
    client = provider._provider._client
    shown = [repr(client), repr(client.endpoint), repr(models._settings), repr(caught.value.__cause__)]
    for text in (*shown, caplog.text, *traceback.format_exception(caught.value)):
        assert KEY not in text
    assert "what is ***?" in str(caught.value)
