"""The embedded model's client, against a server in its place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from aixgo import errors
from aixgo.llm.contract import ChatMessage, CompletionRequest, ToolOffer, ToolUse
from aixgo.llm.embedded import EmbeddedClient, serve_model
from vendor_server import VendorServer, answers

OFFER = ToolOffer("add", "adds numbers", {"type": "object", "properties": {"a": {"type": "integer"}}})


def asked(**more: Any) -> CompletionRequest:
    return CompletionRequest((ChatMessage("user", "add one"),), model="smollm2-135m", **more)


@pytest.fixture
def embedded(vendor: VendorServer) -> EmbeddedClient:
    return EmbeddedClient(vendor.url)


async def test_tools_become_a_choice_by_schema_and_the_choice_a_tool_use(
    vendor: VendorServer, embedded: EmbeddedClient
):
    vendor.handlers = [answers('{"tool": "add", "arguments": {"a": 1}}')]
    got = await embedded.complete(asked(tools=(OFFER,)))
    await embedded.close()
    assert got.tool_uses == (ToolUse("call_1", "add", {"a": 1}),)
    assert (got.text, got.stop_reason) == ("", "tool_calls")
    body = vendor.seen[0].body
    assert "tools" not in body
    assert "- add: adds numbers" in body["messages"][0]["content"]
    choices = body["response_format"]["json_schema"]["schema"]["anyOf"]
    assert choices[0]["properties"] == {"tool": {"const": "add"}, "arguments": OFFER.parameters}


async def test_the_model_may_answer_instead_of_using_a_tool(vendor: VendorServer, embedded: EmbeddedClient):
    vendor.handlers = [answers('{"answer": "two"}')]
    chunks = [chunk async for chunk in embedded.stream(asked(tools=(OFFER,)))]
    await embedded.close()
    assert [chunk.text for chunk in chunks] == ["two", ""]
    assert chunks[-1].completion is not None
    assert chunks[-1].completion.tool_uses == ()


async def test_a_choice_that_was_cut_off_is_an_invalid_completion(vendor: VendorServer, embedded: EmbeddedClient):
    vendor.handlers = [answers('{"tool": "ad')]
    with pytest.raises(errors.InvalidCompletion, match="tool"):
        await embedded.complete(asked(tools=(OFFER,)))
    await embedded.close()


async def test_a_missing_package_names_the_extra_and_the_alternatives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(errors.ConfigError, match=r"aixgo\[local\].*OPENAI_API_KEY.*Ollama"):
        await EmbeddedClient(directory=tmp_path).complete(asked())
    with pytest.raises(errors.ConfigError, match=r"aixgo\[local\]"):
        serve_model(tmp_path / "none")
