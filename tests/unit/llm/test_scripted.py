"""Scripted models: what users' tests, and the processes of a fleet, are answered by."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import pytest
from aixgo import errors
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest, ToolUse
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.scripted import Reply, ScriptedModel
from aixgo.usage import Usage
from pydantic import BaseModel


def asked(text: str, **more: Any) -> CompletionRequest:
    return CompletionRequest((ChatMessage("system", "be kind"), ChatMessage("user", text)), **more)


async def answer(name: str, text: str = "hello big world", models: Models | None = None, **more: Any) -> Completion:
    return await (models or Models(ModelSettings())).chat([name]).complete(asked(text, **more))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test/echo", "hello big world"),
        ("test/upper", "HELLO BIG WORLD"),
        ("test/fixed:a: b", "a: b"),
        ("test/choose:yes", "yes"),
    ],
)
async def test_a_name_alone_says_what_is_answered(name: str, text: str):
    assert (await answer(name)).text == text


async def test_usage_is_the_number_of_words():
    got = await answer("test/echo")
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (5, 3)


async def test_max_tokens_cuts_the_answer():
    got = await answer("test/echo", max_tokens=2)
    assert (got.text, got.stop_reason) == ("hello big", "length")


async def test_a_stream_is_word_by_word_and_adds_up():
    chunks = [chunk async for chunk in Models(ModelSettings()).chat(["test/echo"]).stream(asked("a  b\nc"))]
    assert [chunk.text for chunk in chunks] == ["a  ", "b\n", "c", ""]
    assert chunks[-1].completion is not None
    assert chunks[-1].completion.text == "a  b\nc"


class Verdict(BaseModel):
    reason: str
    mood: Literal["good", "bad"]
    team: Literal["one", "two", "three"]
    count: int


async def test_choose_fills_a_schema():
    chat = Models(ModelSettings()).chat(["test/choose:two"])
    got, _ = await chat.complete_structured(asked("x"), Verdict)
    assert got == Verdict(reason="", mood="good", team="two", count=0)


async def test_fail_raises_the_class_that_is_named():
    with pytest.raises(errors.RateLimited):
        await answer("test/fail:RateLimited")


@pytest.mark.parametrize(
    ("name", "nearest"), [("test/fail:RateLimit", "RateLimited"), ("test/ecko", "echo"), ("test/", "vendor/model")]
)
def test_a_name_that_is_none_is_refused_with_the_nearest(name: str, nearest: str):
    with pytest.raises(errors.ConfigError, match=nearest):
        Models(ModelSettings()).provider(name)


async def test_slow_streams_then_waits_and_its_cancellation_leaves_a_mark(tmp_path: Path):
    mark = tmp_path / "mark"
    words: list[str] = []
    async with aclosing(Models(ModelSettings()).chat([f"test/slow:{mark}"]).stream(asked("a b"))) as chunks:  # pyright: ignore[reportArgumentType]
        async for chunk in chunks:
            words.append(chunk.text)
            if len(words) == 2:
                break
        assert mark.read_text() == "started\n"
    assert words == ["a ", "b"]
    assert mark.read_text() == "started\ncancelled\n"


async def test_slow_without_a_stream_waits_until_cancelled(tmp_path: Path):
    mark = tmp_path / "mark"
    asking = asyncio.create_task(answer(f"test/slow:{mark}"))
    while not mark.exists():  # noqa: ASYNC110  # the mark is all that another process sees
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert mark.read_text() == "started\ncancelled\n"


async def test_replies_come_in_order_and_the_requests_are_kept():
    boom = errors.ProviderUnavailable("boom")
    judge = ScriptedModel(["yes", {"n": 1}, boom, Reply("t", tool_uses=(ToolUse("1", "add", {}),), usage=Usage(7, 8))])
    models = Models(ModelSettings(), scripted={"judge": judge})
    assert (await answer("test/judge", models=models)).text == "yes"
    assert (await answer("test/judge", models=models)).text == '{"n":1}'
    with pytest.raises(errors.ProviderUnavailable, match="boom"):
        await answer("test/judge", models=models)
    last = await answer("test/judge", models=models)
    assert (last.stop_reason, last.usage.total_tokens) == ("tool_calls", 15)
    assert [one.messages[-1].content for one in judge.requests] == ["hello big world"] * 4
    with pytest.raises(errors.ProviderRejected, match="4 replies"):
        await answer("test/judge", models=models)


async def test_a_function_of_the_request_may_reply_and_may_wait():
    async def reply(request: CompletionRequest) -> str:
        await asyncio.sleep(0)
        return request.messages[0].content

    models = Models(ModelSettings(), scripted={"f": ScriptedModel(reply)})
    assert (await answer("test/f", models=models)).text == "be kind"


async def test_a_stream_can_break_after_its_deltas():
    model = ScriptedModel([Reply("abc", deltas=["a", "b"], error=errors.ProviderUnavailable("gone"))])
    chunks = Models(ModelSettings(), scripted={"m": model}).chat(["test/m"]).stream(asked("x"))
    assert [(await anext(chunks)).text, (await anext(chunks)).text] == ["a", "b"]
    with pytest.raises(errors.ProviderUnavailable, match="gone"):
        await anext(chunks)


async def test_a_gate_holds_the_model_back():
    gate = asyncio.Event()
    models = Models(ModelSettings(), scripted={"m": ScriptedModel([Reply("now", gate=gate)])})
    asking = asyncio.create_task(answer("test/m", models=models))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    gate.set()
    assert (await asking).text == "now"
