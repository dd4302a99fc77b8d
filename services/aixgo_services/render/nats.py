"""Mailboxes that last for a fleet on Kubernetes, as a kustomize component over its manifests: one NATS server.

Owns the server, what it keeps its messages on, who may reach it, and what changes in the pods that send and receive.
Below: `fleet.py`, `pods.py`, `policies.py`. Above: what is rendered under deploy/. One server is one node's: a cluster
of three comes by NATS' own chart, and then AIXGO_MAILBOX names that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aixgo_services.needs.keeping import NATS_PORT
from aixgo_services.render.fleet import Component
from aixgo_services.render.pods import USER, Resources
from aixgo_services.render.policies import policy_for

if TYPE_CHECKING:
    from aixgo_services.render.documents import Document
    from aixgo_services.render.fleet import FleetPlan, Workload

NATS, IMAGE = "nats", "nats:2.11-alpine"
URL = f"nats://{NATS}:{NATS_PORT}"
"""Where processes find it: the Service, by its name in their namespace."""
ROLE = "mailboxes"
"""What it is to the fleet: its label `app.kubernetes.io/component`."""
FOLDER = "/data"
"""Where its streams lie, on a volume of its own."""
STORAGE = "10Gi"
MONITOR_PORT = 8222
"""Where the server tells probes how it is."""
GRACE_SECONDS = 60
"""For writing what it has in memory when it is told to stop."""
RESOURCES = Resources("100m", "128Mi", "1", "512Mi")


def nats_files(plan: FleetPlan) -> dict[str, list[Document]]:
    """The component's documents by file name, `kustomization.yaml` among them."""
    told = [
        workload
        for workload in plan.workloads
        if workload.component.serves_agents or workload.component is Component.GATEWAY
    ]
    return {
        "kustomization.yaml": [_component()],
        "nats.yaml": [_service_account(plan), _service(plan), _server(plan), _policy(plan)],
        "workloads.yaml": [_patch(workload) for workload in told],
    }


def _component() -> Document:
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": ["nats.yaml"],
        "patches": [{"path": "workloads.yaml"}],
    }


def _selector(plan: FleetPlan) -> dict[str, str]:
    return {"app.kubernetes.io/name": NATS, "app.kubernetes.io/part-of": plan.name}


def _metadata(plan: FleetPlan) -> Document:
    return {"name": NATS, "labels": _selector(plan) | {"app.kubernetes.io/component": ROLE}}


def _service_account(plan: FleetPlan) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(plan),
        "automountServiceAccountToken": False,
    }


def _service(plan: FleetPlan) -> Document:
    """Headless, as a StatefulSet wants it: there is one server."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(plan),
        "spec": {
            "clusterIP": "None",
            "selector": _selector(plan),
            "ports": [{"name": NATS, "port": NATS_PORT, "targetPort": NATS}],
        },
    }


def _server(plan: FleetPlan) -> Document:
    volume = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": STORAGE}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": _metadata(plan),
        "spec": {
            "serviceName": NATS,
            "replicas": 1,
            "selector": {"matchLabels": _selector(plan)},
            "template": {"metadata": {"labels": _metadata(plan)["labels"]}, "spec": _pod()},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": volume}],
        },
    }


def _pod() -> Document:
    return {
        "serviceAccountName": NATS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [_container()],
    }


def _container() -> Document:
    return {
        "name": NATS,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--jetstream", f"--store_dir={FOLDER}", f"--port={NATS_PORT}", f"--http_port={MONITOR_PORT}"],
        "ports": [
            {"name": NATS, "containerPort": NATS_PORT},
            {"name": "monitor", "containerPort": MONITOR_PORT},
        ],
        "startupProbe": _probe("", period=5, failures=60),  # it reads all that it has kept first
        "readinessProbe": _probe("?js-server-only=true", period=5, failures=2),
        "livenessProbe": _probe("?js-enabled-only=true", period=10, failures=3),
        "resources": RESOURCES.document(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "data", "mountPath": FOLDER}],
    }


def _probe(question: str, *, period: int, failures: int) -> Document:
    asked = {"path": f"/healthz{question}", "port": "monitor"}
    return {"httpGet": asked, "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures}


def _policy(plan: FleetPlan) -> Document:
    """Who sends and who receives may reach it, and nobody else: it asks nobody who they are."""
    callers = (Component.AGENT, Component.ORCHESTRATION, Component.GATEWAY)
    return policy_for(NATS, plan, [ROLE], callers=callers, port=NATS_PORT)


def _patch(workload: Workload) -> Document:
    """What changes in a workload, as a strategic merge."""
    container = {"name": "aixgo", "env": [{"name": "AIXGO_MAILBOX", "value": URL}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": workload.name},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
