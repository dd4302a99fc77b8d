"""Spans and trace propagation for the rest of the SDK, at no cost while nobody collects them.

Owns the one door to opentelemetry-api. The package is imported here only after someone else has imported it and set a
tracer provider, so an agent's process without telemetry neither loads nor pays for it; a provider that is set later is
noticed at the next span. Above: the runtimes, the server, the patterns and the metering of LLM calls.
"""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from aixgo.telemetry.endings import ending
from aixgo.telemetry.secrets import scrub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextvars import Token
    from types import TracebackType

    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.util.types import AttributeValue

Kind = Literal["internal", "client", "server", "consumer"]
_SCOPE = "aixgo"
USER = "user.id"
"""The attribute that says on whose behalf a call is made. As W3C baggage it reaches the spans of other processes."""
_NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})
_MAX_DESCRIPTION = 500
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Span:
    """One span. This class itself is the span of a process without telemetry: it does nothing."""

    __slots__ = ()

    def set(self, key: str, value: Any) -> None:
        """Set an attribute; None is left out, and what OpenTelemetry cannot hold becomes text."""

    def fail(self, error: BaseException) -> None:
        """Mark the span as failed with the class and text of `error`, secrets taken out."""

    @property
    def recording(self) -> bool:
        """Whether anything becomes of what is set: what costs time to write down need not be, otherwise."""
        return False


class _LiveSpan(Span):
    __slots__ = ("_span", "failed")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self.failed = False

    def set(self, key: str, value: Any) -> None:
        if value is not None:
            self._span.set_attribute(key, _attribute(value))

    def fail(self, error: BaseException) -> None:
        from opentelemetry.trace import StatusCode

        self.failed = True
        self._span.set_attribute("error.type", type(error).__qualname__)
        self._span.set_status(StatusCode.ERROR, scrub(str(error)[:_MAX_DESCRIPTION]))

    @property
    def recording(self) -> bool:
        return self._span.is_recording()


class _Off:
    """The context manager of a span that is not recorded; made once, because entering it must cost nothing."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return _NO_SPAN

    def __exit__(self, *_: object) -> None:
        return None


_NO_SPAN = Span()
_OFF = _Off()


def enabled() -> bool:
    """Whether a real tracer provider is set in this process."""
    return _tracer() is not None


def span(
    name: str, attributes: Mapping[str, Any] = _NO_ATTRIBUTES, *, attach: bool = True, kind: Kind = "internal"
) -> AbstractContextManager[Span]:
    """A span around the `with` block; an exception that leaves the block marks it as failed and goes on.

    A cancellation is named as the call's caller sees it, and what the block itself has said of its failure stands.
    With `attach=False` the span does not become the current one: for async generators, whose context variables would
    leak to the consumer. `kind` says on which side of a call between processes it stands.
    """
    tracer = _tracer()
    if tracer is None or _left_out(tracer):
        return _OFF
    return _recorded(tracer, name, attributes, attach=attach, kind=kind)


def event(name: str, attributes: Mapping[str, Any]) -> None:
    """Note something that happened within the current span."""
    if _tracer() is None:
        return
    from opentelemetry import trace

    current = trace.get_current_span()
    if current.is_recording():
        current.add_event(name, _attributes(attributes))


def current_ids() -> tuple[str, str]:
    """The current trace's and span's ids in hexadecimal; empty texts outside of any."""
    module = sys.modules.get("opentelemetry.trace")
    if module is None:
        return "", ""
    context = module.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else ("", "")


def inject() -> tuple[str, str, str]:
    """The current trace as (traceparent, tracestate, baggage); empty texts while there is no telemetry."""
    if _tracer() is None:
        return "", "", ""
    from opentelemetry import baggage, trace

    context = trace.get_current_span().get_span_context()
    state = context.trace_state.to_header() if context.trace_state else ""
    # W3C Trace Context, section 3.2: by hand, because a propagator takes as long as the rest of a span.
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else ""
    return parent, state, _baggage() if baggage.get_all() else ""


def attached(traceparent: str, tracestate: str = "", baggage: str = "") -> AbstractContextManager[object]:
    """Make a caller's trace the parent of the spans inside the `with` block; nothing while there is no telemetry."""
    if not (traceparent or baggage) or _tracer() is None:
        return _OFF
    from opentelemetry.context import get_current

    above = get_current()
    within = None if tracestate or baggage else _remote(above, traceparent)
    return _Within(_extract(above, traceparent, tracestate, baggage) if within is None else within)


