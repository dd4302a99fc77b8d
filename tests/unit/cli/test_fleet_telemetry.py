"""What the processes of a fleet that have no file are told of telemetry: what the file says, where nobody says more."""

from __future__ import annotations

from pathlib import Path

import pytest
from aixgo.config.load import loads
from aixgo.launch import telemetry_settings
from aixgo.telemetry.settings import TelemetrySettings
from aixgo_services.supervisor import plan

MESH = """\
version: 2
agents: [{name: upper, role: llm, model: test/upper}]
observability: {otlp: "http://collector:4318", protocol: http/protobuf, headers: {x-key: "a b,c=d%"}}
"""


def settings_of_control_plane(text: str, **environment: str) -> TelemetrySettings:
    """What the control plane of a fleet makes of its environment."""
    specs = plan(loads(text), Path("m.yaml"), control_plane="h:1", model="h:2", environment=environment)
    (own,) = (spec.environment for spec in specs if spec.name == "control-plane")
    return telemetry_settings(None, own, ["control-plane"])


def test_a_control_plane_sends_its_metrics_where_the_file_says():
    settings = settings_of_control_plane(MESH)
    assert settings.url_of("metrics") == "http://collector:4318/v1/metrics"
    assert settings.protocol == "http/protobuf"
    assert settings.headers == {"x-key": "a b,c=d%"}


@pytest.mark.parametrize("said", ["http://other:4317", ""])
def test_the_environment_wins_over_the_file(said: str):
    settings = settings_of_control_plane(MESH, OTEL_EXPORTER_OTLP_ENDPOINT=said)
    assert settings.otlp == (said or "http://collector:4318")


def test_only_the_control_plane_is_told():
    specs = plan(loads(MESH), Path("m.yaml"), control_plane="h:1", model="h:2", environment={})
    told = {spec.name for spec in specs if "OTEL_EXPORTER_OTLP_ENDPOINT" in spec.environment}
    assert told == {"control-plane"}


def test_without_observability_nobody_is_told_of_any():
    specs = plan(loads(MESH.partition("obs")[0]), Path("m.yaml"), control_plane="h:1", model=None, environment={})
    assert all(not spec.environment for spec in specs)
