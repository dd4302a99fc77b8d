"""Names of models, their settings, and fallbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aixgo import errors
from aixgo.llm.contract import ChatMessage, CompletionRequest, Image
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.scripted import Reply, Scripted, ScriptedModel
from aixgo.llm.weights import find_weights
from pydantic import SecretStr
from vendor_server import VendorServer, answers, refuses

ASKED = CompletionRequest((ChatMessage("user", "hello"),))


def models(**replies: Scripted) -> Models:
    return Models(ModelSettings(), scripted={name: ScriptedModel([reply]) for name, reply in replies.items()})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gpt-4", "vendor/model"),
        ("opnai/gpt-4", "did you mean 'openai'"),
        ("antropic/claude", "did you mean 'anthropic'"),
        ("local/smollm2", "did you mean 'smollm2-135m'"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_the_fix(name: str, told: str):
    with pytest.raises(errors.ConfigError, match=told):
        Models(ModelSettings()).provider(name)


def test_no_model_at_all_is_refused():
    with pytest.raises(errors.ConfigError, match="no model is named"):
        Models(ModelSettings()).chat([])


def test_a_vendor_has_one_provider():
    made = models()
    assert made.provider("test/echo")[0] is made.provider("test/upper")[0]


def test_the_environment_gives_keys_and_addresses():
    settings = ModelSettings.from_environment(
        {"OPENAI_API_KEY": "k", "OLLAMA_HOST": "box:11434", "XAI_BASE_URL": "https://x/v9/", "AIXGO_MODEL_DIR": "/w"}
    )
    assert settings.keys["openai"].get_secret_value() == "k"
    assert settings.urls == {"ollama": "http://box:11434/v1", "xai": "https://x/v9"}
    assert settings.model_dir == Path("/w")
    assert "'k'" not in repr(settings)


async def test_another_base_url_needs_no_key(vendor: VendorServer):
    vendor.handlers = [answers("hi")]
    made = Models(ModelSettings(urls={"openai": vendor.url}))
    assert (await made.chat(["openai/any"]).complete(ASKED)).text == "hi"
    await made.close()


async def test_the_embedded_model_may_be_served_by_another_process(vendor: VendorServer):
    vendor.handlers = [answers("hi")]
    made = Models(ModelSettings(local_url=vendor.url))
    assert (await made.chat(["local/smollm2-135m"]).complete(ASKED)).text == "hi"
    await made.close()


async def test_missing_weights_say_how_to_get_them(tmp_path: Path):
    pytest.importorskip("xllamacpp", reason="the embedded model's package is not installed")
    made = Models(ModelSettings(model_dir=tmp_path))
    assert find_weights(tmp_path) is None
    with pytest.raises(errors.ConfigError, match=r"aixgo model pull.*OPENAI_API_KEY.*Ollama"):
        await made.chat(["local/smollm2-135m"]).complete(ASKED)


async def test_the_next_model_answers_when_one_fails():
    chat = models(a=errors.RateLimited("later"), b=errors.ProviderDenied("no"), c="fine").chat(
        ["test/a", "test/b", "test/c"]
    )
    assert (await chat.complete(ASKED)).text == "fine"


async def test_a_rejected_request_is_not_tried_elsewhere():
    chat = models(a=errors.ProviderRejected("too long"), b="fine").chat(["test/a", "test/b"])
    with pytest.raises(errors.ProviderRejected):
        await chat.complete(ASKED)


async def test_images_go_to_the_next_model_when_the_first_sees_none():
    turn = ChatMessage("user", "hello", images=(Image(url="https://example.com/a.png"),))
    made = Models(ModelSettings(keys={"deepseek": SecretStr("k")}))
    assert (await made.chat(["deepseek/chat", "test/echo"]).complete(CompletionRequest((turn,)))).text == "hello"
    await made.close()


async def test_when_all_fail_the_last_error_is_raised():
    chat = models(a=errors.RateLimited("later"), b=errors.ProviderUnavailable("gone")).chat(["test/a", "test/b"])
    with pytest.raises(errors.ProviderUnavailable):
        await chat.complete(ASKED)


async def test_a_stream_falls_back_before_its_first_piece():
    chat = models(a=errors.RateLimited("later"), b="fine").chat(["test/a", "test/b"])
    assert [chunk.text async for chunk in chat.stream(ASKED)] == ["fine", ""]


async def test_a_stream_does_not_fall_back_once_it_has_begun():
    broken: Any = Reply("x", deltas=["x"], error=errors.ProviderUnavailable("gone"))
    chat = models(a=broken, b="fine").chat(["test/a", "test/b"])
    with pytest.raises(errors.ProviderUnavailable):
        async for _ in chat.stream(ASKED):
            pass


async def test_a_key_that_is_refused_falls_back(vendor: VendorServer):
    vendor.handlers = [refuses(401, "bad key")]
    made = Models(ModelSettings(urls={"openai": vendor.url}))
    assert (await made.chat(["openai/gpt-4", "test/echo"]).complete(ASKED)).text == "hello"
    await made.close()
