"""What of a trace is told to servers outside the mesh: which trace it is, and nothing that is known of its user.

Owns that baggage stays inside: it says on whose behalf a call is made (`user.id`), and whatever the application adds.
Above: the sessions with MCP servers. Below: spans.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from aixgo.telemetry import spans


def trace_headers() -> Mapping[str, str]:
    """The current trace as HTTP headers (W3C Trace Context): `traceparent`, and `tracestate` where there is one."""
    traceparent, tracestate, _ = spans.inject()
    return {name: text for name, text in (("traceparent", traceparent), ("tracestate", tracestate)) if text}


@contextmanager
def without_baggage() -> Generator[None]:
    """Inside the block there is no baggage, for libraries that would send it along with the trace by themselves."""
    if "opentelemetry.context" not in sys.modules:
        yield
        return
    from opentelemetry import baggage, context

    token = context.attach(baggage.clear())
    try:
        yield
    finally:
        context.detach(token)
