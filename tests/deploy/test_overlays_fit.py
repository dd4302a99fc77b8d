"""The parts of each overlay fit together: variables, ports, probes, certificates, Services and NetworkPolicies.

What a process makes of its variables is asked of the code that it runs. No cluster takes part: what a kubelet, a
network plug-in and cert-manager do with these objects is theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from aixgo.config.settings import PREFIX, Settings
from aixgo.security.rules import Rules
from aixgo.security.settings import TlsMode

from tests.deploy.conftest import Run
from tests.deploy.fleets import of_kind
from tests.deploy.policies import connects, selects
from tests.tools.render_deploy import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
BOTH = "mtls and nats"
"""An overlay with both components, made here."""
OVERLAYS = ["base", "overlays/dev", "overlays/prod", "overlays/mtls", "overlays/nats", BOTH]
SECURED = ["overlays/mtls", BOTH]
ISSUED = {"tls.crt", "tls.key", "ca.crt"}
"""What cert-manager puts into the Secret of a Certificate."""
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
STRANGER = {"app.kubernetes.io/name": "stranger"}
Objects = list[dict[str, Any]]
Build = Callable[[str], Objects]


@pytest.fixture(scope="module")
def built(kubectl: Run, tmp_path_factory: pytest.TempPathFactory) -> Build:
    @cache
    def build(folder: str) -> Objects:
        place = both(tmp_path_factory.mktemp("both")) if folder == BOTH else KUBERNETES / folder
        return list(yaml.safe_load_all(kubectl("kustomize", place)))

    return build


def both(folder: Path) -> Path:
    """An overlay with both components, as their comments have it."""
    near = os.path.relpath(KUBERNETES, folder)
    parts = {"resources": [f"{near}/base"], "components": [f"{near}/components/{name}" for name in ("mtls", "nats")]}
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "aixgo"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(head | parts))
    return folder


class Pod:
    """The pods of one workload: their labels, their one container and what it is told."""

    def __init__(self, workload: dict[str, Any]) -> None:
        template = workload["spec"]["template"]
        (self.container,) = template["spec"]["containers"]
        self.name: str = workload["metadata"]["name"]
        self.labels: dict[str, str] = template["metadata"]["labels"]
        self.volumes: list[dict[str, Any]] = template["spec"].get("volumes", [])
        given = {each["name"]: str(each.get("value", "10.0.0.7")) for each in self.container.get("env", [])}
        self.variables = {name: text.replace("$(POD_IP)", given.get("POD_IP", "")) for name, text in given.items()}
        self.ports: dict[str, int] = {each["name"]: each["containerPort"] for each in self.container["ports"]}

    @property
    def component(self) -> str:
        """What it is to the fleet."""
        return self.labels["app.kubernetes.io/component"]

    @property
    def in_mesh(self) -> bool:
        """Whether it is a process of the mesh, and no server beside it."""
        return self.component not in {"model-server", "mailboxes"}

    @property
    def settings(self) -> Settings:
        """What its process makes of its variables."""
        return Settings.read(self.variables)


def pods(objects: Objects) -> list[Pod]:
    workloads = of_kind(objects, "Deployment") | of_kind(objects, "StatefulSet")
    return [Pod(each) for each in workloads.values()]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def destinations(pod: Pod) -> Iterator[tuple[str, int]]:
    """The Services (host, port) that the variables of a pod name."""
    settings = pod.settings
    yield from ((host, int(port)) for host, _, port in (each.rpartition(":") for each in settings.control_plane))
    urls = [settings.local_model_url, settings.mailbox.get_secret_value() if settings.mailbox else ""]
    for url in map(urlsplit, filter(None, urls)):
        assert url.hostname is not None
        assert url.port is not None
        yield url.hostname, url.port


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_variable_is_one_that_processes_read_and_has_a_value_that_they_take(folder: str, built: Build):
    for pod in pods(built(folder)):
        ours = {name for name in pod.variables if name.startswith(PREFIX)}
        assert ours <= {PREFIX + name.upper() for name in Settings.model_fields}, pod.name
        assert pod.settings.security().tls == (folder in SECURED and pod.in_mesh), pod.name


@pytest.mark.parametrize("folder", OVERLAYS)
def test_probes_ask_ports_that_speak_plain_text(folder: str, built: Build):
    for pod in pods(built(folder)):
        actions = [probe.get("grpc") or probe["httpGet"] for probe in (pod.container[each] for each in PROBES)]
        (port,) = {pod.ports.get(str(action["port"]), action["port"]) for action in actions}
        assert port in pod.ports.values(), pod.name
        if not pod.in_mesh:
            continue
        told = pod.settings
        assert port == (told.health_port if told.security().tls else port_of(told.listen)), pod.name
        assert told.health_port != port_of(told.listen), pod.name
        assert port_of(told.listen) == pod.ports["grpc"], pod.name


@pytest.mark.parametrize("folder", OVERLAYS)
def test_what_a_variable_names_is_a_service_whose_pods_listen_there_and_may_be_reached(folder: str, built: Build):
    objects = built(folder)
    services, policies = of_kind(objects, "Service"), of_kind(objects, "NetworkPolicy").values()
    everybody = pods(objects)
    reached: set[str] = set()
    for pod in everybody:
        for host, port in destinations(pod):
            service = services[host]["spec"]
            (found,) = (each for each in service["ports"] if each["port"] == port)
            for target in (each for each in everybody if selects({"matchLabels": service["selector"]}, each.labels)):
                reached.add(target.name)
                assert target.ports[found["targetPort"]] == port, f"{pod.name} to {target.name}"
                assert connects(policies, pod.labels, target.labels, port), f"{pod.name} to {target.name}"
    assert reached == {"control-plane", "model-server", *(["nats"] if "nats" in folder else [])}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_service_tells_proxies_what_its_pods_speak(folder: str, built: Build):
    objects = built(folder)
    components = {pod.name: pod for pod in pods(objects)}
    for name, service in of_kind(objects, "Service").items():
        (port,) = service["spec"]["ports"]
        if components[name].in_mesh:
            assert port["appProtocol"] == ("https" if folder in SECURED else "kubernetes.io/h2c"), name


@pytest.mark.parametrize("folder", OVERLAYS)
def test_agents_are_reached_by_the_mesh_at_what_they_advertise_and_by_nobody_else(folder: str, built: Build):
    objects = built(folder)
    policies, everybody = of_kind(objects, "NetworkPolicy").values(), pods(objects)
    for agent in (pod for pod in everybody if pod.component in {"agent", "orchestration"}):
        assert agent.settings.advertise_address is not None
        port = port_of(agent.settings.advertise_address)
        assert port == agent.ports["grpc"]
        for other in everybody:
            assert connects(policies, other.labels, agent.labels, port) == other.in_mesh, f"{other.name} {agent.name}"
        assert not connects(policies, STRANGER, agent.labels, port)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_strangers_reach_the_gateway_and_nobody_reaches_a_port_that_is_for_the_node(folder: str, built: Build):
    """The node of a pod always reaches it: probes need no policy, and none lets others in there."""
    objects = built(folder)
    policies, everybody = of_kind(objects, "NetworkPolicy").values(), pods(objects)
    let_in = (
        (pod.name, port)
        for pod in everybody
        for port in pod.ports.values()
        if connects(policies, STRANGER, pod.labels, port)
    )
    assert {*let_in} == {("gateway", 50051)}
    for pod in everybody:
        for port in (pod.ports[name] for name in ("health", "monitor") if name in pod.ports):
            assert not any(connects(policies, other.labels, pod.labels, port) for other in everybody), pod.name


@pytest.mark.parametrize("folder", OVERLAYS)
def test_every_policy_selects_somebody(folder: str, built: Build):
    objects = built(folder)
    for name, policy in of_kind(objects, "NetworkPolicy").items():
        assert any(selects(policy["spec"]["podSelector"], pod.labels) for pod in pods(objects)), name


@pytest.mark.parametrize("folder", SECURED)
def test_the_files_that_processes_read_are_those_of_a_certificate_that_is_issued_for_them(folder: str, built: Build):
    objects = built(folder)
    issued = {each["spec"]["secretName"] for each in of_kind(objects, "Certificate").values()}
    for pod in (each for each in pods(objects) if each.in_mesh):
        security = pod.settings.security()
        assert security.tls_mode is TlsMode.MTLS
        assert not security.allow_insecure
        (folder_of,) = {path.parent for path in security.files().values()}
        (mount,) = (each for each in pod.container["volumeMounts"] if each["mountPath"] == str(folder_of))
        (volume,) = (each for each in pod.volumes if each["name"] == mount["name"])
        assert mount["readOnly"]
        assert volume["secret"]["secretName"] in issued
        assert volume["secret"].get("items") is None
        assert {path.name for path in security.files().values()} == ISSUED


@pytest.mark.parametrize("folder", SECURED)
def test_each_certificate_lets_its_agent_register_its_own_name_and_nothing_else(folder: str, built: Build):
    objects = built(folder)
    everybody = {pod.name: pod for pod in pods(objects)}
    rules = everybody["control-plane"].settings.security().allow_register
    agents = {name for name, pod in everybody.items() if pod.component in {"agent", "orchestration"}}
    for name, certificate in of_kind(objects, "Certificate").items():
        uris = certificate["spec"].get("uris", [])
        allowed = {each for each in agents if rules.allows(uris, each)}
        assert allowed == ({name} & agents), name
    assert not Rules.parse(everybody["control-plane"].variables["AIXGO_ALLOW_REGISTER"]).allows(
        ["spiffe://elsewhere/agent/team"], "team"
    )


@pytest.mark.parametrize("folder", SECURED)
def test_every_issuer_that_a_certificate_names_is_there_and_signs_with_what_was_issued(folder: str, built: Build):
    objects = built(folder)
    issuers, certificates = of_kind(objects, "Issuer"), of_kind(objects, "Certificate")
    authorities = {each["spec"]["secretName"] for each in certificates.values() if each["spec"].get("isCA")}
    for certificate in certificates.values():
        issuer = issuers[certificate["spec"]["issuerRef"]["name"]]["spec"]
        assert ("selfSigned" in issuer) == bool(certificate["spec"].get("isCA"))
        assert "selfSigned" in issuer or issuer["ca"]["secretName"] in authorities
