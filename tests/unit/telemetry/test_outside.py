"""What of a trace servers outside the mesh are told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aixgo.telemetry import spans
from aixgo.telemetry.outside import trace_headers, without_baggage
from opentelemetry import baggage, propagate, trace
from opentelemetry.sdk.trace import TracerProvider


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    made = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", made)
    yield made
    made.shutdown()


def sent() -> dict[str, str]:
    """What a library that passes the trace on by itself would send."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def test_headers_say_the_trace_and_its_state_and_not_the_user(provider: TracerProvider):
    above = f"00-{'a' * 32}-{'b' * 16}-01"
    with spans.attached(above, "vendor=x"), spans.span("asks", {spans.USER: "ann"}):
        told = trace_headers()
    assert set(told) == {"traceparent", "tracestate"}
    assert told["traceparent"].startswith(f"00-{'a' * 32}-")
    assert told["traceparent"] != above
    assert told["tracestate"] == "vendor=x"


def test_without_a_trace_there_are_no_headers(provider: TracerProvider):
    assert trace_headers() == {}


def test_libraries_send_the_trace_without_the_user_inside_the_block(provider: TracerProvider):
    with spans.span("asks", {spans.USER: "ann"}):
        assert sent()["baggage"] == "user.id=ann"
        with without_baggage():
            assert set(sent()) == {"traceparent"}
        assert baggage.get_baggage(spans.USER) == "ann"
