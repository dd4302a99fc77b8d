"""What telemetry a process is asked for: the `observability:` section, with the OTEL_* variables over it.

Owns which source wins. As with every other setting the environment wins over the file, so that whoever operates a fleet
can send its traces elsewhere without a change of its file. Below it lies nothing; `setup.py` (above) acts on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import unquote, urlsplit

from aixgo.errors import ConfigError
from aixgo.imports import find_object
from aixgo.telemetry.langfuse import LangfuseSettings

if TYPE_CHECKING:
    from aixgo.config.schema import ObservabilitySpec

Protocol = Literal["grpc", "http/protobuf"]
Signal = Literal["traces", "metrics"]
Redact = Callable[[str], str]
"""Is given each text before it becomes part of a span, and returns what may."""

MAX_CONTENT = 8192
"""Characters of one text in a span."""
HTTP_PORT = 4318
"""The port of OTLP over HTTP (OTLP specification 1.5); the other one, 4317, is gRPC's."""
_CAPTURING = ("true", "span_only", "span_and_event")
_RATIOS = ("traceidratio", "parentbased_traceidratio")
_FIXED_RATIOS = {"always_on": 1.0, "parentbased_always_on": 1.0, "always_off": 0.0, "parentbased_always_off": 0.0}


@dataclass(frozen=True, slots=True)
class TelemetrySettings:
    """What one process emits, and where to. Made from Python, only what is passed counts; `read` asks the environment.

    `otlp` is the base URL of a collector, to which `headers` are sent; `traces_url` and `metrics_url` are full URLs
    that replace it for one kind, `no_traces` and `no_metrics` keep one kind from it. `sample` (0 to 1) is the share of
    traces that are kept, decided where a trace begins. `prometheus` is the host:port of the metrics page (port 0: any
    free one). Texts go through `redact`, and are cut to `max_content` characters. `required` False: a missing package
    is a warning, because only the environment asked.
    """

    otlp: str = field(default="", repr=False)  # like the other URLs, it may hold a password
    protocol: Protocol | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    traces_url: str = field(default="", repr=False)
    metrics_url: str = field(default="", repr=False)
    no_traces: bool = False
    no_metrics: bool = False
    console: bool = False
    sample: float = 1.0
    prometheus: str = ""
    langfuse: LangfuseSettings | None = None
    capture_content: bool = False
    redact: Redact | None = None
    max_content: int = MAX_CONTENT
    service_name: str = "aixgo"
    instance_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])
    required: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.sample <= 1.0:
            raise ConfigError(f"observability.sample is {self.sample:g}; it is a share, 0 to 1")
        for url in (self.otlp, self.traces_url, self.metrics_url):
            if url:
                check_url(url)

    @property
    def traces(self) -> bool:
        """Whether spans are recorded at all."""
        return bool(self.url_of("traces") or self.console or self.langfuse)

    @property
    def metrics(self) -> bool:
        """Whether anything is counted at all."""
        return bool(self.url_of("metrics") or self.prometheus)

    def protocol_of(self, url: str) -> Protocol:
        """How a URL is spoken to: as asked, else HTTP at port 4318 and where there is a path, else gRPC."""
        parts = urlsplit(url)
        over_http = parts.port == HTTP_PORT or parts.path not in ("", "/")
        return self.protocol or ("http/protobuf" if over_http else "grpc")

    def url_of(self, signal: Signal) -> str:
        """Where one kind of telemetry goes; empty when it goes to no collector."""
        own = self.traces_url if signal == "traces" else self.metrics_url
        if self.no_traces if signal == "traces" else self.no_metrics:
            return ""
        if own or not self.otlp or self.protocol_of(self.otlp) == "grpc":
            return own or self.otlp
        return f"{self.otlp.rstrip('/')}/v1/{signal}"

    @classmethod
    def read(
        cls,
        spec: ObservabilitySpec | None,
        variables: Mapping[str, str],
        *,
        service_name: str,
        instance_id: str = "",
        metrics_address: str | None = None,
    ) -> TelemetrySettings:
        """The settings of a process: the variables' where they say something, else those of `spec` (None: no file).

        `metrics_address` is AIXGO_METRICS_ADDRESS. Raises ConfigError, which names the variable or key.
        """
        if variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return cls(service_name=service_name, instance_id=instance_id)
        environment = _Variables(variables)
        asked = spec is not None and bool(spec.otlp or spec.console or spec.prometheus or spec.langfuse)
        address = metrics_address or (spec.prometheus if spec else None) or ""
        otlp = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or (spec.otlp if spec else None) or ""
        content = environment.get("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT").lower()
        resource = environment.pairs("OTEL_RESOURCE_ATTRIBUTES")
        return cls(
            otlp=otlp,
            protocol=environment.protocol() or (spec.protocol if spec else None),
            traces_url=environment.url("traces"),
            metrics_url=environment.url("metrics"),
            no_traces=environment.sends_none("traces"),
            no_metrics=environment.sends_none("metrics"),
            headers=environment.pairs("OTEL_EXPORTER_OTLP_HEADERS") or _headers(spec),
            console="console" in environment.exporters("traces") or (spec is not None and spec.console),
            sample=environment.sample(spec.sample if spec else 1.0),
            prometheus=address,
            langfuse=LangfuseSettings.read(variables) if spec is not None and spec.langfuse else None,
            capture_content=content in _CAPTURING if content else spec is not None and spec.capture_content,
            redact=find_redact(spec.redact) if spec and spec.redact else None,
            service_name=environment.get("OTEL_SERVICE_NAME") or resource.get("service.name") or service_name,
            instance_id=instance_id,
            attributes=resource,
            required=asked or metrics_address is not None,
        )


