"""Spans: nothing without a tracer provider, everything with one, also when it is set late."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from aixgo import errors
from aixgo.call import entered, root
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.models import Models, ModelSettings
from aixgo.telemetry.spans import attached, inject, linked, span
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

ASKED = CompletionRequest((ChatMessage("user", "one two"),), temperature=0.5, max_tokens=9)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def only(exporter: InMemorySpanExporter) -> ReadableSpan:
    (one,) = exporter.get_finished_spans()
    return one


def test_without_a_provider_nothing_is_loaded_and_nothing_is_done():
    code = (
        "import sys; from aixgo.telemetry.spans import *;\n"
        "with span('x', {'a': 1}) as s: s.set('b', 2); s.fail(ValueError())\n"
        f"with attached('{PARENT}'): print(inject())\n"
        f"with linked('{PARENT}') as s: s.set('b', 2)\n"
        "print('opentelemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["('', '', '')", "False"]


def test_a_provider_that_is_set_later_is_noticed(exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch):
    provider = trace._TRACER_PROVIDER
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    with span("before"):
        assert inject() == ("", "", "")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with span("after", {"a": 1, "none": None, "odd": {"x": 1}, "many": [1, 2]}):
        pass
    done = only(exported)
    assert done.name == "after"
    assert dict(done.attributes or {}) == {"a": 1, "odd": "{'x': 1}", "many": ("1", "2")}


def test_a_trace_goes_out_and_comes_in(exported: InMemorySpanExporter):
    with attached(PARENT, "k=v", "user=me"), span("child"):
        traceparent, tracestate, baggage = inject()
    assert traceparent.split("-")[1] == PARENT.split("-")[1]
    assert (tracestate, baggage) == ("k=v", "user=me")
    parent = only(exported).parent
    assert parent is not None
    assert f"{parent.span_id:016x}" == PARENT.split("-")[2]


def test_a_linked_span_begins_a_trace_of_its_own(exported: InMemorySpanExporter):
    with span("outer"), linked(PARENT, "deliver x", {"a": 1}), span("inside"):
        pass
    inside, delivered, outer = exported.get_finished_spans()
    assert delivered.parent is None
    assert [f"{link.context.trace_id:032x}" for link in delivered.links] == [PARENT.split("-")[1]]
    assert inside.parent is not None
    assert delivered.context is not None
    assert inside.parent.span_id == delivered.context.span_id
    assert outer.context is not None
    assert outer.context.trace_id != delivered.context.trace_id


def test_a_broken_traceparent_links_to_nothing(exported: InMemorySpanExporter):
    with span("outer"), linked("nonsense"):
        pass
    assert not exported.get_finished_spans()[0].links


def test_an_exception_marks_the_span_and_goes_on(exported: InMemorySpanExporter):
    with pytest.raises(ValueError, match="boom"), span("x"):
        raise ValueError("boom")
    done = only(exported)
    assert done.status.status_code is trace.StatusCode.ERROR
    assert (done.attributes or {})["error.type"] == "ValueError"


async def test_a_chat_span_has_the_names_of_genai_and_of_aixgo(exported: InMemorySpanExporter):
    state = root(session_id="s1").child("writer")
    with entered(state):
        await Models(ModelSettings()).chat(["test/echo"]).complete(ASKED)
    done = only(exported)
    assert done.name == "chat echo"
    assert dict(done.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "test",
        "gen_ai.request.model": "echo",
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.agent.name": "writer",
        "gen_ai.conversation.id": "s1",
        "gen_ai.response.model": "echo",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 2,
        "tokens.prompt": 2,
        "tokens.completion": 2,
        "tokens.total": 4,
        "cost.usd": 0.0,
    }


async def test_a_stream_has_one_span_that_does_not_leak_to_its_consumer(exported: InMemorySpanExporter):
    async for _ in Models(ModelSettings()).chat(["test/echo"]).stream(ASKED):
        assert not trace.get_current_span().get_span_context().is_valid
    assert (only(exported).attributes or {})["tokens.total"] == 4


async def test_a_failed_chat_is_marked(exported: InMemorySpanExporter):
    with pytest.raises(errors.RateLimited):
        await Models(ModelSettings()).chat(["test/fail:RateLimited"]).complete(ASKED)
    assert (only(exported).attributes or {})["error.type"] == "RateLimited"
