"""The spans of tools: one for each use, with names and without content."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aixgo.agents.react import ReActAgent
from aixgo.config.spec import AgentSpec
from aixgo.llm.contract import ToolUse
from aixgo.telemetry.spans import span
from aixgo.testing import Reply, ScriptedModel, running, scripted_models
from aixgo.tools import tool
from aixgo.tools.toolbox import Toolbox
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@tool
def echo(text: str) -> str:
    """Says it again."""
    return text


@tool
def fails(text: str) -> str:
    """Never works."""
    raise ValueError(text)


async def spans_of(exported: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    uses = [
        ToolUse("c1", "echo", {"text": "hush"}),
        ToolUse("c2", "fails", {"text": "hush"}),
        ToolUse("c3", "x" * 90, {}),
    ]
    model = ScriptedModel([Reply(tool_uses=uses), "done"])
    spec = AgentSpec(name="r", role="react", model=("test/m",), tools=("echo", "fails"))
    async with running(ReActAgent(spec, models=scripted_models(m=model), tools=Toolbox([echo, fails]))) as runtime:
        with span("caller"):
            await runtime.call("r", "go")
    return {one.name: one for one in exported.get_finished_spans()}


async def test_each_use_of_a_tool_has_a_span_inside_the_callers_trace(exported: InMemorySpanExporter):
    spans = await spans_of(exported)
    used = spans["execute_tool echo"]
    assert dict(used.attributes or {}) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "c1",
    }
    assert used.status.is_ok
    assert len({one.context.trace_id for one in spans.values() if one.context}) == 1


async def test_a_tool_that_fails_marks_its_span(exported: InMemorySpanExporter):
    spans = await spans_of(exported)
    failed = spans["execute_tool fails"]
    assert not failed.status.is_ok
    assert (failed.attributes or {})["error.type"] == "ToolError"
    assert "execute_tool " + "x" * 64 in spans


async def test_spans_of_tools_hold_no_content(exported: InMemorySpanExporter):
    spans = await spans_of(exported)
    assert "hush" not in "".join(one.to_json() for one in spans.values())
