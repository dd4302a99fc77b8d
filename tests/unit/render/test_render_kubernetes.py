"""Manifests: any valid configuration gives valid objects that fit together."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from aixgo.config.load import loads
from aixgo.config.schema import Config, DeploymentSpec, ObservabilitySpec, PlacementSpec
from aixgo.config.settings import Settings
from aixgo.config.spec import AgentSpec
from aixgo.errors import ConfigError
from aixgo_services.needs.keeping import mailbox_place, session_place
from aixgo_services.render.documents import to_yaml
from aixgo_services.render.fleet import Source, plan_containers
from aixgo_services.render.kubernetes import KUSTOMIZATION, kubernetes_files, kubernetes_objects
from aixgo_services.render.names import config_keys
from aixgo_services.render.policies import outside_ports
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.deploy.fleets import configs, of_kind, sources, violations

EACH = ("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "HorizontalPodAutoscaler")
DESK = """\
version: 2
agents:
  - {name: team, role: llm, model: local/smollm2-135m}
  - {name: ticket, role: "desk:Ticket"}
orchestration: {name: triage, pattern: parallel, agents: [team], config: {aggregator: ticket}}
deployment: {agents: {team: {replicas: 2}}}
"""


def objects(text: str = DESK, *, modules: dict[str, str] | None = None, namespace: str = "") -> list[dict[str, Any]]:
    config = loads(text)
    plan = plan_containers(config, Source("desk", text, modules or {}))
    return kubernetes_objects(kubernetes_files(config, plan, namespace=namespace))


def container(deployment: dict[str, Any]) -> dict[str, Any]:
    return deployment["spec"]["template"]["spec"]["containers"][0]


def policies(text: str = DESK) -> dict[str, Any]:
    return {name: each["spec"] for name, each in of_kind(objects(text), "NetworkPolicy").items()}


@settings(max_examples=40, deadline=None)
@given(configs(), sources())
def test_every_agent_and_orchestration_has_each_object(config: Config, source: Source):
    plan = plan_containers(config, source)
    made = kubernetes_objects(kubernetes_files(config, plan))
    labels = {workload.agent: workload.name for workload in plan.workloads if workload.agent}
    assert set(labels) == set(config.names)
    for kind in EACH:
        assert set(labels.values()) <= of_kind(made, kind).keys()
    keys = [(each["kind"], each["metadata"]["name"]) for each in made]
    assert len(set(keys)) == len(keys)


@settings(max_examples=40, deadline=None)
@given(configs(), sources())
def test_nothing_has_fixed_replicas_beside_an_autoscaler(config: Config, source: Source):
    made = kubernetes_objects(kubernetes_files(config, plan_containers(config, source)))
    scalers = of_kind(made, "HorizontalPodAutoscaler")
    for name, deployment in of_kind(made, "Deployment").items():
        assert ("replicas" in deployment["spec"]) != (name in scalers)
    for scaler in scalers.values():
        assert 1 <= scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]


@settings(max_examples=40, deadline=None)
@given(configs(), sources())
def test_selectors_select_the_pods_of_their_own_workload_and_no_others(config: Config, source: Source):
    made = kubernetes_objects(kubernetes_files(config, plan_containers(config, source)))
    pods = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in of_kind(made, "Deployment").items()}
    for kind in ("Deployment", "Service", "PodDisruptionBudget"):
        for name, each in of_kind(made, kind).items():
            wanted = each["spec"]["selector"]
            wanted = wanted.get("matchLabels", wanted)
            assert [pod for pod, labels in pods.items() if wanted.items() <= labels.items()] == [name]


@settings(max_examples=40, deadline=None)
@given(configs(), sources())
def test_every_pod_passes_the_restricted_standard(config: Config, source: Source):
    made = kubernetes_objects(kubernetes_files(config, plan_containers(config, source)))
    assert list(violations(made)) == []
    for deployment in of_kind(made, "Deployment").values():
        assert container(deployment)["securityContext"]["readOnlyRootFilesystem"] is True


@settings(max_examples=25, deadline=None)
@given(configs(), sources())
def test_what_is_written_reads_back_as_it_was(config: Config, source: Source):
    files = kubernetes_files(config, plan_containers(config, source))
    for documents in files.values():
        assert list(yaml.safe_load_all(to_yaml(documents, header="two\nlines"))) == documents
    mounted = of_kind(kubernetes_objects(files), "ConfigMap")["aixgo-config"]["data"]
    assert mounted == {"fleet.yaml": source.text, **source.beside}


@settings(max_examples=25, deadline=None)
@given(configs(), sources())
def test_the_same_configuration_gives_the_same_text(config: Config, source: Source):
    def text() -> list[str]:
        plan = plan_containers(config, copy.deepcopy(source))
        return [to_yaml(each) for each in kubernetes_files(config, plan).values()]

    assert text() == text()


def test_the_kustomization_names_every_other_file():
    config = loads(DESK)
    files = kubernetes_files(config, plan_containers(config, Source("desk", DESK)))
    assert set(files[KUSTOMIZATION][0]["resources"]) == files.keys() - {KUSTOMIZATION}


def test_the_standard_catches_what_it_forbids():
    made = objects()
    pod = of_kind(made, "Deployment")["team"]["spec"]["template"]["spec"]
    pod["hostNetwork"] = True
    pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    pod["securityContext"] = {"sysctls": [{"name": "x", "value": "1"}]}
    pod["containers"][0] |= {
        "securityContext": {"procMount": "Unmasked"},
        "ports": [{"containerPort": 1, "hostPort": 1}],
        "livenessProbe": {"httpGet": {"host": "elsewhere", "port": 1}},
    }
    assert sorted(violations(made)) == [
        "team/aixgo: has capabilities",
        "team/aixgo: has no seccomp profile",
        "team/aixgo: is probed at another host",
        "team/aixgo: may gain privileges",
        "team/aixgo: may run as root",
        "team/aixgo: sees all of /proc",
        "team/aixgo: takes a port of the host",
        "team: hostNetwork",
        "team: sysctls",
        "team: volume host",
    ]


def test_the_yamls_replicas_are_where_the_autoscaler_starts():
    scalers = of_kind(objects(), "HorizontalPodAutoscaler")
    found = {name: (each["spec"]["minReplicas"], each["spec"]["maxReplicas"]) for name, each in scalers.items()}
    assert found == {"team": (2, 8), "ticket": (1, 4), "triage": (1, 4), "gateway": (1, 4)}


def test_an_image_is_the_agents_own_or_the_one_for_all():
    agents = (AgentSpec(name="team", role="llm", model=("local/smollm2-135m",)), AgentSpec(name="ticket", role="llm"))
    deployment = DeploymentSpec(agents={"team": PlacementSpec(image="mine:1")})
    config = Config(version=2, agents=agents, deployment=deployment)
    plan = plan_containers(config, Source("desk", ""), image="ours:2", model_image="model:3")
    made = of_kind(kubernetes_objects(kubernetes_files(config, plan)), "Deployment")
    assert {name: container(each)["image"] for name, each in made.items()} == {
        "control-plane": "ours:2", "model-server": "model:3", "team": "mine:1", "ticket": "ours:2", "gateway": "ours:2",
    }  # fmt: skip


def test_processes_are_probed_by_grpc_and_ready_when_their_agent_is():
    deployments = of_kind(objects(), "Deployment")
    for name, port in (("team", 50051), ("gateway", 50051), ("control-plane", 50050)):
        probed = container(deployments[name])
        assert probed["startupProbe"]["grpc"] == probed["livenessProbe"]["grpc"] == {"port": port}
        assert probed["readinessProbe"]["grpc"] == {"port": port} | ({"service": name} if name == "team" else {})


def test_the_model_server_is_probed_by_http():
    probed = container(of_kind(objects(), "Deployment")["model-server"])
    assert probed["readinessProbe"]["httpGet"] == {"path": "/health", "port": 8080}


def test_a_pod_goes_on_serving_while_others_hear_of_its_end_and_has_time_to_drain():
    pod = of_kind(objects(), "Deployment")["team"]["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause + 10 < pod["terminationGracePeriodSeconds"]


def test_agents_are_told_where_the_control_plane_and_the_model_are_and_what_to_advertise():
    environment = {
        each["name"]: each.get("value") for each in container(of_kind(objects(), "Deployment")["team"])["env"]
    }
    assert environment["AIXGO_CONTROL_PLANE"] == "control-plane:50050"
    assert environment["AIXGO_LOCAL_MODEL_URL"] == "http://model-server:8080/v1"
    assert environment["AIXGO_LISTEN"] == "0.0.0.0:50051"
    assert environment["AIXGO_ADVERTISE_ADDRESS"] == "$(POD_IP):50051"


def test_only_what_serves_agents_sees_keys_code_and_configuration():
    for name, deployment in of_kind(objects(), "Deployment").items():
        volumes = {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}
        serves = name in {"team", "ticket", "triage"}
        assert ("envFrom" in container(deployment)) == ("config" in volumes) == serves


def test_keys_need_not_exist():
    secret = container(of_kind(objects(), "Deployment")["team"])["envFrom"]
    assert secret == [{"secretRef": {"name": "aixgo-keys", "optional": True}}]


def test_a_variable_of_the_environment_is_not_written_into_the_manifests():
    text = DESK.replace("role: llm,", 'role: llm, prompt: "${SECRET}",')
    config = loads(text, variables={"SECRET": "hunter2"})
    files = kubernetes_files(config, plan_containers(config, Source("desk", text)))
    written = "".join(to_yaml(each) for each in files.values())
    assert "hunter2" not in written
    assert "${SECRET}" in written


def test_a_new_configuration_or_module_rolls_the_pods():
    def digests(text: str, modules: dict[str, str]) -> set[str]:
        deployments = of_kind(objects(text, modules=modules), "Deployment").values()
        found = [each["spec"]["template"]["metadata"].get("annotations", {}) for each in deployments]
        return {each["aixgo.dev/config"] for each in found if each}

    seen = [
        digests(DESK, {}),
        digests(DESK + "# more\n", {}),
        digests(DESK, {"desk.py": "a"}),
        digests(DESK, {"desk.py": "b"}),
    ]
    assert all(len(each) == 1 for each in seen)
    assert len(set.union(*seen)) == 4


def test_agents_have_headless_services_and_the_gateway_one_address():
    services = of_kind(objects(), "Service")
    assert {name for name, each in services.items() if each["spec"].get("clusterIP") == "None"} == {
        "team",
        "ticket",
        "triage",
    }


def test_without_an_embedded_model_there_is_no_model_server():
    made = objects(DESK.replace("local/smollm2-135m", "test/echo"))
    assert "model-server" not in of_kind(made, "Deployment")
    assert "model-server" not in of_kind(made, "NetworkPolicy")
    assert "AIXGO_LOCAL_MODEL_URL" not in {
        each["name"] for each in container(of_kind(made, "Deployment")["team"])["env"]
    }


def test_nothing_may_talk_unless_it_is_said():
    denied = policies()["default-deny"]
    assert denied == {
        "podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "desk"}},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_only_the_gateway_may_be_called_from_outside():
    assert [
        name for name, each in policies().items() if any("from" not in rule for rule in each.get("ingress", []))
    ] == ["gateway"]


def test_agents_reach_the_ports_of_what_the_configuration_names():
    text = DESK.replace("local/smollm2-135m", "ollama/llama3.2").replace(
        "deployment: {", 'deployment: {mode: distributed, connect: {far: "host:7000", near: "dns:///near:7001"}, '
    )
    assert [each["port"] for each in policies(text)["agents-egress"]["egress"][0]["ports"]] == [443, 7000, 7001, 11434]
    assert [each["port"] for each in policies()["agents-egress"]["egress"][0]["ports"]] == [443]


@pytest.mark.parametrize(
    ("url", "port"), [("http://collector:4317", 4317), ("http://collector/v1", 80), ("https://collector", 443)]
)
def test_agents_reach_the_collector_of_their_telemetry(url: str, port: int):
    agents = (AgentSpec(name="team", role="llm"),)
    config = Config(version=2, agents=agents, observability=ObservabilitySpec(otlp=url))
    assert set(outside_ports(config)) == {443, port}


def test_a_namespace_holds_everything_and_enforces_the_restricted_standard():
    first, *others = objects(namespace="agents")
    assert first["kind"] == "Namespace"
    assert first["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert {each["metadata"]["namespace"] for each in others} == {"agents"}
    assert "namespace" not in objects()[0]["metadata"]


def test_what_lies_in_folders_is_mounted_by_its_path_though_a_configmap_has_none():
    folders = {"handbook": {"leave/sick.md": "ill"}, "manual.pdf": None}
    source = Source("desk", DESK, {"desk.py": "", "a b.yaml": "- text: x"}, folders)
    made = kubernetes_objects(kubernetes_files(loads(DESK), plan_containers(loads(DESK), source)))
    data = of_kind(made, "ConfigMap")["aixgo-config"]["data"]
    volumes = of_kind(made, "Deployment")["team"]["spec"]["template"]["spec"]["volumes"]
    items = next(volume["configMap"]["items"] for volume in volumes if volume["name"] == "config")
    assert all(re.fullmatch(r"[-._A-Za-z0-9]+", key) for key in data)
    assert {item["path"]: data[item["key"]] for item in items} == {
        "fleet.yaml": DESK,
        "desk.py": "",
        "a b.yaml": "- text: x",
        "handbook/leave/sick.md": "ill",
    }


@given(st.lists(st.text(min_size=1, max_size=300), unique=True, max_size=8))
def test_every_path_has_a_key_of_its_own(paths: list[str]):
    keys = config_keys(paths)
    assert list(keys) == paths
    assert len(set(keys.values())) == len(paths)
    assert all(re.fullmatch(r"[-._A-Za-z0-9]{1,253}", key) for key in keys.values())


def test_a_file_that_would_hide_the_yaml_is_refused():
    with pytest.raises(ConfigError, match=r"fleet\.yaml is what the YAML itself is called"):
        plan_containers(loads(DESK), Source("desk", DESK, {"fleet.yaml": ""}))


ALONE = """\
version: 2
agents:
  - {name: clock, role: producer, config: {interval: 1m}, outputs: [{target: library}]}
  - {name: library, role: retriever, config: {store: vectors}}
  - {name: shared, role: retriever, config: {store: "http://qdrant:6333"}}
