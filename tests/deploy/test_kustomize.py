"""The base and its overlays, as kubectl puts them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.deploy.conftest import Run
from tests.deploy.fleets import of_kind, violations
from tests.tools.render_deploy import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
AGENTS = {"team", "sentiment", "urgency", "ticket", "triage"}
Objects = list[dict[str, Any]]


@pytest.fixture
def built(kubectl: Run) -> Callable[[str], Objects]:
    return lambda folder: list(yaml.safe_load_all(kubectl("kustomize", KUBERNETES / folder)))


@pytest.mark.parametrize("folder", ["base", "overlays/dev", "overlays/prod", "overlays/mtls", "overlays/nats"])
def test_it_builds_into_valid_objects_that_pass_the_restricted_standard(
    folder: str, built: Callable[[str], Objects], validate: Callable[[Objects], None]
):
    objects = built(folder)
    assert of_kind(objects, "Deployment").keys() == {*AGENTS, "gateway", "control-plane", "model-server"}
    assert list(violations(objects)) == []
    validate([each for each in objects if not each["apiVersion"].startswith("cert-manager.io/")])


@pytest.mark.parametrize(
    ("folder", "namespace"),
    [("overlays/dev", "aixgo-dev"), ("overlays/prod", "aixgo"), ("overlays/mtls", "aixgo"), ("overlays/nats", "aixgo")],
)
def test_an_overlay_is_a_namespace_of_its_own_that_enforces_the_standard(
    folder: str, namespace: str, built: Callable[[str], Objects]
):
    objects = built(folder)
    (own,) = of_kind(objects, "Namespace").values()
    assert own["metadata"]["name"] == namespace
    assert own["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"]["namespace"] for each in objects if each is not own} == {namespace}


def test_dev_is_one_of_everything_without_autoscaling(built: Callable[[str], Objects]):
    objects = built("overlays/dev")
    assert {each["spec"]["replicas"] for each in of_kind(objects, "Deployment").values()} == {1}
    assert not of_kind(objects, "HorizontalPodAutoscaler")
    assert not of_kind(objects, "PodDisruptionBudget")


def test_prod_has_at_least_three_of_all_that_scales_on_different_nodes(built: Callable[[str], Objects]):
    objects = built("overlays/prod")
    scalers = of_kind(objects, "HorizontalPodAutoscaler")
    assert scalers.keys() == of_kind(objects, "PodDisruptionBudget").keys() == {*AGENTS, "gateway"}
    assert {each["spec"]["minReplicas"] for each in scalers.values()} == {3}
    for name, deployment in of_kind(objects, "Deployment").items():
        on_nodes = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"][0]
        assert (on_nodes["whenUnsatisfiable"] == "DoNotSchedule") == (name in scalers)
        assert ("replicas" in deployment["spec"]) != (name in scalers)


def test_with_mtls_every_process_of_the_mesh_has_a_certificate_of_its_own(built: Callable[[str], Objects]):
    objects = built("overlays/mtls")
    issued = {
        each["spec"]["secretName"]: each["spec"]
        for each in of_kind(objects, "Certificate").values()
        if not each["spec"].get("isCA")
    }
    for name, deployment in of_kind(objects, "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        environment = {each["name"]: each.get("value", "") for each in pod["containers"][0]["env"]}
        if name == "model-server":
            assert environment["AIXGO_ALLOW_INSECURE"] == "1"
            continue
        assert "AIXGO_ALLOW_INSECURE" not in environment
        (secret,) = (each["secret"]["secretName"] for each in pod["volumes"] if "secret" in each)
        (uri,) = issued.pop(secret)["uris"]
        kind = "agent" if name in AGENTS else "service"
        assert uri == f"spiffe://aixgo.internal/{kind}/{name}"
        (mount,) = (each["mountPath"] for each in pod["containers"][0]["volumeMounts"] if each["name"] == "tls")
        assert {environment[f"AIXGO_TLS_{kind}_FILE"] for kind in ("CA", "CERT", "KEY")} == {
            f"{mount}/{file}" for file in ("ca.crt", "tls.crt", "tls.key")
        }
    assert issued == {}


def test_with_mtls_certificates_have_the_name_that_is_asked_for_and_probes_need_none(
    built: Callable[[str], Objects],
):
    objects = built("overlays/mtls")
    names = {
        name: each["spec"]["dnsNames"]
        for name, each in of_kind(objects, "Certificate").items()
        if not each["spec"].get("isCA")
    }
    for name, deployment in of_kind(objects, "Deployment").items():
        if name == "model-server":
            continue
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        environment = {each["name"]: each.get("value", "") for each in container["env"]}
        assert all(environment["AIXGO_TLS_SERVER_NAME"] in listed for listed in names.values())
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert str(container[probe]["grpc"]["port"]) == environment["AIXGO_HEALTH_PORT"]
        assert container["readinessProbe"]["grpc"].get("service", "") == (name if name in AGENTS else "")


def test_with_nats_whoever_sends_or_receives_is_told_of_a_server_that_only_they_reach(built: Callable[[str], Objects]):
    objects = built("overlays/nats")
    (server,) = of_kind(objects, "StatefulSet").values()
    service, policy = of_kind(objects, "Service")["nats"]["spec"], of_kind(objects, "NetworkPolicy")["nats"]["spec"]
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["podSelector"]["matchExpressions"][0]["values"] == [labels["app.kubernetes.io/component"]]
    (rule,) = policy["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 4222}]
    assert service["ports"][0]["port"] == 4222
    reaching = rule["from"][0]["podSelector"]["matchExpressions"][0]["values"]
    for deployment in of_kind(objects, "Deployment").values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        environment = {each["name"]: each.get("value", "") for each in container["env"]}
        sends = deployment["metadata"]["labels"]["app.kubernetes.io/component"] in reaching
        assert environment.get("AIXGO_MAILBOX", "") == ("nats://nats:4222" if sends else "")
        assert container["image"] == ("aixgo-model:latest" if "model" in container["image"] else "aixgo:nats")


def test_the_server_keeps_its_messages_on_a_volume_of_its_own(built: Callable[[str], Objects]):
    (server,) = of_kind(built("overlays/nats"), "StatefulSet").values()
    (container,) = server["spec"]["template"]["spec"]["containers"]
    (claim,) = server["spec"]["volumeClaimTemplates"]
    (mount,) = container["volumeMounts"]
    assert mount["name"] == claim["metadata"]["name"]
    assert f"--store_dir={mount['mountPath']}" in container["args"]
    assert "--jetstream" in container["args"]


def test_prod_takes_its_images_from_a_registry_by_version(built: Callable[[str], Objects]):
    for deployment in of_kind(built("overlays/prod"), "Deployment").values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith("registry.example.com/")
        assert not container["image"].endswith(":latest")
