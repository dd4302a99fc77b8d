"""Spans and trace contexts in a process whose tracer provider is set: what `spans.py` (above) hands on.

Owns all use of opentelemetry-api for traces, which is why it is imported only once a provider is there. It lies on the
path of every call, so what a trace needs that is not kept is no more than to pass its `traceparent` on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import Token
from functools import lru_cache
from types import TracebackType
from typing import Any, cast

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from aixgo.telemetry.endings import ending
from aixgo.telemetry.secrets import scrub
from aixgo.telemetry.spans import NO_SPAN, OFF, USER, Attributes, Kind, Span

NOTHING = Context()
CALLERS = 256
"""Spans of callers that are kept as contexts: one span calls more than once, and contexts cannot be changed."""
_MAX_DESCRIPTION = 500
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_PLAIN = 55
"""Characters of a traceparent of the version that is known."""
_KINDS: Mapping[str, trace.SpanKind] = {kind.name.lower(): kind for kind in trace.SpanKind}
_WHOLE = ("ParentBased", "ParentBasedTraceIdRatio")
"""Samplers that keep a trace or leave it out as a whole."""


class Recorder:
    """What one tracer makes of the functions of `spans.py`, which say what each does."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._whole = type(getattr(tracer, "sampler", None)).__name__ in _WHOLE
        self._by_caller = lru_cache(CALLERS)(self._called)

    def span(self, name: str, attributes: Attributes, *, attach: bool, kind: Kind) -> AbstractContextManager[Span]:
        if self._left_out(trace.get_current_span()):
            return OFF
        return self._begun(name, attributes, attach=attach, kind=kind)

    def linked(self, traceparent: str, name: str, attributes: Attributes) -> AbstractContextManager[Span]:
        return self._begun(name, attributes, attach=True, kind="consumer", link=traceparent)

    def event(self, name: str, attributes: Mapping[str, Any]) -> None:
        current = trace.get_current_span()
        if current.is_recording():
            current.add_event(name, _attributes(attributes))

    def inject(self) -> tuple[str, str, str]:
        context = get_current()
        span = trace.get_current_span(context)
        only_span = len(context) == 1 and span is not trace.INVALID_SPAN
        carried = "" if only_span or not baggage.get_all(context) else _baggage(context)
        if type(span) is _LeftOut:
            return span.traceparent, "", carried
        within = span.get_span_context()
        if not within.is_valid:
            return "", "", carried
        return _traceparent(within), within.trace_state.to_header() if within.trace_state else "", carried

    def attached(self, traceparent: str, tracestate: str, baggage: str) -> AbstractContextManager[object]:
        return _Within(self._context(traceparent, tracestate, baggage))

    def follow(self, traceparent: str, tracestate: str, baggage: str) -> None:
        attach(self._context(traceparent, tracestate, baggage))

    def left_out(self) -> bool:
        return self._left_out(trace.get_current_span())

    def _context(self, traceparent: str, tracestate: str, baggage: str) -> Context:
        above = get_current()
        if tracestate or baggage:
            return _extract(above, traceparent, tracestate, baggage)
        if not above and len(traceparent) == _PLAIN:
            return self._by_caller(traceparent)
        return self._called(traceparent, above)

    def _begun(
        self, name: str, attributes: Attributes, *, attach: bool, kind: Kind, link: str | None = None
    ) -> AbstractContextManager[Span]:
        if callable(attributes):
            attributes = attributes()
        span = self._tracer.start_span(
            name,
            context=None if link is None else Context(),
            kind=_KINDS[kind],
            attributes=_attributes(attributes),
            links=_links(link) if link else (),
            record_exception=False,
        )
        if self._left_out(span):
            context = span.get_span_context()
            if not context.trace_state:
                span = _LeftOut(_traceparent(context), context)
            return _Within(_inside(span, attributes.get(USER))) if attach else OFF
        return _Recorded(span, _inside(span, attributes.get(USER)) if attach else None)

    def _left_out(self, span: trace.Span) -> bool:
        """Whether its trace is not kept, so that a span in it could only cost time; the one around it stands for it."""
        if type(span) is _LeftOut:
            return True
        context = span.get_span_context()
        return self._whole and context.is_valid and not context.trace_flags.sampled

    def _called(self, traceparent: str, above: Context = NOTHING) -> Context:
        """The context of a call, inside that of this process: its caller's span is the current one."""
        plain = _TRACEPARENT.fullmatch(traceparent)
        if plain is None:
            return _extract(above, traceparent, "", "")
        flags = TraceFlags(int(plain[3], 16))
        if self._whole and not flags.sampled:
            return trace.set_span_in_context(_LeftOut(traceparent), above)
        context = SpanContext(int(plain[1], 16), int(plain[2], 16), is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(NonRecordingSpan(context), above)


class _LeftOut(NonRecordingSpan):
    """The span that stands for a trace that is not kept: it keeps the text that is passed on.

    A caller's is taken apart only when somebody asks, for the log or for a library that makes spans itself.
    """

    def __init__(self, traceparent: str, context: SpanContext | None = None) -> None:
        self.traceparent = traceparent
        self._read = context

    def get_span_context(self) -> SpanContext:
        if self._read is None:
            _, trace_id, span_id, flags = self.traceparent.split("-")
            told = TraceFlags(int(flags, 16))
            self._read = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=told)
        return self._read


