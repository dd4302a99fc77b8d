"""A trace that is not kept: what is passed on of it, and what is not done for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from aixgo import LocalRuntime, Message, agent
from aixgo.errors import AgentFailed
from aixgo.telemetry import spans
from opentelemetry import trace
from opentelemetry.metrics import _internal as meters
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
LEFT_OUT, KEPT = f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans of a process that begins no trace of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBasedTraceIdRatio(0), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    """The metrics of this process."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(meters, "_METER_PROVIDER", provider)
    yield reader
    provider.shutdown()


def values(reader: InMemoryMetricReader, name: str) -> dict[tuple[str, ...], float]:
    """A metric of aixgo, by the values of its attributes."""
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    points: list[Any] = [point for metric in scope.metrics if metric.name == name for point in metric.data.data_points]
    return {
        tuple(point.attributes.values()): point.count if isinstance(point, HistogramDataPoint) else point.value
        for point in points
    }


def never() -> dict[str, str]:
    raise AssertionError("nobody wants to know")


def test_a_callers_trace_that_is_not_kept_is_passed_on_as_it_came(ended: InMemorySpanExporter):
    with spans.attached(LEFT_OUT), spans.span("inside", never) as span:
        assert not span.recording
        assert spans.inject() == (LEFT_OUT, "", "")
        assert spans.current_ids() == (TRACE, SPAN)
    assert not ended.get_finished_spans()


def test_a_library_that_makes_spans_itself_leaves_them_out_too(ended: InMemorySpanExporter):
    with spans.attached(LEFT_OUT), trace.get_tracer("library").start_as_current_span("inside") as inside:
        context = inside.get_span_context()
        assert (context.trace_id, context.trace_flags.sampled) == (int(TRACE, 16), False)
    assert not ended.get_finished_spans()


def test_a_trace_that_is_not_kept_from_its_beginning_is_one_trace_all_the_same(ended: InMemorySpanExporter):
    with spans.span("outer", {spans.USER: "ann"}):
        passed_on = spans.inject()
        assert not int(passed_on[0][-2:], 16) & trace.TraceFlags.SAMPLED
        assert passed_on[2] == "user.id=ann"
        with spans.span("inner", never):
            assert spans.inject() == passed_on
    assert spans.inject() == ("", "", "")
    assert not ended.get_finished_spans()


def test_a_callers_trace_that_is_kept_goes_on_here(ended: InMemorySpanExporter):
    with spans.attached(KEPT), spans.span("inside", lambda: {"said": "yes", "empty": None}):
        pass
    (inside,) = ended.get_finished_spans()
    assert inside.parent is not None
    assert (inside.parent.trace_id, inside.parent.span_id) == (int(TRACE, 16), int(SPAN, 16))
    assert inside.attributes == {"said": "yes"}


@pytest.mark.parametrize("broken", [f"00-{'0' * 32}-{SPAN}-00", f"00-{TRACE}-{'0' * 16}-00", "00-x-y-00"])
def test_what_is_no_trace_begins_none(ended: InMemorySpanExporter, broken: str):
    with spans.attached(broken):
        assert spans.current_ids() == ("", "")


async def test_calls_of_a_trace_that_is_not_kept_are_counted_with_how_they_ended(
    ended: InMemorySpanExporter, counted: InMemoryMetricReader
):
    @agent
    async def work(message: Message) -> str:
        if message.text == "no":
            raise ValueError(message.text)
        return message.text

    async with LocalRuntime() as runtime:
        runtime.register(work)
        spans.follow(LEFT_OUT)
        for text in ("yes", "yes"):
            await runtime.call("work", text)
        with pytest.raises(AgentFailed):
            await runtime.call("work", "no")
    assert values(counted, "aixgo.calls") == {("work", "ok"): 2, ("work", "AgentFailed"): 1}
    assert values(counted, "aixgo.call.duration") == {("work",): 3}
    assert values(counted, "aixgo.calls.active") == {(): 0}
    assert not ended.get_finished_spans()


async def test_a_task_that_follows_a_callers_trace_passes_it_on(ended: InMemorySpanExporter):
    spans.follow(LEFT_OUT)
    assert spans.inject() == (LEFT_OUT, "", "")
    spans.follow(KEPT, "vendor=x", "user.id=ann")
    assert spans.inject() == (KEPT, "vendor=x", "user.id=ann")