"""


def test_what_must_be_alone_is_neither_scaled_nor_doubled_while_it_is_replaced():
    made = objects(ALONE)
    assert set(of_kind(made, "HorizontalPodAutoscaler")) == {"gateway", "shared"}
    for name in ("clock", "library"):
        spec = of_kind(made, "Deployment")[name]["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert "replicas" not in of_kind(made, "Deployment")["shared"]["spec"]


def test_an_agent_that_embeds_texts_itself_has_the_memory_for_the_model():
    made = of_kind(objects(ALONE), "Deployment")
    limits = {name: container(each)["resources"]["limits"]["memory"] for name, each in made.items()}
    assert (limits["library"], limits["clock"]) == ("1Gi", "512Mi")


@pytest.mark.parametrize(
    ("added", "ports"),
    [
        ("sessions: {store: memory}", [443]),
        ("sessions: {store: 'postgresql://u:p@db/x'}", [443, 5432]),
        ("sessions: {store: 'postgresql://u:p@a:5433,b:5434/x'}", [443, 5433, 5434]),
        ("sessions: {store: 'sqlite:///sessions.db'}", [443, 5432]),
        ("tools: [{name: files, mcp: {url: 'http://files:8000/mcp'}}]", [443, 8000]),
    ],
)
def test_agents_reach_where_sessions_and_tools_are(added: str, ports: list[int]):
    config = loads(f"{DESK}{added}\n")
    plan = plan_containers(config, Source("desk", ""), sessions=session_place(config, Settings()))
    rules = of_kind(kubernetes_objects(kubernetes_files(config, plan)), "NetworkPolicy")["agents-egress"]["spec"]
    assert [each["port"] for each in rules["egress"][0]["ports"]] == ports


@pytest.mark.parametrize(
    ("url", "ports"),
    [("memory", []), ("nats://mq", [4222]), ("nats://a:1,nats://b:2", [1, 2]), ("sqlite:///mail.db", [4222])],
)
def test_agents_and_the_gateway_reach_the_mailboxes(url: str, ports: list[int]):
    config = loads(f"{DESK}mailbox: {{url: '{url}'}}\n")
    plan = plan_containers(config, Source("desk", ""), mailboxes=mailbox_place(config, Settings()))
    rules = of_kind(kubernetes_objects(kubernetes_files(config, plan)), "NetworkPolicy")
    agents = [each["port"] for each in rules["agents-egress"]["spec"]["egress"][0]["ports"]]
    assert agents == sorted([443, *ports])
    sent = [each["port"] for each in rules["gateway-egress"]["spec"]["egress"][0]["ports"]] if ports else []
    assert (sent, "gateway-egress" in rules) == (ports, bool(ports))


def test_agents_reach_the_server_that_has_the_documents():
    assert outside_ports(loads(ALONE)) == [443, 6333]


def test_what_is_too_large_to_be_mounted_is_refused():
    with pytest.raises(ConfigError, match="put the modules into an image"):
        objects(modules={"desk.py": "#" * 1024 * 1024})