class _LiveSpan(Span):
    __slots__ = ("_span", "failed")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.failed = False

    def set(self, key: str, value: Any) -> None:
        if value is not None:
            self._span.set_attribute(key, _attribute(value))

    def fail(self, error: BaseException) -> None:
        self.failed = True
        self._span.set_attribute("error.type", type(error).__qualname__)
        self._span.set_status(StatusCode.ERROR, scrub(str(error)[:_MAX_DESCRIPTION]))

    @property
    def recording(self) -> bool:
        return self._span.is_recording()


class _Recorded:
    """The context manager of a span that has begun. By hand: two of a generator's cost as much as the span itself."""

    __slots__ = ("_context", "_live", "_span", "_token")

    def __init__(self, span: trace.Span, context: Context | None) -> None:
        self._span = span
        self._live = _LiveSpan(span)
        self._context = context
        self._token: Token[Context] | None = None

    def __enter__(self) -> Span:
        if self._context is not None:
            self._token = attach(self._context)
        return self._live

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            detach(self._token)
        if error is not None and not isinstance(error, GeneratorExit) and not self._live.failed:
            self._live.fail(ending(error))
        self._span.end()


class _Within:
    """A context manager that makes a context the current one."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Span:
        self._token = attach(self._context)
        return NO_SPAN

    def __exit__(self, *_: object) -> None:
        detach(self._token)


def _traceparent(context: SpanContext) -> str:
    """W3C Trace Context, section 3.2: by hand, because a propagator takes as long as the rest of a span."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _inside(span: trace.Span, user: str | None) -> Context:
    """The context of what happens inside a span."""
    context = trace.set_span_in_context(span)
    return context if user is None else baggage.set_baggage(USER, user, context)


def _baggage(context: Context) -> str:
    carrier: dict[str, str] = {}
    W3CBaggagePropagator().inject(carrier, context)
    return carrier.get("baggage", "")


def _extract(onto: Context, traceparent: str, tracestate: str, baggage: str) -> Context:
    carrier = {"traceparent": traceparent, "tracestate": tracestate, "baggage": baggage}
    return propagate.extract({key: value for key, value in carrier.items() if value}, onto)


def _links(traceparent: str) -> Sequence[trace.Link]:
    context = trace.get_current_span(_extract(Context(), traceparent, "", "")).get_span_context()
    return [trace.Link(context)] if context.is_valid else []


def _attributes(attributes: Mapping[str, Any]) -> dict[str, AttributeValue]:
    return {key: _attribute(value) for key, value in attributes.items() if value is not None}


def _attribute(value: Any) -> AttributeValue:
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [str(item) for item in cast("Sequence[Any]", value)]
    return str(value)
