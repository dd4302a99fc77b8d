"""A local Langfuse: receives what its SDK posts, and reads it as Langfuse does.

Traces arrive as gzip OTLP protobuf at /api/public/otel/v1/traces, scores as a JSON list at /api/public/scores. Owns
nothing else of Langfuse's API. Above: the tests.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

TRACES, SCORES = "/api/public/otel/v1/traces", "/api/public/scores"


@dataclass(frozen=True)
class Observation:
    """One observation: a span as Langfuse reads it. `failed` is its OpenTelemetry status."""

    name: str
    trace_id: str
    id: str
    parent_id: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    failed: bool

    @property
    def type(self) -> str:
        """generation, agent, chain, ..."""
        return self.attributes.get("langfuse.observation.type", "")

    @property
    def usage(self) -> dict[str, int]:
        """Tokens by kind; {} where there are none."""
        return json.loads(self.attributes.get("langfuse.observation.usage_details", "{}"))

    @property
    def cost(self) -> Decimal | None:
        """USD, or None."""
        details = self.attributes.get("langfuse.observation.cost_details")
        return None if details is None else Decimal(str(json.loads(details)["total"]))


class LangfuseServer(ThreadingHTTPServer):
    """What has been received so far, and with which Authorization headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.observations: list[Observation] = []
        self.scores: list[dict[str, Any]] = []
        self.authorizations: set[str] = set()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Its LANGFUSE_HOST."""
        return f"http://127.0.0.1:{self.server_port}"

    def of_type(self, kind: str) -> list[Observation]:
        """The observations of one type, in the order in which they arrived."""
        return [each for each in self.observations if each.type == kind]

    def parents(self) -> dict[str, str]:
        """The name of each observation's parent by its name; "" above roots. For trees without equal names."""
        names = {each.id: each.name for each in self.observations}
        return {each.name: names.get(each.parent_id, each.parent_id) for each in self.observations}


@contextmanager
def langfuse_server() -> Generator[LangfuseServer]:
    """A Langfuse that listens until the end of the block."""
    with LangfuseServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: LangfuseServer  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower, by construction
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        with self.server.lock:
            self.server.authorizations.add(self.headers["authorization"])
            if self.path == TRACES:
                self.server.observations += _observations(ExportTraceServiceRequest.FromString(body))
                self._answer(200, b"", "application/x-protobuf")
            elif self.path == SCORES:
                self.server.scores += json.loads(body)
                self._answer(202, b'{"message": "Accepted"}', "application/json")
            else:
                self._answer(404, b"{}", "application/json")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the standard library
        """Nothing: a test reads what came, not the log."""

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _observations(request: ExportTraceServiceRequest) -> Sequence[Observation]:
    return [
        Observation(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            {each.key: _value(each.value) for each in span.attributes},
            {each.key: _value(each.value) for each in of_resource.resource.attributes},
            span.status.code == span.status.STATUS_CODE_ERROR,
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
