"""The Compose file: any valid configuration gives services that start in order and have no rights."""

from __future__ import annotations

from typing import Any

import yaml
from aixgo.config.load import loads
from aixgo.config.schema import Config
from aixgo_services.render.compose import compose_document
from aixgo_services.render.documents import to_yaml
from aixgo_services.render.fleet import Source, plan_containers
from hypothesis import given, settings

from tests.deploy.fleets import configs, sources

DESK = """\
version: 2
agents:
  - {name: team, role: llm, model: local/smollm2-135m}
  - {name: My_Ticket, role: "desk:Ticket"}
orchestration: {name: triage, pattern: parallel, agents: [team]}
deployment: {agents: {team: {replicas: 2}}}
"""


def compose(text: str = DESK) -> dict[str, Any]:
    plan = plan_containers(loads(text), Source("desk", text, {"desk.py": ""}))
    return compose_document(plan, {"fleet.yaml": "./desk.yaml", "desk.py": "./$code/desk.py"})


@settings(max_examples=50, deadline=None)
@given(configs(), sources())
def test_every_name_has_a_service_that_is_ready_after_what_it_needs(config: Config, source: Source):
    document = compose_document(plan_containers(config, source), {name: f"./{name}" for name in source.files})
    services = document["services"]
    seen: set[str] = set()
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= seen
        seen.add(name)
    served = [
        word.removeprefix("--agent=") for each in services.values() for word in each["command"] if "--agent=" in word
    ]
    assert served == list(config.names)
    assert yaml.safe_load(to_yaml([document])) == document


@settings(max_examples=50, deadline=None)
@given(configs(), sources())
def test_no_service_may_write_or_gain_rights(config: Config, source: Source):
    document = compose_document(plan_containers(config, source), {name: f"./{name}" for name in source.files})
    for service in document["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_replicas_are_the_yamls_and_nothing_stands_in_the_way_of_more():
    services = compose()["services"]
    assert services["team"]["deploy"]["replicas"] == 2
    assert not any(key in services["team"] for key in ("container_name", "ports"))


def test_only_the_gateway_is_published_and_only_to_this_machine():
    published = {name: each["ports"] for name, each in compose()["services"].items() if "ports" in each}
    assert published == {"gateway": ["127.0.0.1:${AIXGO_GATEWAY_PORT:-50051}:50051"]}


def test_the_yaml_and_the_modules_beside_it_are_mounted_where_agents_are_served():
    document = compose()
    assert document["configs"] == {"fleet-yaml": {"file": "./desk.yaml"}, "desk-py": {"file": "./$$code/desk.py"}}
    targets = [each["target"] for each in document["services"]["team"]["configs"]]
    assert targets == ["/etc/aixgo/fleet.yaml", "/etc/aixgo/desk.py"]
    assert "configs" not in document["services"]["gateway"]


def test_keys_come_from_a_file_that_may_be_missing():
    with_keys = [name for name, each in compose()["services"].items() if each.get("env_file")]
    assert [name.partition("-")[0] for name in with_keys] == ["team", "my", "triage"]
    assert compose()["services"]["team"]["env_file"] == [{"path": ".env", "required": False}]


def test_agents_start_when_the_control_plane_and_the_model_are_healthy():
    needed = compose()["services"]["team"]["depends_on"]
    assert needed == {name: {"condition": "service_healthy"} for name in ("control-plane", "model-server")}
