"""The chart: our YAML is a values file, and what comes out is what `aixgo render` writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aixgo.config.load import loads
from aixgo.config.settings import Settings
from aixgo_services.needs.keeping import mailbox_place, session_place
from aixgo_services.render.fleet import Source, plan_containers
from aixgo_services.render.kubernetes import kubernetes_files, kubernetes_objects

from tests.deploy.conftest import Run
from tests.deploy.fleets import of_kind, violations
from tests.tools.render_deploy import EXAMPLE, ROOT

CHART = ROOT / "deploy" / "helm" / "aixgo"
MODULE = EXAMPLE.parent / "desk.py"
HELMS = {"app.kubernetes.io/managed-by", "helm.sh/chart"}
"""Labels that only Helm's objects have."""
AWKWARD = """\
version: 2
agents:
  - {name: My_Agent, role: llm, model: [ollama/llama3.2, test/echo]}
  - {name: gateway, role: "desk:Ticket"}
  - {name: 9.lives, role: llm, model: test/echo}
  - {name: a-0123456789, role: llm, model: test/echo}
  - {name: clock, role: producer, config: {interval: 1m}}
  - {name: library, role: retriever, config: {store: vectors}}
  - {name: shared, role: retriever, config: {store: "http://qdrant:6333"}}
  - {name: own, role: retriever, config: {documents: handbook, store: memory, embeddings: test/words}}
  - {name: like, role: classifier, config: {method: embeddings, categories: {a: b, c: d}}}
  - {name: near-by, role: aggregator, config: {strategy: clustering}}
tools:
  - {name: files, mcp: {command: [serve-files]}}
  - {name: far, mcp: {url: "https://tools.example:8443/mcp"}}
  - {name: near, mcp: {url: "http://tools/mcp"}}
sessions: {store: "postgresql://user:p@a:5433,b/x?sslmode=require"}
mailbox: {url: "nats://user:p@a:14222, nats://b", max_deliveries: 3}
orchestrations:
  - {pattern: sequential, agents: [My_Agent, far], limits: {max_tokens: null, max_iterations: 2000000}}
  - {name: LongLongLongLongLongLongLongLongLongLongLongLongLongLongLong, pattern: sequential, agents: [main]}
deployment: {mode: distributed, connect: {far: "dns:///far:50060"}, agents: {My_Agent: {replicas: 3}}}
"""


def rendered(text: str, modules: dict[str, str]) -> list[dict[str, Any]]:
    config = loads(text)
    places = {"sessions": session_place(config, Settings()), "mailboxes": mailbox_place(config, Settings())}
    plan = plan_containers(config, Source("desk", text, modules), **places)
    return kubernetes_objects(kubernetes_files(config, plan))