def check_url(url: str) -> str:
    """`url` as it is; raises ConfigError for what is no http(s) URL of a collector."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        shown = url.rpartition("@")[2]  # what stands before it may be a password
        raise ConfigError(f"{shown!r} is no URL of a collector; write http://host:4317 or https://host")
    return url


def find_redact(path: str) -> Redact:
    """The function that `observability.redact` names. Raises ConfigError."""
    found = find_object(path, "observability.redact", "a function that takes a text and returns what of it may be kept")
    if not callable(found):
        raise ConfigError(f"observability.redact: {path} is no function; it must take a text and return one")
    return cast("Redact", found)


def _headers(spec: ObservabilitySpec | None) -> Mapping[str, str]:
    if spec is None:
        return {}
    return {name.lower(): value.get_secret_value() for name, value in spec.headers.items()}


class _Variables:
    """The OTEL_* variables (OpenTelemetry specification 1.40, "Environment Variable Specification")."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def get(self, name: str) -> str:
        return self._variables.get(name, "").strip()

    def exporters(self, signal: Signal) -> list[str]:
        """The exporters that are named for a kind of telemetry."""
        return [name.strip() for name in self.get(f"OTEL_{signal.upper()}_EXPORTER").lower().split(",") if name.strip()]

    def url(self, signal: Signal) -> str:
        """The full URL for one kind of telemetry, where it has one of its own."""
        return self.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")

    def sends_none(self, signal: Signal) -> bool:
        """Whether a list of exporters leaves out the collector."""
        named = self.exporters(signal)
        return bool(named) and "otlp" not in named

    def protocol(self) -> Protocol | None:
        """The protocol, where it is said; raises ConfigError for one that is not spoken."""
        said = self.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if said not in ("", "grpc", "http/protobuf"):
            raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {said!r}; it can be grpc or http/protobuf")
        return said or None

    def sample(self, otherwise: float) -> float:
        """The share of traces to keep; raises ConfigError for an unknown sampler or what is no share."""
        sampler = self.get("OTEL_TRACES_SAMPLER").lower()
        if not sampler:
            return otherwise
        if sampler in _FIXED_RATIOS:
            return _FIXED_RATIOS[sampler]
        if sampler not in _RATIOS:
            known = ", ".join((*_FIXED_RATIOS, *_RATIOS))
            raise ConfigError(f"OTEL_TRACES_SAMPLER is {sampler!r}; it can be one of {known}")
        said = self.get("OTEL_TRACES_SAMPLER_ARG")
        try:
            return float(said or "1")
        except ValueError as error:
            raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG is {said!r}; it is a share, 0 to 1") from error

    def pairs(self, name: str) -> dict[str, str]:
        """`key=value,...`, values percent-encoded, as headers and resource attributes are written."""
        parts = (part.partition("=") for part in self.get(name).split(",") if "=" in part)
        return {key.strip(): unquote(value.strip()) for key, _, value in parts}
