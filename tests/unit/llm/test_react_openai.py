"""The role `react` over the OpenAI format, against a small server that speaks it: tool calls whole and streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aixgo.agents.react import ReActAgent
from aixgo.config.spec import AgentSpec
from aixgo.events import Delta, Result, ToolCall
from aixgo.llm.models import Models, ModelSettings
from aixgo.testing import running
from aixgo.tools import tool
from aixgo.tools.toolbox import Toolbox
from vendor_server import Exchange, VendorServer, answers, chat_chunk, usage_chunk


@tool
async def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@pytest.fixture
async def agent(vendor: VendorServer) -> AsyncIterator[ReActAgent]:
    models = Models(ModelSettings(urls={"openai": vendor.url}))
    spec = AgentSpec(name="r", role="react", model=("openai/gpt-4",), tools=("add",))
    yield ReActAgent(spec, models=models, tools=Toolbox([add]))
    await models.close()


def call(id_: str, arguments: str) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": "add", "arguments": arguments}}


async def test_tools_are_used_and_answered_by_id(vendor: VendorServer, agent: ReActAgent):
    calls = [call("c1", '{"a": 1, "b": 2}'), call("c2", '{"a": "x"}')]
    vendor.handlers = [answers(None, reason="tool_calls", tool_calls=calls), answers("it is 3")]
    async with running(agent) as runtime:
        reply = await runtime.call("r", "1+2?")
    assert reply.payload == "it is 3"
    assert reply.usage.prompt_tokens == 20
    first, second = (exchange.body for exchange in vendor.seen)
    assert first["tools"][0]["function"]["name"] == "add"
    assert first["tools"][0]["function"]["parameters"]["required"] == ["a", "b"]
    asked, good, bad = second["messages"][1:]
    assert [one["id"] for one in asked["tool_calls"]] == ["c1", "c2"]
    assert good == {"role": "tool", "content": "3", "tool_call_id": "c1"}
    assert bad["tool_call_id"] == "c2"
    assert bad["content"].startswith("Error: wrong arguments for tool 'add': a: ")


async def test_arguments_that_are_no_json_are_asked_for_again(vendor: VendorServer, agent: ReActAgent):
    broken = answers(None, reason="tool_calls", tool_calls=[call("c1", '{"a": 1,')])
    vendor.handlers = [broken, answers("never mind")]
    async with running(agent) as runtime:
        reply = await runtime.call("r", "1+2?")
    assert reply.payload == "never mind"
    assert reply.metadata["iterations"] == 2
    assert "tool 'add'" in vendor.seen[1].body["messages"][-1]["content"]


async def test_streamed_tool_calls_are_used_and_the_answer_is_streamed(vendor: VendorServer, agent: ReActAgent):
    async def asks(exchange: Exchange) -> None:
        await exchange.begin_stream()
        await exchange.send(chat_chunk("let me"))
        for index, (id_, name) in enumerate((("c1", "add"), ("c2", "add"))):
            delta = {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": ""}}
            await exchange.send(chat_chunk(tool_calls=[delta]))
            for piece in ('{"a": 1,', f' "b": {index}}}'):
                await exchange.send(chat_chunk(tool_calls=[{"index": index, "function": {"arguments": piece}}]))
        await exchange.send(chat_chunk(reason="tool_calls"))
        await exchange.send(usage_chunk(7, 3))
        await exchange.send("[DONE]")
        await exchange.end_stream()

    async def concludes(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for text in ("1", " and", " 2"):
            await exchange.send(chat_chunk(text))
        await exchange.send(chat_chunk(reason="stop"))
        await exchange.send(usage_chunk(9, 3))
        await exchange.send("[DONE]")
        await exchange.end_stream()

    vendor.handlers = [asks, concludes]
    async with running(agent) as runtime, runtime.stream("r", "go") as events:
        seen = [event async for event in events]
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["Delta", *["ToolCall"] * 4, "Delta", "Delta", "Delta", "Result"]
    begun = [event for event in seen if isinstance(event, ToolCall) and not event.done]
    assert [(one.id, dict(one.arguments)) for one in begun] == [("c1", {"a": 1, "b": 0}), ("c2", {"a": 1, "b": 1})]
    done = {event.id: event.output for event in seen if isinstance(event, ToolCall) and event.done}
    assert done == {"c1": 1, "c2": 2}
    assert [event.text for event in seen if isinstance(event, Delta)] == ["let me", "1", " and", " 2"]
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.usage.total_tokens == 22
    assert [turn["role"] for turn in vendor.seen[1].body["messages"]] == ["user", "assistant", "tool", "tool"]


async def test_cancelling_a_call_closes_the_request_to_the_vendor(vendor: VendorServer, agent: ReActAgent):
    closed = asyncio.Event()

    async def waits(exchange: Exchange) -> None:
        await exchange.closed_by_peer()
        closed.set()

    vendor.handlers = [answers(None, reason="tool_calls", tool_calls=[call("c1", '{"a": 1, "b": 2}')]), waits]
    async with running(agent) as runtime:
        running_call = asyncio.create_task(runtime.call("r", "go"))
        while len(vendor.seen) < 2:  # noqa: ASYNC110  # the server announces nothing
            await asyncio.sleep(0.01)
        running_call.cancel()
        await asyncio.wait_for(closed.wait(), 20)
        with pytest.raises(asyncio.CancelledError):
            await running_call