def plain(value: Any) -> Any:
    """A value without the labels that Helm adds."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if key not in HELMS}
    return [plain(each) for each in value] if isinstance(value, list) else value


def by_key(objects: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): plain(each) for each in objects}


@pytest.fixture
def template(helm: Run) -> Callable[..., list[dict[str, Any]]]:
    def render(*words: str | Path) -> list[dict[str, Any]]:
        return [each for each in yaml.safe_load_all(helm("template", "desk", CHART, *words)) if each]

    return render


@pytest.mark.parametrize(
    "values", [[], ["-f", EXAMPLE], ["--set-file", f"config={EXAMPLE}"]], ids=["none", "keys", "text"]
)
def test_the_chart_is_without_fault(values: list[str | Path], helm: Run):
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART, *values)


def test_its_objects_are_those_of_render(template: Callable[..., list[dict[str, Any]]]):
    made = template("--set-file", f"config={EXAMPLE}", "--set-file", f"modules.desk\\.py={MODULE}")
    assert by_key(made) == by_key(rendered(EXAMPLE.read_text(), {"desk.py": MODULE.read_text()}))


def test_the_yaml_itself_is_a_values_file(template: Callable[..., list[dict[str, Any]]]):
    text = EXAMPLE.read_text()
    made = by_key(template("-f", EXAMPLE))
    written = made["ConfigMap", "aixgo-config"]["data"]["fleet.yaml"]
    assert loads(written).model_dump() == loads(text).model_dump()
    assert made.keys() == by_key(rendered(text, {})).keys()


def test_awkward_names_ports_and_numbers_come_out_as_those_of_render(
    template: Callable[..., list[dict[str, Any]]], tmp_path: Path
):
    (tmp_path / "awkward.yaml").write_text(AWKWARD)
    made = by_key(template("-f", tmp_path / "awkward.yaml"))
    ours = by_key(rendered(AWKWARD, {}))
    written = made.pop(("ConfigMap", "aixgo-config"))["data"]["fleet.yaml"]
    del ours["ConfigMap", "aixgo-config"]
    assert loads(written).model_dump() == loads(AWKWARD).model_dump()
    for deployment in [each for (kind, _), each in (*made.items(), *ours.items()) if kind == "Deployment"]:
        annotations = deployment["spec"]["template"]["metadata"].get("annotations", {})
        annotations.pop("aixgo.dev/config", None)  # the text differs, what it says does not
    assert made == ours


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["--set", "gateway.service.type=LoadBalancer", "--set", "gateway.service.annotations.a=b"],
        ["--set", "imagePullSecrets[0].name=registry", "--set", "networkPolicies=false"],
    ],
    ids=["as it is", "load balancer", "pull secret"],
)
def test_its_objects_are_valid_and_pass_the_restricted_standard(
    values: list[str],
    template: Callable[..., list[dict[str, Any]]],
    validate: Callable[[list[dict[str, Any]]], None],
):
    made = template("-f", EXAMPLE, *values)
    assert list(violations(made)) == []
    validate(made)


@pytest.mark.parametrize("store", ["memory", "sqlite:///sessions.db", "postgresql://db/x", "postgres:///x"])
def test_agents_reach_the_sessions_where_render_says(
    store: str, template: Callable[..., list[dict[str, Any]]], tmp_path: Path
):
    text = f"version: 2\nagents: [{{name: a, role: llm, model: test/echo}}]\nsessions: {{store: '{store}'}}\n"
    (tmp_path / "desk.yaml").write_text(text)
    made = by_key(template("--set-file", f"config={tmp_path / 'desk.yaml'}"))
    policy = ("NetworkPolicy", "agents-egress")
    assert made[policy] == by_key(rendered(text, {}))[policy]


@pytest.mark.parametrize("url", ["memory", "sqlite:///mail.db", "nats://mq", "tls://a:1,tls://b:80", "nats://u:p@mq:7"])
def test_mailboxes_are_reached_and_told_of_as_render_says(
    url: str, template: Callable[..., list[dict[str, Any]]], tmp_path: Path
):
    text = f"version: 2\nagents: [{{name: a, role: llm, model: test/echo}}]\nmailbox: {{url: '{url}'}}\n"
    (tmp_path / "desk.yaml").write_text(text)
    made = by_key(template("--set-file", f"config={tmp_path / 'desk.yaml'}"))
    assert made == by_key(rendered(text, {}))


def test_without_autoscaling_the_replicas_are_those_of_the_yaml(template: Callable[..., list[dict[str, Any]]]):
    made = template("-f", EXAMPLE, "--set", "autoscaling.enabled=false")
    replicas = {name: each["spec"]["replicas"] for name, each in of_kind(made, "Deployment").items()}
    assert replicas["team"] == 2
    assert set(replicas.values()) == {1, 2}
    assert not of_kind(made, "HorizontalPodAutoscaler")


@pytest.mark.parametrize(("answer", "there"), [("auto", True), ("true", True), ("false", False)])
def test_the_model_server_is_there_where_it_is_used_or_as_one_says(
    answer: str, there: bool, template: Callable[..., list[dict[str, Any]]]
):
    deployments = of_kind(template("-f", EXAMPLE, "--set", f"modelServer={answer}"), "Deployment")
    assert ("model-server" in deployments) == there


@pytest.mark.parametrize(
    "wrong", ["agentz=1", "autoscaling.growth=0", "agents[0].name=x", "deployment.agents.a.replicas=none"]
)
def test_a_value_that_is_none_is_refused(wrong: str, helm: Run):
    with pytest.raises(AssertionError, match="schema"):
        helm("template", "desk", CHART, "--set", wrong)
