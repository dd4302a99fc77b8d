"""Metrics pages of containers: Prometheus finds and reaches each one where the YAML asks for them, and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aixgo.config.load import loads
from aixgo_services.render.compose import compose_document
from aixgo_services.render.fleet import FleetPlan, Source, plan_containers
from aixgo_services.render.kubernetes import kubernetes_files, kubernetes_objects

from tests.deploy.conftest import Run
from tests.deploy.fleets import of_kind
from tests.deploy.test_helm_chart import CHART, by_key

FLEET = """\
version: 2
agents:
  - {name: team, role: llm, model: local/smollm2-135m}
orchestration: {name: triage, pattern: sequential, agents: [team]}
"""
SEEN = FLEET + "observability: {prometheus: '127.0.0.1:9100'}\n"
TELLING = {"control-plane", "team", "triage", "gateway"}
"""All but the model server, which has no page."""
PAGE = {"name": "metrics", "containerPort": 9464}


def plan(text: str) -> FleetPlan:
    return plan_containers(loads(text), Source("desk", text))


def manifests(text: str) -> list[dict[str, Any]]:
    return kubernetes_objects(kubernetes_files(loads(text), plan(text)))


def pods(made: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: each["spec"]["template"] for name, each in of_kind(made, "Deployment").items()}


def port_of_page(pod: dict[str, Any]) -> bool:
    """Whether a pod has a page; fails where it is told of one and has no port for it, or the other way round."""
    (container,) = pod["spec"]["containers"]
    told = {each["name"]: each.get("value") for each in container["env"]}.get("AIXGO_METRICS_ADDRESS")
    assert (told == "0.0.0.0:9464") == (PAGE in container["ports"])
    return PAGE in container["ports"]


@pytest.fixture
def template(helm: Run, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def render(text: str, *words: str) -> list[dict[str, Any]]:
        file = tmp_path / "fleet.yaml"
        file.write_text(text)
        made = helm("template", "desk", CHART, "--set-file", f"config={file}", *words)
        return [each for each in yaml.safe_load_all(made) if each]

    return render


def test_every_process_has_a_page_at_one_port_where_the_yaml_asks_for_any():
    assert {name for name, pod in pods(manifests(SEEN)).items() if port_of_page(pod)} == TELLING
    services = compose_document(plan(SEEN), {"fleet.yaml": "./fleet.yaml"})["services"]
    told = {name: each.get("environment", {}).get("AIXGO_METRICS_ADDRESS") for name, each in services.items()}
    assert told == {**dict.fromkeys(TELLING, "0.0.0.0:9464"), "model-server": None}


def test_none_has_a_page_where_it_does_not():
    made = manifests(FLEET)
    assert not any(port_of_page(pod) for pod in pods(made).values())
    assert "metrics" not in of_kind(made, "NetworkPolicy")
    assert "prometheus.io" not in str(made)


def test_pods_say_that_they_are_to_be_scraped_and_where():
    annotations = {name: pod["metadata"].get("annotations", {}) for name, pod in pods(manifests(SEEN)).items()}
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": "9464", "prometheus.io/path": "/metrics"}
    assert {name for name, each in annotations.items() if scraped.items() <= each.items()} == TELLING
    assert "prometheus.io/scrape" not in annotations["model-server"]


def test_pages_may_be_read_from_the_cluster_and_nothing_else_may_be_reached_by_that():
    policy = of_kind(manifests(SEEN), "NetworkPolicy")["metrics"]["spec"]
    assert policy["ingress"] == [
        {"from": [{"namespaceSelector": {}}], "ports": [{"protocol": "TCP", "port": 9464}]},
    ]
    (chosen,) = policy["podSelector"]["matchExpressions"]
    assert set(chosen["values"]) == {"agent", "orchestration", "gateway", "control-plane"}


@pytest.mark.parametrize("text", [FLEET, SEEN], ids=["without", "with"])
def test_the_chart_has_the_same(text: str, template: Callable[..., list[dict[str, Any]]]):
    assert by_key(template(text)) == by_key(manifests(text))


def test_the_chart_has_a_pod_monitor_in_place_of_annotations_where_one_wants_it(
    template: Callable[..., list[dict[str, Any]]], validate: Callable[[list[dict[str, Any]]], None]
):
    made = template(SEEN, "--set", "podMonitor.enabled=true", "--set", "podMonitor.labels.release=watch")
    (monitor,) = of_kind(made, "PodMonitor").values()
    assert monitor["metadata"]["labels"]["release"] == "watch"
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "15s"}]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    assert {name for name, pod in pods(made).items() if wanted <= pod["metadata"]["labels"].items()} >= TELLING
    assert "prometheus.io" not in str(made)
    validate([each for each in made if each["kind"] != "PodMonitor"])
    assert not of_kind(template(FLEET, "--set", "podMonitor.enabled=true"), "PodMonitor")
