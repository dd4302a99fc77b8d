"""An attempt that reached no agent has no span of its own: the caller's tells of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aixgo import DistributedRuntime, agent
from aixgo.errors import AixgoError
from aixgo.server.server import AgentServer
from aixgo.telemetry import spans
from aixgo_services.supervisor import free_port
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    made, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(made))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield made
    provider.shutdown()


def asking(exporter: InMemorySpanExporter) -> ReadableSpan:
    """The span of who called."""
    (found,) = (span for span in exporter.get_finished_spans() if span.name == "asks")
    return found


async def test_an_attempt_that_reached_nobody_is_an_event_of_the_caller_s_span(exporter: InMemorySpanExporter):
    async with DistributedRuntime(connect={"gone": f"127.0.0.1:{free_port()}"}) as runtime:
        with spans.span("asks"), pytest.raises(AixgoError):
            await runtime.call("gone", "x", timeout=0.5)
    told = asking(exporter).events
    assert {event.name for event in told} == {"aixgo.attempt.failed"}
    for event in told:
        attributes = dict(event.attributes or {})
        assert attributes["gen_ai.agent.name"] == "gone"
        assert attributes["error.type"] == "InstanceLost"
    assert (told[0].attributes or {})["retried"] is True


async def test_an_agent_that_failed_says_so_itself(exporter: InMemorySpanExporter):
    @agent
    async def breaks(message):
        raise ValueError("no")

    async with DistributedRuntime() as serving:
        serving.register(breaks)
        async with (
            AgentServer(serving, listen="127.0.0.1:0") as server,
            DistributedRuntime(connect={"breaks": server.address}) as runtime,
        ):
            with spans.span("asks"), pytest.raises(AixgoError):
                await runtime.call("breaks", "x")
    (call,) = (span for span in exporter.get_finished_spans() if span.name == "invoke_agent breaks")
    assert (call.attributes or {})["error.type"] == "AgentFailed"
    assert asking(exporter).events == ()
    parent, context = call.parent, asking(exporter).context
    assert parent is not None
    assert context is not None
    assert parent.span_id == context.span_id
