"""A fleet as Kubernetes manifests, ready for kustomize.

Owns which objects a workload has and how they are laid out in files. Below: `pods.py`, `policies.py`, `fleet.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aixgo.errors import ConfigError

from aixgo_services.render.fleet import Component
from aixgo_services.render.names import config_keys
from aixgo_services.render.pods import CONFIG, deployment, labels, selector
from aixgo_services.render.policies import network_policies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aixgo.config.schema import Config

    from aixgo_services.render.documents import Document
    from aixgo_services.render.fleet import FleetPlan, Workload

KUSTOMIZATION = "kustomization.yaml"
GROWTH = 4
"""An autoscaler starts at the replicas of the YAML and goes up to so many times as many."""
LARGEST_CONFIG = 1024 * 1024
"""Bytes that a ConfigMap may hold."""
CPU_PERCENT = 70
"""The share of its CPU request that an autoscaler holds a pod at."""


def kubernetes_files(config: Config, plan: FleetPlan, *, namespace: str = "") -> dict[str, list[Document]]:
    """Documents by file name, `kustomization.yaml` among them: a file for each workload and for what they share.

    With a `namespace` all objects are in it, and it is among them, with the restricted pod standard enforced. Raises
    ConfigError when what is to be mounted is too large for a ConfigMap.
    """
    files = {"config.yaml": [_config_map(plan)], "network-policies.yaml": network_policies(config, plan)}
    files |= {f"{_title(workload)}.yaml": _objects(workload, plan) for workload in plan.workloads}
    if namespace:
        placed = {name: [_placed(one, namespace) for one in documents] for name, documents in files.items()}
        files = {"namespace.yaml": [_namespace(namespace)]} | placed
    return {KUSTOMIZATION: [_kustomization(files)]} | dict(sorted(files.items()))


def kubernetes_objects(files: Mapping[str, list[Document]]) -> list[Document]:
    """The objects of `kubernetes_files` in one row, without the kustomization; the namespace first."""
    order = sorted(files.keys() - {KUSTOMIZATION}, key=lambda name: (name != "namespace.yaml", name))
    return [document for name in order for document in files[name]]


def _title(workload: Workload) -> str:
    return f"{workload.component}-{workload.name}" if workload.component.serves_agents else workload.name


def _objects(workload: Workload, plan: FleetPlan) -> list[Document]:
    objects = [_service_account(workload, plan), _service(workload, plan), deployment(workload, plan)]
    if workload.scales:
        objects.append(_autoscaler(workload, plan))
    if workload.scales or workload.component.serves_agents:
        objects.append(_disruption_budget(workload, plan))
    return objects


def _service_account(workload: Workload, plan: FleetPlan) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": workload.name, "labels": labels(workload, plan)},
        "automountServiceAccountToken": False,
    }


def _service(workload: Workload, plan: FleetPlan) -> Document:
    """Headless for agents: callers choose among the instances themselves, so they must see all of them."""
    is_model = workload.component is Component.MODEL_SERVER
    port = {
        "name": "http" if is_model else "grpc",
        "port": workload.port,
        "targetPort": "http" if is_model else "grpc",
        "appProtocol": "http" if is_model else "kubernetes.io/h2c",
    }
    headless = {"clusterIP": "None"} if workload.component.serves_agents else {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": workload.name, "labels": labels(workload, plan)},
        "spec": headless | {"selector": selector(workload, plan), "ports": [port]},
    }


def _autoscaler(workload: Workload, plan: FleetPlan) -> Document:
    target = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": workload.name, "labels": labels(workload, plan)},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.name},
            "minReplicas": workload.replicas,
            "maxReplicas": workload.replicas * GROWTH,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    }


def _disruption_budget(workload: Workload, plan: FleetPlan) -> Document:
    """At most one pod at a time leaves by choice; `minAvailable: 1` would hold up nodes where there is one replica."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": workload.name, "labels": labels(workload, plan)},
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(workload, plan)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _config_map(plan: FleetPlan) -> Document:
    texts = plan.source.texts
    size = sum(len(name) + len(text.encode()) for name, text in texts.items())
    if size > LARGEST_CONFIG:
        raise ConfigError(
            f"the YAML and what lies beside it have {size} bytes, a ConfigMap holds {LARGEST_CONFIG};"
            " put the modules into an image: FROM aixgo, COPY . /app; and documents into a Qdrant server"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG, "labels": {"app.kubernetes.io/part-of": plan.name}},
        "data": {key: texts[path] for path, key in config_keys(texts).items()},
    }


def _namespace(name: str) -> Document:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": enforced}}


def _placed(document: Document, namespace: str) -> Document:
    metadata = {"name": document["metadata"]["name"], "namespace": namespace, **document["metadata"]}
    return {**document, "metadata": metadata}


def _kustomization(files: Mapping[str, list[Document]]) -> Document:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": sorted(files)}
