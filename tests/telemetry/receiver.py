"""A collector for tests: takes OTLP over gRPC and HTTP, decodes it, and keeps spans, metrics and every byte."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True)
class Seen:
    """One span as it arrived. `parent_id` is empty for the first of a trace."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    failed: bool
    status: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: tuple[str, ...]
    links: tuple[tuple[str, str], ...]
    """Trace and span of each link."""


@dataclass
class Received:
    """What has arrived so far."""

    spans: list[Seen] = field(default_factory=list)
    metrics: set[str] = field(default_factory=set)
    metrics_of: dict[str, set[str]] = field(default_factory=dict)
    """The names of metrics by the name of the service that sent them."""
    metric_bytes: list[bytes] = field(default_factory=list)
    """What metrics arrived as, which is part of `bytes`."""
    bytes: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def traces(self) -> dict[str, list[Seen]]:
        """The spans by trace."""
        by_trace: dict[str, list[Seen]] = {}
        for span in self.spans:
            by_trace.setdefault(span.trace_id, []).append(span)
        return by_trace


class Receiver:
    """Listens on two ports of the loopback interface inside `with`: `grpc_url` and `http_url`."""

    def __init__(self) -> None:
        self.received = Received()

    def __enter__(self) -> Self:
        self._grpc = grpc.server(ThreadPoolExecutor(4))
        add_TraceServiceServicer_to_server(_Traces(self), self._grpc)
        add_MetricsServiceServicer_to_server(_Metrics(self), self._grpc)
        self.grpc_url = f"http://127.0.0.1:{self._grpc.add_insecure_port('127.0.0.1:0')}"
        self._grpc.start()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.receiver = self  # type: ignore[attr-defined]
        self.http_url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._grpc.stop(None).wait()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def take_traces(self, request: trace_pb.ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        self._keep(request, headers)
        for group in request.resource_spans:
            resource = _values(group.resource.attributes)
            for scope in group.scope_spans:
                self.received.spans += [_seen(span, resource) for span in scope.spans]

    def take_metrics(self, request: metrics_pb.ExportMetricsServiceRequest, headers: dict[str, str]) -> None:
        self._keep(request, headers)
        self.received.metric_bytes.append(request.SerializeToString())
        for group in request.resource_metrics:
            service = _values(group.resource.attributes)["service.name"]
            for scope in group.scope_metrics:
                names = {metric.name for metric in scope.metrics}
                self.received.metrics |= names
                self.received.metrics_of.setdefault(service, set()).update(names)

    def _keep(self, request: Any, headers: dict[str, str]) -> None:
        self.received.bytes.append(request.SerializeToString())
        self.received.headers.append(headers)


class _Traces(TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._receiver.take_traces(request, dict(context.invocation_metadata()))
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(MetricsServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._receiver.take_metrics(request, dict(context.invocation_metadata()))
        return metrics_pb.ExportMetricsServiceResponse()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path == "/v1/traces":
            receiver.take_traces(trace_pb.ExportTraceServiceRequest.FromString(body), headers)
        elif self.path == "/v1/metrics":
            receiver.take_metrics(metrics_pb.ExportMetricsServiceRequest.FromString(body), headers)
        else:
            self._refuse()
            return
        self.send_response(200)
        self.end_headers()

    def _refuse(self) -> None:
        """Answer as a vendor does that quotes the key it refuses."""
        quoted = json.dumps({"error": {"message": f"Incorrect API key provided: {self.headers['authorization']}"}})
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(quoted)))
        self.end_headers()
        self.wfile.write(quoted.encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def _seen(span: Any, resource: dict[str, Any]) -> Seen:
    return Seen(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.status.code == 2,
        span.status.message,
        _values(span.attributes),
        resource,
        tuple(event.name for event in span.events),
        tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
    )


def _values(attributes: Iterable[Any]) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return tuple(_value(one) for one in value.array_value.values)
    return getattr(value, kind) if kind else None


def orphans(spans: Sequence[Seen]) -> list[Seen]:
    """The spans of one trace whose parent has not arrived."""
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id and span.parent_id not in known]