def linked(
    traceparent: str, name: str = "deliver", attributes: Mapping[str, Any] = _NO_ATTRIBUTES
) -> AbstractContextManager[Span]:
    """A span that begins a trace of its own and links to the one of `traceparent` instead of continuing it."""
    tracer = _tracer()
    return (
        _OFF if tracer is None else _recorded(tracer, name, attributes, attach=True, kind="consumer", link=traceparent)
    )


def _tracer() -> trace.Tracer | None:
    module = sys.modules.get("opentelemetry.trace")
    # The private name is read first because get_tracer_provider() asks the environment every time, for 1 us a span.
    if module is None or getattr(module, "_TRACER_PROVIDER", module) is None:
        return None
    provider = cast("trace.TracerProvider", module.get_tracer_provider())
    if isinstance(provider, (module.ProxyTracerProvider, module.NoOpTracerProvider)):
        return None
    return _tracer_of(provider)


def _left_out(tracer: trace.Tracer) -> bool:
    """Whether this trace is not kept, so that a span in it could only cost time; the one around it stands for it."""
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    return context.is_valid and not context.trace_flags.sampled and _follows_parents(tracer)


@lru_cache(maxsize=1)
def _follows_parents(tracer: trace.Tracer) -> bool:
    """Whether a trace is kept or left out as a whole, as far as that can be known of a sampler."""
    return type(getattr(tracer, "sampler", None)).__name__ in ("ParentBased", "ParentBasedTraceIdRatio")


@lru_cache(maxsize=1)
def _tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    return provider.get_tracer(_SCOPE)


def _recorded(
    tracer: trace.Tracer,
    name: str,
    attributes: Mapping[str, Any],
    *,
    attach: bool,
    kind: Kind = "internal",
    link: str | None = None,
) -> _Recorded:
    from opentelemetry import trace
    from opentelemetry.context import Context

    otel = tracer.start_span(
        name,
        context=None if link is None else Context(),
        kind=trace.SpanKind[kind.upper()],
        attributes=_attributes(attributes),
        links=_links(link) if link else (),
        record_exception=False,
    )
    return _Recorded(otel, _inside(otel, attributes.get(USER)) if attach else None)


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
            self._token = sys.modules["opentelemetry.context"].attach(self._context)
        return self._live

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            sys.modules["opentelemetry.context"].detach(self._token)
        if error is not None and not isinstance(error, GeneratorExit) and not self._live.failed:
            self._live.fail(ending(error))
        self._span.end()


def _inside(span: trace.Span, user: str | None) -> Context:
    """The context of what happens inside a span."""
    from opentelemetry import baggage, trace

    context = trace.set_span_in_context(span)
    return context if user is None else baggage.set_baggage(USER, user, context)


class _Within:
    """A context manager that makes a context the current one."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = sys.modules["opentelemetry.context"].attach(self._context)

    def __exit__(self, *_: object) -> None:
        sys.modules["opentelemetry.context"].detach(self._token)


def _baggage() -> str:
    from opentelemetry.baggage.propagation import W3CBaggagePropagator

    carrier: dict[str, str] = {}
    W3CBaggagePropagator().inject(carrier)
    return carrier.get("baggage", "")


def _remote(above: Context, traceparent: str) -> Context | None:
    """`above` with a caller's span as the current one; None for what is not plainly one."""
    from opentelemetry import trace

    plain = _TRACEPARENT.fullmatch(traceparent)
    if plain is None:
        return None
    flags = trace.TraceFlags(int(plain[3], 16))
    context = trace.SpanContext(int(plain[1], 16), int(plain[2], 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(trace.NonRecordingSpan(context), above) if context.is_valid else None


def _extract(onto: Context, traceparent: str, tracestate: str, baggage: str) -> Context:
    from opentelemetry import propagate

    carrier = {"traceparent": traceparent, "tracestate": tracestate, "baggage": baggage}
    return propagate.extract({key: value for key, value in carrier.items() if value}, onto)


def _links(traceparent: str) -> Sequence[trace.Link]:
    from opentelemetry import trace
    from opentelemetry.context import Context

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
