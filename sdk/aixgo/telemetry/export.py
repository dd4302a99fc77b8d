"""Where spans and metrics go: exporters for a collector or the console, and the metrics page.

Owns everything that comes from the extra `otel`, imported only here and in `setup.py` (above), and what is said when a
collector cannot be reached: one warning, however often an exporter tries again.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aixgo.errors import ConfigError
from aixgo.telemetry.durations import Durations, telling
from aixgo.telemetry.page import PageServer
from aixgo.telemetry.secrets import scrub
from aixgo.telemetry.settings import Protocol, Signal, TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter

_log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_FOLDERS: dict[Protocol, str] = {"grpc": "grpc", "http/protobuf": "http"}
_CLASSES: dict[Signal, tuple[str, str]] = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
}
_EXPORTERS = "opentelemetry.exporter"
"""The logger above those of all exporters."""


def load(module: str) -> Any:
    """A module of the extra `otel`; raises ConfigError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"observability needs {module.partition('.')[0]}, which is not installed ({error});"
            " install it with: pip install 'aixgo[otel]'"
        ) from error


def span_processors(settings: TelemetrySettings) -> list[SpanProcessor]:
    """What a tracer provider hands its spans to. Raises ConfigError when a package is missing."""
    export = load("opentelemetry.sdk.trace.export")
    processors: list[SpanProcessor] = []
    if settings.url_of("traces"):
        processors.append(export.BatchSpanProcessor(_otlp(settings, "traces"), meter_provider=no_meters()))
    if settings.console:
        console: SpanExporter = export.ConsoleSpanExporter(out=_stderr())
        processors.append(export.SimpleSpanProcessor(console, meter_provider=no_meters()))
    return processors


def no_meters() -> MeterProvider:
    """Where OpenTelemetry's metrics of itself go: nowhere."""
    return load("opentelemetry.metrics").NoOpMeterProvider()


def metric_reader(settings: TelemetrySettings, durations: Durations | None = None) -> MetricReader | None:
    """What sends metrics to a collector, every minute or OTEL_METRIC_EXPORT_INTERVAL; None when none is to get them.

    `durations` are sent along.
    """
    if not settings.url_of("metrics"):
        return None
    exporter: MetricExporter = _otlp(settings, "metrics")
    reader = load("opentelemetry.sdk.metrics.export").PeriodicExportingMetricReader
    return (reader if durations is None else telling(reader, durations))(exporter)


def _otlp(settings: TelemetrySettings, signal: Signal) -> Any:
    url = settings.url_of(signal)
    protocol = settings.protocol_of(url)
    module, name = _CLASSES[signal]
    found = getattr(load(f"opentelemetry.exporter.otlp.proto.{_FOLDERS[protocol]}.{module}"), name)
    headers = {key.lower(): value for key, value in settings.headers.items()}
    return found(endpoint=url, headers=headers or None, meter_provider=no_meters())


def _stderr() -> Any:
    import sys  # read late: tests and supervisors replace it

    return sys.stderr


class MetricsPage:
    """The page that Prometheus reads, served by a thread of its own until `close`.

    `address` is the host:port that is served, the one asked for except for port 0; empty when it cannot be: that costs
    a warning, and no call. `durations` are on it, too.
    """

    def __init__(self, address: str, durations: Durations | None = None) -> None:
        client = load("prometheus_client")
        self._registry = client.CollectorRegistry()
        reader = load("opentelemetry.exporter.prometheus").PrometheusMetricReader
        reader = reader if durations is None else telling(reader, durations)
        self.reader: MetricReader = reader(scope_info_enabled=False, registry=self._registry)
        self.address = ""
        self._server: PageServer | None = None
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "0.0.0.0"  # noqa: S104  # asked for by ":port", and warned about below
        try:
            self._server = PageServer(host, int(port), client.make_wsgi_app(self._registry))
        except OSError as error:
            _log.warning(
                "there is no metrics page at %s: %s; give this process an AIXGO_METRICS_ADDRESS of its own",
                address,
                error.strerror or error,
            )
            return
        self.address = f"{f'[{host}]' if ':' in host else host}:{self._server.server_port}"
        _log.info("metrics at http://%s/metrics", self.address)
        if host not in LOOPBACK:
            _log.warning("the metrics page at %s has no authentication; let only Prometheus reach it", self.address)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()


@contextmanager
def quiet_exporters() -> Generator[None]:
    """Inside the block the exporters' own log, a line for each attempt, becomes one warning."""
    logger = logging.getLogger(_EXPORTERS)
    before = logger.propagate, list(logger.handlers)
    logger.propagate = False
    logger.handlers[:] = [_OneWarning()]
    try:
        yield
    finally:
        logger.propagate, logger.handlers[:] = before


class _OneWarning(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        level = logging.DEBUG if self._said else logging.WARNING
        self._said = True
        _log.log(level, "telemetry is not delivered: %s; calls go on without it", scrub(record.getMessage()))
