"""The same promises at the vendors themselves, for those whose key is in AIXGO_LIVE_<VENDOR>_KEY.

A name of its own, so that nobody spends money by running the tests with a key in their environment. The model is that
of AIXGO_LIVE_<VENDOR>_MODEL, or one named here.
"""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aixgo import errors
from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, CompletionRequest, Image, ToolOffer
from aixgo.llm.models import Models, ModelSettings
from pydantic import BaseModel, SecretStr

MODELS = {
    "openai": "gpt-4o-mini",
    "anthropic": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash",
    "xai": "grok-4-fast",
    "deepseek": "deepseek-chat",
}
# Read here: tests themselves run without the variables of vendors and of aixgo.
KEYS = {vendor: os.environ.get(f"AIXGO_LIVE_{vendor.upper()}_KEY", "") for vendor in MODELS}
NAMES = {vendor: os.environ.get(f"AIXGO_LIVE_{vendor.upper()}_MODEL") or model for vendor, model in MODELS.items()}
RED_DOT = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4//8/w38GIAXDIBKE0DHxgljNBAAO9TXL0Y4OHwAAAABJRU5ErkJggg=="
)
WEATHER = ToolOffer(
    "weather",
    "The weather of a city, now.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
)


@pytest.fixture(params=MODELS)
def vendor(request: pytest.FixtureRequest) -> str:
    if not KEYS[request.param]:
        pytest.skip(f"AIXGO_LIVE_{request.param.upper()}_KEY is not set")
    return request.param


@pytest.fixture
async def chat(vendor: str) -> AsyncIterator[Chat]:
    models = Models(ModelSettings(keys={vendor: SecretStr(KEYS[vendor])}))
    yield models.chat([f"{vendor}/{NAMES[vendor]}"])
    await models.close()


def asked(text: str, **more: object) -> CompletionRequest:
    return replace(CompletionRequest((ChatMessage("user", text),), max_tokens=2000), **more)


async def test_an_answer_comes_whole_and_streamed_with_its_tokens(chat: Chat):
    request = asked("Say only the word: tea")
    assert "tea" in (await chat.complete(request)).text.lower()
    chunks = [chunk async for chunk in chat.stream(request)]
    whole = chunks[-1].completion
    assert whole is not None
    assert whole.text == "".join(chunk.text for chunk in chunks)
    assert whole.usage.prompt_tokens > 0
    assert whole.usage.completion_tokens > 0
    assert not whole.usage.incomplete


async def test_a_tool_is_asked_for_answered_and_left_alone_at_the_end(chat: Chat):
    first = asked("What is the weather in Oslo? Use the tool.", tools=(WEATHER,))
    got = await chat.complete(first)
    (use,) = got.tool_uses
    assert use.arguments["city"] == "Oslo"
    turns = (ChatMessage("assistant", got.text, got.tool_uses), ChatMessage("tool", "snow", tool_call_id=use.id))
    last = await chat.complete(replace(first, messages=(*first.messages, *turns), tools=()))
    assert "snow" in last.text.lower()


class City(BaseModel):
    name: str
    country: str


async def test_an_answer_follows_a_schema(chat: Chat):
    got, _ = await chat.complete_structured(asked("The capital of Norway"), City)
    assert got.name == "Oslo"


async def test_an_image_is_seen(chat: Chat, vendor: str):
    turn = ChatMessage("user", "Which colour is this? One word.", images=(Image(RED_DOT, "image/png"),))
    request = asked("", messages=(turn,))
    if vendor == "deepseek":
        with pytest.raises(errors.ProviderRejected):
            await chat.complete(request)
    else:
        assert "red" in (await chat.complete(request)).text.lower()


@pytest.mark.parametrize("name", ["openai/text-embedding-3-small", "gemini/gemini-embedding-001"])
async def test_texts_of_one_meaning_are_near(name: str):
    vendor = name.partition("/")[0]
    if not KEYS[vendor]:
        pytest.skip(f"AIXGO_LIVE_{vendor.upper()}_KEY is not set")
    models = Models(ModelSettings(keys={vendor: SecretStr(KEYS[vendor])}))
    cat, kitten, tax = await models.embedder(name).embed(["a cat", "a kitten", "the income tax of 1987"])
    await models.close()
    assert sum(map(float.__mul__, cat, kitten)) > sum(map(float.__mul__, cat, tax))


async def test_a_model_that_is_not_there_is_rejected(vendor: str):
    models = Models(ModelSettings(keys={vendor: SecretStr(KEYS[vendor])}))
    with pytest.raises(errors.ProviderRejected):
        await models.chat([f"{vendor}/no-such-model-0"]).complete(asked("x"))
    await models.close()


async def test_a_wrong_key_is_denied(vendor: str):
    models = Models(ModelSettings(keys={vendor: SecretStr("sk-wrong-0123456789")}))
    with pytest.raises(errors.ProviderDenied) as caught:
        await models.chat([f"{vendor}/{NAMES[vendor]}"]).complete(asked("x"))
    assert "sk-wrong-0123456789" not in str(caught.value)
    await models.close()
