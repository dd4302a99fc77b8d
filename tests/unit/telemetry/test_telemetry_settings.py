"""What telemetry is asked for: the file, and the OTEL_* variables over it."""

from __future__ import annotations

import pytest
from aixgo.config.schema import ObservabilitySpec
from aixgo.errors import ConfigError
from aixgo.telemetry.settings import TelemetrySettings


def read(spec: dict[str, object] | None = None, **variables: str) -> TelemetrySettings:
    section = None if spec is None else ObservabilitySpec.model_validate(spec)
    return TelemetrySettings.read(section, variables, service_name="a,b")


def test_nothing_is_asked_for_by_default():
    settings = read({})
    assert not settings.traces
    assert not settings.metrics
    assert settings.service_name == "a,b"


@pytest.mark.parametrize(
    ("url", "traces"),
    [
        ("http://c:4317", ("http://c:4317", "grpc")),
        ("https://c", ("https://c", "grpc")),
        ("http://c:4318", ("http://c:4318/v1/traces", "http/protobuf")),
        ("https://vendor.io/api/otlp/", ("https://vendor.io/api/otlp/v1/traces", "http/protobuf")),
    ],
)
def test_the_url_says_how_it_is_spoken_to(url: str, traces: tuple[str, str]):
    settings = read({"otlp": url})
    sent_to = settings.url_of("traces")
    assert (sent_to, settings.protocol_of(sent_to)) == traces


def test_the_environment_wins_over_the_file():
    settings = read(
        {"otlp": "http://file:4317", "sample": 0.5, "headers": {"X-Key": "file"}, "capture_content": True},
        OTEL_EXPORTER_OTLP_ENDPOINT="http://environment:4317",
        OTEL_EXPORTER_OTLP_HEADERS="x-key=environment%20too",
        OTEL_TRACES_SAMPLER="parentbased_traceidratio",
        OTEL_TRACES_SAMPLER_ARG="0.25",
        OTEL_SERVICE_NAME="mine",
        OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="false",
    )
    assert settings.url_of("traces") == "http://environment:4317"
    assert settings.headers == {"x-key": "environment too"}
    assert (settings.sample, settings.service_name, settings.capture_content) == (0.25, "mine", False)


def test_one_kind_can_go_elsewhere_or_nowhere():
    elsewhere = read({"otlp": "http://c:4317"}, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://t:4318/v1/traces")
    assert elsewhere.url_of("traces") == "http://t:4318/v1/traces"
    assert elsewhere.url_of("metrics") == "http://c:4317"
    nowhere = read({"otlp": "http://c:4317"}, OTEL_METRICS_EXPORTER="none")
    assert nowhere.traces
    assert not nowhere.metrics


def test_it_can_be_switched_off_as_a_whole():
    settings = read({"otlp": "http://c:4317", "prometheus": "127.0.0.1:0"}, OTEL_SDK_DISABLED="true")
    assert not settings.traces
    assert not settings.metrics


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; it can be grpc or"),
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "it can be one of always_on"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"}, "is a share, 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "is a share, 0 to 1"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:hush@"}, "is no URL of a collector"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(variables: dict[str, str], told: str):
    with pytest.raises(ConfigError) as caught:
        read({}, **variables)
    assert told in str(caught.value)
    assert "hush" not in str(caught.value)


def test_headers_are_not_shown():
    assert "hush" not in repr(read({"otlp": "http://c:4317", "headers": {"authorization": "hush"}}))


def test_a_redaction_that_cannot_be_imported_is_refused():
    with pytest.raises(ConfigError, match=r"observability\.redact: nowhere:f cannot be imported"):
        read({"capture_content": True, "redact": "nowhere:f"})
