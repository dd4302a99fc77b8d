"""What a span becomes in Langfuse: an observation of a type that it knows, with usage and cost where they belong.

Owns the mapping. Names on the left are those of the GenAI conventions and of our own spans, on the right those that
Langfuse reads from OpenTelemetry spans (`LangfuseOtelSpanAttributes` of its SDK):

    chat                        generation: model, parameters, usage, cost, completion start time
    embeddings                  embedding: model, usage, cost
    invoke_agent, execute_tool  agent, tool
    orchestration.*             chain
    retrieve                    retriever
    all others                  span

Usage and cost stand on generations and embeddings only: Langfuse adds up what it finds, and the sums that our spans
above them carry would count twice. Imports OpenTelemetry's SDK and Langfuse's; only `langfuse.py` (above) imports it.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from aixgo.call import current
from aixgo.telemetry.scores import COMMENT, QUALITY
from aixgo.telemetry.spans import USER

try:
    from langfuse import LangfuseOtelSpanAttributes as Names
    from langfuse import __version__ as langfuse_version
    from opentelemetry import baggage, trace
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import StatusCode, format_span_id, format_trace_id
except ImportError as error:
    raise ImportError("Langfuse's SDK is missing: pip install 'aixgo[langfuse]'") from error

if TYPE_CHECKING:
    from langfuse import Langfuse
    from opentelemetry.context import Context

    from aixgo.telemetry.langfuse import LangfuseSettings

MAX_ID = 200
"""Characters of a session's or a user's id; Langfuse drops longer ones."""
_TYPES = {
    "chat": "generation",
    "embeddings": "embedding",
    "invoke_agent": "agent",
    "execute_tool": "tool",
}
_SPENDING = ("generation", "embedding")
_USAGE = "gen_ai.usage."
_REQUEST = "gen_ai.request."
_INPUTS = ("gen_ai.input.messages", "gen_ai.tool.call.arguments")
_OUTPUTS = ("gen_ai.output.messages", "gen_ai.tool.call.result")
_SUMS = ("tokens.prompt", "tokens.completion", "tokens.total", "cost.usd", "cost.total_usd")

Attributes = Mapping[str, Any]


def langfuse_exporter(settings: LangfuseSettings, timeout: float) -> SpanExporter:
    """What sends spans to Langfuse, by its OTLP endpoint (langfuse.com/integrations/native/opentelemetry)."""
    credentials = f"{settings.public_key}:{settings.secret_key.get_secret_value()}".encode()
    headers = {
        "authorization": f"Basic {b64encode(credentials).decode()}",
        "x-langfuse-sdk-name": "python",
        "x-langfuse-sdk-version": langfuse_version,
        "x-langfuse-public-key": settings.public_key,
        "x-langfuse-ingestion-version": "4",  # shown at once, as the SDK's own exporter asks for
    }
    exporter = OTLPSpanExporter(
        f"{settings.host}/api/public/otel/v1/traces", headers=headers, timeout=timeout, compression=Compression.Gzip
    )
    return ObservationExporter(exporter, _of_the_process(settings))


class ObservationExporter(SpanExporter):
    """Hands spans to `exporter` as observations, each with the attributes `common` to all."""

    def __init__(self, exporter: SpanExporter, common: Attributes) -> None:
        self._exporter = exporter
        self._common = common

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([self._observation(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def _observation(self, span: ReadableSpan) -> ReadableSpan:
        """The same span with other attributes; spans are shared with the other exporters and stay as they are."""
        scope = span.instrumentation_scope
        ours = scope is not None and scope.name == "aixgo"
        own: Attributes = observation(span) if ours else span.attributes or {}
        tags = (*self._common.get(Names.TRACE_TAGS, ()), *own.get("aixgo.trace_tags", ()))
        return ReadableSpan(
            name=span.name,
            context=span.context,
            parent=span.parent,
            resource=span.resource,
            attributes={**self._common, **own, **({Names.TRACE_TAGS: tags} if tags else {})},
            events=span.events,
            links=span.links,
            kind=span.kind,
            instrumentation_scope=scope,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
        )


class ContextOfCalls(SpanProcessor):
    """Writes the call's session and user onto each span of ours, and makes scores of what `record_score` left there.

    The session is the call's; the user that of the span above it, in another process by W3C baggage. Does nothing when
    `wanted` says no any more.
    """

    def __init__(self, client: Langfuse, wanted: Callable[[], bool]) -> None:
        self._client = client
        self._wanted = wanted

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if not self._wanted():
            return
        above = _attributes_of(trace.get_current_span(parent_context))
        own = span.attributes or {}
        state = current()
        session = own.get("gen_ai.conversation.id") or (state.session_id if state else "") or above.get("session.id")
        user = own.get(USER) or above.get(USER) or baggage.get_baggage(USER, parent_context)
        if session:
            span.set_attribute("session.id", str(session)[:MAX_ID])
        if user:
            span.set_attribute(USER, str(user)[:MAX_ID])

    def on_end(self, span: ReadableSpan) -> None:
        if not self._wanted():
            return
        context, found = span.context, span.attributes or {}
        for key, value in found.items():
            dimension = key.removeprefix(QUALITY)
            if context is None or dimension == key or not isinstance(value, float):
                continue
            trace_id, span_id = format_trace_id(context.trace_id), format_span_id(context.span_id)
            self._client.create_score(
                name=dimension,
                value=value,
                trace_id=trace_id,
                observation_id=span_id,
                score_id=f"{trace_id}-{span_id}-{dimension}",  # sent twice it is still one
                data_type="NUMERIC",
                comment=str(found[key + COMMENT]) if key + COMMENT in found else None,
            )


def observation(span: ReadableSpan) -> dict[str, Any]:
    """The attributes of one of our spans as Langfuse reads them."""
    found = dict(span.attributes or {})
    kind = _type(span.name, found)
    told = {
        Names.OBSERVATION_TYPE: kind,
        Names.OBSERVATION_INPUT: _taken(found, _INPUTS),
        Names.OBSERVATION_OUTPUT: _taken(found, _OUTPUTS),
    }
    if kind in _SPENDING:
        told |= _spending(span, found)
    for key in [key for key in found if key.startswith(_USAGE) or key in _SUMS]:
        del found[key]
    if span.status.status_code is StatusCode.ERROR:
        told |= {Names.OBSERVATION_LEVEL: "ERROR", Names.OBSERVATION_STATUS_MESSAGE: span.status.description}
    if span.parent is None:
        told[Names.TRACE_NAME] = found.get("gen_ai.agent.name") or found.get("orchestrator") or span.name
    return found | {key: value for key, value in told.items() if value is not None}


def _type(name: str, found: Attributes) -> str:
    if name.startswith("orchestration."):
        return "chain"
    if name == "retrieve":
        return "retriever"
    return _TYPES.get(str(found.get("gen_ai.operation.name")), "span")


def _spending(span: ReadableSpan, found: Attributes) -> dict[str, Any]:
    """Model, parameters, usage, cost and time to first token of one call of a vendor."""
    parameters = {
        key.removeprefix(_REQUEST): value
        for key, value in found.items()
        if key.startswith(_REQUEST) and key != "gen_ai.request.model"
    }
    cost = found.get("cost.usd")
    return {
        Names.OBSERVATION_MODEL: found.get("gen_ai.response.model") or found.get("gen_ai.request.model"),
        Names.OBSERVATION_MODEL_PARAMETERS: json.dumps(parameters) if parameters else None,
        Names.OBSERVATION_USAGE_DETAILS: json.dumps(usage_details(found)),
        Names.OBSERVATION_COST_DETAILS: None if cost is None else json.dumps({"total": cost}),
        Names.OBSERVATION_COMPLETION_START_TIME: _first_token(span, found),
    }


def usage_details(found: Attributes) -> dict[str, int]:
    """Tokens by kind, each counted once: Langfuse takes the sum of all `input*` for the prompt's, of all `output*` for
    the completion's. The conventions' numbers include what was cached and reasoned.
    """

    def tokens(kind: str) -> int:
        value = found.get(f"{_USAGE}{kind}", 0)
        return value if isinstance(value, int) else 0

    prompt, completion = tokens("input_tokens"), tokens("output_tokens")
    parts = {
        "input_cached_tokens": tokens("cache_read.input_tokens"),
        "input_cache_creation": tokens("cache_creation.input_tokens"),
        "output_reasoning_tokens": tokens("reasoning.output_tokens"),
    }
    cached, written, reasoned = parts.values()
    details = {"input": prompt - cached - written, "output": completion - reasoned, "total": prompt + completion}
    return details | {name: count for name, count in parts.items() if count}


def _first_token(span: ReadableSpan, found: Attributes) -> str | None:
    """When the first token came, as JSON like all that Langfuse's SDK writes; None where that was not measured."""
    seconds = found.get("gen_ai.response.time_to_first_chunk")
    if not isinstance(seconds, (int, float)) or span.start_time is None:
        return None
    started = datetime.fromtimestamp(span.start_time / 1e9, UTC)
    return json.dumps((started + timedelta(seconds=seconds)).isoformat())


def _taken(found: dict[str, Any], names: Sequence[str]) -> Any:
    """The first of these attributes that there is; it is taken out."""
    return next((found.pop(name) for name in names if name in found), None)


def _of_the_process(settings: LangfuseSettings) -> Attributes:
    common = {
        Names.ENVIRONMENT: settings.environment,
        Names.RELEASE: settings.release,
        Names.TRACE_TAGS: settings.tags,
    }
    return {key: value for key, value in common.items() if value}


def _attributes_of(span: trace.Span) -> Attributes:
    return cast("Attributes", span.attributes or {}) if isinstance(span, ReadableSpan) else {}
