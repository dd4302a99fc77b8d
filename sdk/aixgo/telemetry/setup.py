"""Setting up telemetry for one process, and ending it without losing what was recorded or holding up the exit.

Owns the tracer provider, the meter provider and the metrics page between `set_up` and `close`. A provider that somebody
else has set is used and not replaced; ours is taken back at the end, so that a process can be set up again. Above:
`aixgo.run`, and the commands that start processes. Below: `settings.py` (what is wanted) and `export.py` (where to).
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aixgo.errors import ConfigError
from aixgo.telemetry import content, metrics
from aixgo.telemetry.content import ContentPolicy
from aixgo.telemetry.durations import Durations
from aixgo.telemetry.export import MetricsPage, load, metric_reader, no_meters, quiet_exporters, span_processors
from aixgo.telemetry.langfuse import begin_langfuse
from aixgo.telemetry.settings import TelemetrySettings

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

_log = logging.getLogger(__name__)

EXEMPLARS = "OTEL_METRICS_EXEMPLAR_FILTER"
HISTOGRAMS = (
    EXEMPLARS,
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
)
"""Who sets one of these wants histograms that only OpenTelemetry's own can be, and that take longer to count."""
FLUSH_TIMEOUT = 3.0
"""Seconds that the end of a process waits for the last spans and metrics to be delivered."""


class Telemetry:
    """The telemetry of one process, until `close` or the end of the `with` block. Closing it again does nothing.

    `tracer_provider` is what spans come from (None: none are recorded), ours or the one that was there before;
    `metrics_address` is the host:port of the metrics page, empty without one.
    """

    def __init__(self) -> None:
        self.tracer_provider: TracerProvider | None = None
        self.meter_provider: MeterProvider | None = None
        self.metrics_address = ""
        self._flushes: list[Callable[[], object]] = []
        self._ends = ExitStack()

    def on_flush(self, flush: Callable[[], object]) -> None:
        """Have `flush`, which may block, called at the end, beside the others and within the same FLUSH_TIMEOUT."""
        self._flushes.append(flush)

    def on_close(self, end: Callable[[], object]) -> None:
        """Have `end`, which must not block, called at the end, after everything was flushed; the last one first."""
        self._ends.callback(end)

    def close(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Deliver what was recorded, for at most `timeout` seconds, and undo the set-up."""
        flushes, self._flushes = self._flushes, []
        threads = [threading.Thread(target=_flushed, args=(flush,), daemon=True) for flush in flushes]
        for thread in threads:
            thread.start()
        until = monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, until - monotonic()))
        self._ends.pop_all().close()

    async def aclose(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """`close`, while the event loop goes on."""
        await asyncio.to_thread(self.close, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def set_up(settings: TelemetrySettings) -> Telemetry:
    """Begin to emit what `settings` ask for; nothing is loaded for those that ask for nothing.

    An unreachable collector and a taken port cost a warning. Raises ConfigError when a package is missing, unless only
    the environment asked for telemetry.
    """
    telemetry = Telemetry()
    try:
        _begin(telemetry, settings)
    except ConfigError as error:
        telemetry.close(0)
        if settings.required:
            raise
        _log.warning("there is no telemetry: %s", error)
    except BaseException:
        telemetry.close(0)
        raise
    return telemetry


def _begin(telemetry: Telemetry, settings: TelemetrySettings) -> None:
    if settings.capture_content or settings.redact is not None:
        policy = ContentPolicy(settings.capture_content, settings.redact, settings.max_content)
        before = content.use(policy)
        telemetry.on_close(lambda: content.use(before))
    if not (settings.traces or settings.metrics):
        return
    resource = _resource(settings)
    quiet = quiet_exporters()
    quiet.__enter__()
    telemetry.on_close(lambda: quiet.__exit__(None, None, None))
    if settings.traces:
        _begin_traces(telemetry, settings, resource)
        if settings.langfuse is not None:
            begin_langfuse(telemetry, settings.langfuse)
    if settings.metrics:
        _begin_metrics(telemetry, settings, resource)


def _begin_traces(telemetry: Telemetry, settings: TelemetrySettings, resource: Resource) -> None:
    api: Any = load("opentelemetry.trace")
    present = api.get_tracer_provider()
    if not isinstance(present, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
        _log.info("a tracer provider is set already, and spans go where it sends them")
        telemetry.tracer_provider = present
        return
    sdk = load("opentelemetry.sdk.trace")
    sampling = load("opentelemetry.sdk.trace.sampling")
    provider: TracerProvider = sdk.TracerProvider(
        sampler=sampling.ParentBasedTraceIdRatio(settings.sample),
        resource=resource,
        shutdown_on_exit=False,
        meter_provider=no_meters(),  # metrics of the spans themselves would cost as much as they do
    )
    for processor in span_processors(settings):
        provider.add_span_processor(processor)
    api.set_tracer_provider(provider)
    telemetry.tracer_provider = provider
    telemetry.on_flush(provider.shutdown)
    telemetry.on_close(lambda: _take_back(api, "_TRACER_PROVIDER"))


def _begin_metrics(telemetry: Telemetry, settings: TelemetrySettings, resource: Resource) -> None:
    internal: Any = load("opentelemetry.metrics._internal")
    if internal._METER_PROVIDER is not None:  # noqa: SLF001  # the public way makes one when there is none
        _log.info("a meter provider is set already, and metrics go where it sends them")
        return
    own = None if any(name in os.environ for name in HISTOGRAMS) else Durations(metrics.SCOPE)
    readers = [reader] if (reader := metric_reader(settings, own)) is not None else []
    if settings.prometheus:
        page = MetricsPage(settings.prometheus, own)
        telemetry.metrics_address = page.address
        telemetry.on_close(page.close)
        readers.append(page.reader)
    sdk = load("opentelemetry.sdk.metrics")
    provider: MeterProvider = sdk.MeterProvider(
        metric_readers=readers,
        resource=resource,
        # Examples of traces beside the figures are for those who ask: choosing them takes as long as counting does.
        exemplar_filter=None if EXEMPLARS in os.environ else sdk.AlwaysOffExemplarFilter(),
        shutdown_on_exit=False,
    )
    before = metrics.keep(own)
    telemetry.on_close(lambda: metrics.keep(before))
    internal.set_meter_provider(provider)
    telemetry.meter_provider = provider
    telemetry.on_flush(provider.shutdown)
    telemetry.on_close(lambda: _take_back(internal, "_METER_PROVIDER"))


def _resource(settings: TelemetrySettings) -> Resource:
    """What every span and metric says of its process; what the user says of it counts more."""
    from aixgo import __version__

    own: Mapping[str, str] = {
        "service.namespace": "aixgo",
        "service.version": __version__,
        "service.instance.id": settings.instance_id,
        "aixgo.version": __version__,
        **settings.attributes,
        "service.name": settings.service_name,
    }
    return load("opentelemetry.sdk.resources").Resource.create({key: value for key, value in own.items() if value})


def _take_back(module: Any, name: str) -> None:
    """Unset a provider of ours, so that the process can be set up again: OpenTelemetry lets it be set only once."""
    setattr(module, name, None)
    once = getattr(module, f"{name}_SET_ONCE", None)
    if once is not None:
        once._done = False  # noqa: SLF001  # as opentelemetry's own tests do; there is no public way


def _flushed(flush: Callable[[], object]) -> None:
    try:
        flush()
    except Exception as error:  # noqa: BLE001  # whatever an exporter raises, the process ends in good order
        _log.warning("telemetry was not delivered at the end: %s", type(error).__name__)
