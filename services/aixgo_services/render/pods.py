"""The template of a pod, which passes the restricted pod standard, and the Deployment around it.

Below: `fleet.py`. Above: `kubernetes.py`, which adds the objects around a Deployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from aixgo_services.render.fleet import FOLDER, METRICS_PORT, Component
from aixgo_services.render.names import config_keys

if TYPE_CHECKING:
    from aixgo_services.render.documents import Document
    from aixgo_services.render.fleet import FleetPlan, Source, Workload

CONFIG, KEYS = "aixgo-config", "aixgo-keys"
"""The ConfigMap with the YAML and the modules beside it; the Secret whose entries become environment variables."""
USER = 65532
"""Who the image's processes are: nobody in particular, and not root."""
SCRAPED = {"scrape": "true", "port": str(METRICS_PORT), "path": "/metrics"}
"""What a Prometheus that looks for pods is told, by the custom of its own example configuration and Helm chart."""
PRE_STOP_SECONDS = 5
"""How long a pod that ends goes on serving, so that all who resolve names hear of it before it refuses calls."""
GRACE_SECONDS = 30
"""From the order to stop until a pod is killed: the pause above, a server's drain of 10 s, and some to spare."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What a container is promised and what it may take. One event loop uses one CPU at most."""

    cpu: str
    memory: str
    most_cpu: str
    most_memory: str

    def document(self) -> Document:
        """As Kubernetes writes it."""
        return {
            "requests": {"cpu": self.cpu, "memory": self.memory},
            "limits": {"cpu": self.most_cpu, "memory": self.most_memory},
        }


RESOURCES = {
    Component.AGENT: Resources("100m", "128Mi", "1", "512Mi"),
    Component.ORCHESTRATION: Resources("100m", "128Mi", "1", "512Mi"),
    Component.GATEWAY: Resources("100m", "128Mi", "1", "512Mi"),
    Component.CONTROL_PLANE: Resources("50m", "128Mi", "1", "256Mi"),
    Component.MODEL_SERVER: Resources("500m", "384Mi", "2", "1Gi"),
}
EMBEDDING = Resources("100m", "512Mi", "1", "1Gi")
"""For an agent that has the model of embeddings in its process, which takes about 350 MiB, and documents besides."""


def labels(workload: Workload, plan: FleetPlan) -> dict[str, str]:
    """What an object of a workload is labelled with."""
    return selector(workload, plan) | {"app.kubernetes.io/component": workload.component.value}


def selector(workload: Workload, plan: FleetPlan) -> dict[str, str]:
    """The labels that only this workload's pods have."""
    return {"app.kubernetes.io/name": workload.name, "app.kubernetes.io/part-of": plan.name}


def deployment(workload: Workload, plan: FleetPlan) -> Document:
    """The Deployment. It has no `replicas` where an autoscaler sets them: the two would fight at every apply."""
    scale = {} if workload.scales else {"replicas": workload.replicas}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": workload.name, "labels": labels(workload, plan)},
        "spec": scale
        | {
            "selector": {"matchLabels": selector(workload, plan)},
            "strategy": _strategy(workload),
            "template": {"metadata": _pod_metadata(workload, plan), "spec": _pod(workload, plan)},
        },
    }


def digest(source: Source) -> str:
    """Says which configuration a pod has, so that a new one rolls the pods."""
    joined = "\0".join(f"{name}\0{text}" for name, text in source.texts.items())
    return sha256(joined.encode()).hexdigest()[:16]


def _strategy(workload: Workload) -> Document:
    """A control plane goes before its successor comes: behind one address, two would each know a part of the fleet.
    So does an agent that must be alone.
    """
    if workload.component is Component.CONTROL_PLANE or workload.alone:
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def _pod_metadata(workload: Workload, plan: FleetPlan) -> Document:
    metadata: Document = {"labels": labels(workload, plan)}
    annotations: dict[str, str] = {}
    if workload.component.serves_agents:
        annotations = {"aixgo.dev/agent": workload.agent, "aixgo.dev/config": digest(plan.source)}
    if workload.metrics:
        annotations |= {f"prometheus.io/{key}": value for key, value in SCRAPED.items()}
    return metadata | ({"annotations": annotations} if annotations else {})


def _pod(workload: Workload, plan: FleetPlan) -> Document:
    volumes: list[Document] = [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]
    if workload.component.serves_agents:
        volumes.append({"name": "config", "configMap": {"name": CONFIG, **_items(workload, plan.source)}})
    return {
        "serviceAccountName": workload.name,
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
        "topologySpreadConstraints": [
            _spread(key, workload, plan) for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
        ],
        "containers": [_container(workload)],
        "volumes": volumes,
    }


def _items(workload: Workload, source: Source) -> Document:
    """Where the entries of the ConfigMap are mounted, when that is not under their own names; as programs, where the
    command of an MCP server may be one of them.
    """
    keys = config_keys(source.texts)
    moved = any(path != key for path, key in keys.items())
    mode = {"defaultMode": 0o555} if workload.folder else {}
    return mode | ({"items": [{"key": key, "path": path} for path, key in keys.items()]} if moved else {})


def _spread(key: str, workload: Workload, plan: FleetPlan) -> Document:
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector(workload, plan)},
    }


def _container(workload: Workload) -> Document:
    mounts: list[Document] = [{"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108  # the container's own
    container: Document = {
        "name": "aixgo",
        "image": workload.image,
        "imagePullPolicy": "IfNotPresent",
        **({"workingDir": workload.folder} if workload.folder else {}),
        "args": [part.replace("$(", "$$(") for part in workload.command],
        "env": _environment(workload),
    }
    if workload.component.serves_agents:
        container["envFrom"] = [{"secretRef": {"name": KEYS, "optional": True}}]
        mounts.append({"name": "config", "mountPath": FOLDER, "readOnly": True})
    return container | {
        "ports": _ports(workload),
        "startupProbe": {**_probe(workload), "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {
            **_probe(workload, workload.agent),
            "periodSeconds": 5,
            "timeoutSeconds": 3,
            "failureThreshold": 2,
        },
        "livenessProbe": {**_probe(workload), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "resources": (EMBEDDING if workload.embeds else RESOURCES[workload.component]).document(),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": mounts,
    }


def _environment(workload: Workload) -> list[Document]:
    told = {**dict(sorted(workload.environment.items())), "AIXGO_LOG_FORMAT": "json"}
    variables: list[Document] = [{"name": name, "value": value} for name, value in told.items()]
    if not workload.component.serves_agents:
        return variables
    pod = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    advertised = {"name": "AIXGO_ADVERTISE_ADDRESS", "value": f"$(POD_IP):{workload.port}"}
    return [*variables, pod, advertised]


def _probe(workload: Workload, agent: str = "") -> Document:
    """Asks by grpc.health.v1 for the process, or for one agent in it; the model server speaks HTTP."""
    if workload.component is Component.MODEL_SERVER:
        return {"httpGet": {"path": "/health", "port": workload.port}}
    return {"grpc": {"port": workload.port, **({"service": agent} if agent else {})}}


def _ports(workload: Workload) -> list[Document]:
    metrics = [{"name": "metrics", "containerPort": METRICS_PORT}] if workload.metrics else []
    return [{"name": _port_name(workload), "containerPort": workload.port}, *metrics]


def _port_name(workload: Workload) -> str:
    return "http" if workload.component is Component.MODEL_SERVER else "grpc"
