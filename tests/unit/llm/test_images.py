"""Images that come with a message, to the role llm and its model."""

from __future__ import annotations

import logging
from base64 import b64encode
from contextlib import suppress
from typing import Any

import pytest
from aixgo import Message, errors
from aixgo.agents.llm import LLMAgent
from aixgo.agents.react import ReActAgent
from aixgo.config.spec import AgentSpec
from aixgo.llm.contract import MAX_IMAGE_BYTES, ChatMessage, Image, ToolUse
from aixgo.llm.images import MAX_IMAGES, images_of
from aixgo.llm.scripted import Reply
from aixgo.telemetry import content
from aixgo.telemetry.content import ContentPolicy
from aixgo.testing import ScriptedModel, running, scripted_models
from aixgo.tools import tool
from aixgo.tools.toolbox import Toolbox
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

PNG = {"media_type": "image/png", "data": b64encode(b"png").decode()}
URL = {"url": "https://example.com/a.jpg"}


async def test_the_role_llm_shows_the_images_of_a_message_to_its_model():
    model = ScriptedModel(["a cat"])
    agent = LLMAgent(AgentSpec(name="a", role="llm", model=("test/m",)), models=scripted_models(m=model))
    async with running(agent) as runtime:
        reply = await runtime.call("a", Message("what is it?", {"images": [PNG, URL]}))
    assert reply.payload == "a cat"
    assert model.requests[0].messages[-1].images == (Image(b"png", "image/png"), Image(url=URL["url"]))


async def test_the_role_react_shows_them_in_every_round():
    @tool
    async def look(at: str) -> str:
        """Looks."""
        return f"{at} is a cat"

    model = ScriptedModel([Reply(tool_uses=(ToolUse("c1", "look", {"at": "it"}),)), "a cat"])
    spec = AgentSpec(name="a", role="react", model=("test/m",), tools=("look",))
    agent = ReActAgent(spec, models=scripted_models(m=model), tools=Toolbox([look]))
    async with running(agent) as runtime:
        reply = await runtime.call("a", Message("what is it?", {"images": [PNG, URL]}))
    assert reply.payload == "a cat"
    shown = [next(turn for turn in asked.messages if turn.role == "user").images for asked in model.requests]
    assert shown == [(Image(b"png", "image/png"), Image(url=URL["url"]))] * 2


async def test_an_image_that_cannot_be_shown_fails_the_call_before_a_model_is_asked():
    model = ScriptedModel(["x"])
    agent = ReActAgent(AgentSpec(name="a", role="react", model=("test/m",)), models=scripted_models(m=model))
    async with running(agent) as runtime:
        with pytest.raises(errors.InvalidInput, match=r"metadata.images.0"):
            await runtime.call("a", Message("what is it?", {"images": [{}]}))
    assert model.requests == []


def test_what_traces_may_say_of_a_turn_is_its_text_and_what_its_images_are():
    signed = Image(url="https://someone:pass@example.com/a.jpg?signature=s3cr3t")
    turn = ChatMessage("user", "what is it?", images=(Image(b"png", "image/png"), signed))
    assert turn.described == "[image: image/png, 3 bytes]\n[image: https://example.com/a.jpg]\nwhat is it?"
    assert ChatMessage("user", "plain").described == "plain"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("x", "pass a list of images"),
        ([URL] * (MAX_IMAGES + 1), "21 images and 20 are allowed"),
        (["x"], r"metadata.images.0: an image is an object"),
        ([URL, {}], r"metadata.images.1: an image is an object"),
        ([{**URL, "alt": "x"}], "an image is an object of texts"),
        ([{**PNG, "data": 1}], "an image is an object of texts"),
        ([{**PNG, **URL}], "either `data` or `url`"),
        ([{"media_type": "image/png"}], "either `data` or `url`"),
        ([{**PNG, "data": "%%"}], "no base64"),
        ([{**PNG, "media_type": "image/tiff"}], "one of image/png"),
        ([{"data": PNG["data"]}], "one of image/png"),
        ([{**PNG, "data": b64encode(b"x" * (MAX_IMAGE_BYTES + 1)).decode()}], "scale it down"),
        ([{"url": "file:///etc/passwd"}], "http"),
        ([{"url": "https://x/" + "y" * 3000}], "at most 2048"),
    ],
)
def test_an_image_that_cannot_be_shown_is_refused_with_its_place(given: Any, told: str):
    with pytest.raises(errors.InvalidInput, match=told):
        images_of(Message("x", {"images": given}))


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_whatever_comes_is_read_or_refused(given: Any):
    with suppress(errors.InvalidInput):
        assert len(images_of(Message("x", {"images": given}))) == len(given or ())


@pytest.mark.parametrize("role", [LLMAgent, ReActAgent])
async def test_traces_and_logs_say_what_an_image_is_and_never_show_it(
    role: type[LLMAgent | ReActAgent], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    caplog.set_level(logging.DEBUG)
    signed = {"url": "https://someone:pass@example.com/a.jpg?signature=s3cr3t"}
    agent = role(AgentSpec(name="a", role=role.role, model=("test/echo",)), models=scripted_models())
    before = content.use(ContentPolicy(capture=True))
    try:
        async with running(agent) as runtime:
            await runtime.call("a", Message("what is it?", {"images": [PNG, signed]}))
    finally:
        content.use(before)
    spans = {one.name: dict(one.attributes or {}) for one in exporter.get_finished_spans()}
    told = str(spans["chat echo"]["gen_ai.input.messages"])
    assert "[image: image/png, 3 bytes]" in told
    assert "[image: https://example.com/a.jpg]" in told
    assert "what is it?" in told
    for shown in (str(spans), caplog.text):
        assert PNG["data"] not in shown
        assert "s3cr3t" not in shown
        assert "pass@" not in shown


def test_the_bytes_of_an_image_and_its_address_are_not_shown():
    assert "png'" not in repr(Image(b"secret-png", "image/jpeg"))
    assert "s3cr3t" not in repr(Image(url="https://example.com/a.jpg?signature=s3cr3t"))
