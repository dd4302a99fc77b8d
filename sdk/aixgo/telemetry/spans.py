"""Spans and trace propagation for the rest of the SDK, at no cost while nobody collects them.

Owns the one door to OpenTelemetry's traces. What lies behind it (`recording.py`, below) is imported only after someone
else has imported opentelemetry and set a tracer provider, so an agent's process without telemetry neither loads nor
pays for it; a provider that is set later is noticed at the next span. Above: the runtimes, the server, the patterns and
the metering of LLM calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from aixgo.telemetry.recording import Recorder

Kind = Literal["internal", "client", "server", "consumer"]
Attributes = Mapping[str, Any] | Callable[[], Mapping[str, Any]]
"""What a span says from its beginning, None being left out; or what makes it, which is not asked about a trace that is
not kept."""
_SCOPE = "aixgo"
USER = "user.id"
"""The attribute that says on whose behalf a call is made. As W3C baggage it reaches the spans of other processes."""
_NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})
_NO_TRACE = ("", "", "")


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


class _Off:
    """The context manager of a span that is not recorded; made once, because entering it must cost nothing."""

    __slots__ = ()

    def __enter__(self) -> Span:
        return NO_SPAN

    def __exit__(self, *_: object) -> None:
        return None


NO_SPAN = Span()
OFF = _Off()


def enabled() -> bool:
    """Whether a real tracer provider is set in this process."""
    return _recorder() is not None


def span(
    name: str, attributes: Attributes = _NO_ATTRIBUTES, *, attach: bool = True, kind: Kind = "internal"
) -> AbstractContextManager[Span]:
    """A span around the `with` block; an exception that leaves the block marks it as failed and goes on.

    A cancellation is named as the call's caller sees it, and what the block itself has said of its failure stands.
    With `attach=False` the span does not become the current one: for async generators, whose context variables would
    leak to the consumer. `kind` says on which side of a call between processes it stands.
    """
    recorder = _recorder()
    return OFF if recorder is None else recorder.span(name, attributes, attach=attach, kind=kind)


def event(name: str, attributes: Mapping[str, Any]) -> None:
    """Note something that happened within the current span."""
    recorder = _recorder()
    if recorder is not None:
        recorder.event(name, attributes)


def current_ids() -> tuple[str, str]:
    """The current trace's and span's ids in hexadecimal; empty texts outside of any."""
    module = sys.modules.get("opentelemetry.trace")
    if module is None:
        return "", ""
    context = module.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else ("", "")


def inject() -> tuple[str, str, str]:
    """The current trace as (traceparent, tracestate, baggage); empty texts while there is no telemetry."""
    recorder = _recorder() if "opentelemetry.trace" in sys.modules else None
    return _NO_TRACE if recorder is None else recorder.inject()


def attached(traceparent: str, tracestate: str = "", baggage: str = "") -> AbstractContextManager[object]:
    """Make a caller's trace the parent of the spans inside the `with` block; nothing while there is no telemetry."""
    recorder = _recorder() if traceparent or baggage else None
    return OFF if recorder is None else recorder.attached(traceparent, tracestate, baggage)


def follow(traceparent: str, tracestate: str = "", baggage: str = "") -> None:
    """`attached`, for good: for tasks that serve exactly one call."""
    recorder = _recorder() if traceparent or baggage else None
    if recorder is not None:
        recorder.follow(traceparent, tracestate, baggage)


def left_out() -> bool:
    """Whether a span made here would be of a trace that is not kept, or of none."""
    recorder = _recorder()
    return recorder is None or recorder.left_out()


def linked(
    traceparent: str, name: str = "deliver", attributes: Attributes = _NO_ATTRIBUTES
) -> AbstractContextManager[Span]:
    """A span that begins a trace of its own and links to the one of `traceparent` instead of continuing it."""
    recorder = _recorder()
    return OFF if recorder is None else recorder.linked(traceparent, name, attributes)


class _Door:
    """The provider that was seen last, and what records with it: OpenTelemetry has one provider for a process."""

    provider: object = None
    recorder: Recorder | None = None


def _recorder() -> Recorder | None:
    module = sys.modules.get("opentelemetry.trace")
    # The private name, because get_tracer_provider() asks the environment every time, for 1 us a span.
    provider = None if module is None else getattr(module, "_TRACER_PROVIDER", None)
    if provider is not _Door.provider:
        _Door.recorder = None if provider is None else _recorder_of(provider)
        _Door.provider = provider
    return _Door.recorder


def _recorder_of(provider: Any) -> Recorder | None:
    """What records with `provider`; None for one that stands for none."""
    from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider

    if isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider)):
        return None
    from aixgo.telemetry.recording import Recorder

    return Recorder(provider.get_tracer(_SCOPE))
