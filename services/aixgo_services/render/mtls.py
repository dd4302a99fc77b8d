"""mTLS for a fleet on Kubernetes, as a kustomize component over its manifests: certificates by cert-manager.

Owns which certificate each workload has, how it gets it, and what changes in its pod. Below: `fleet.py`, `pods.py`.
Above: what is rendered under deploy/. The server of the embedded model stays as it is: it speaks plain HTTP, and the
network policies let only agents reach it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aixgo_services.render.fleet import INSECURE, Component
from aixgo_services.render.pods import labels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aixgo_services.render.documents import Document
    from aixgo_services.render.fleet import FleetPlan, Workload

TRUST_DOMAIN = "aixgo.internal"
"""The first part of the fleet's SPIFFE IDs."""
SERVER_NAME = f"mesh.{TRUST_DOMAIN}"
"""A name that every certificate has: agents are dialled by the addresses of their pods, which no certificate knows."""
FOLDER = "/etc/aixgo-tls"
"""Where the certificate is mounted. Kubernetes replaces the files when it is renewed, and processes read them again."""
HEALTH_PORT = 50052
"""Where probes ask, which know no TLS."""
AUTHORITY, BOOTSTRAP = "aixgo-ca", "aixgo-selfsigned"
DURATION, RENEW_BEFORE = "720h", "240h"
"""How long a certificate is good, and how long before its end it is renewed."""
CA_DURATION = "43800h"
"""Five years: replacing a CA takes two steps (both, then the new one), so it is a plan and no routine."""
READ_BY_GROUP = 0o440
"""The pod's fsGroup is who its processes are."""


def mtls_files(plan: FleetPlan) -> dict[str, list[Document]]:
    """The component's documents by file name, `kustomization.yaml` among them."""
    secured = [workload for workload in plan.workloads if workload.component is not Component.MODEL_SERVER]
    return {
        "authority.yaml": _authority(plan),
        "certificates.yaml": [_certificate(workload, plan) for workload in secured],
        "workloads.yaml": [_patch(workload) for workload in secured],
        "kustomization.yaml": [_component()],
    }


def identity(workload: Workload) -> str:
    """Its SPIFFE ID. What serves no agents has one that lets it register none."""
    kind, name = ("agent", workload.agent) if workload.component.serves_agents else ("service", workload.name)
    return f"spiffe://{TRUST_DOMAIN}/{kind}/{name}"


def _component() -> Document:
    named = ", ".join(component.value for component in Component if component is not Component.MODEL_SERVER)
    return {
        "apiVersion": "kustomize.config.k8s.io/v1alpha1",
        "kind": "Component",
        "resources": ["authority.yaml", "certificates.yaml"],
        "patches": [
            {"path": "workloads.yaml"},
            {
                "target": {"kind": "Service", "labelSelector": f"app.kubernetes.io/component in ({named})"},
                "patch": "- {op: replace, path: /spec/ports/0/appProtocol, value: https}\n",
            },
        ],
    }


def _authority(plan: FleetPlan) -> list[Document]:
    """A CA of the fleet's own; put an issuer of yours in its place by the name `aixgo-ca`."""
    of_fleet = {"app.kubernetes.io/part-of": plan.name}

    def issuer(name: str, spec: Document) -> Document:
        metadata = {"name": name, "labels": of_fleet}
        return {"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": metadata, "spec": spec}

    root = {
        "isCA": True,
        "commonName": AUTHORITY,
        "secretName": AUTHORITY,
        "duration": CA_DURATION,
        "privateKey": {"algorithm": "ECDSA", "size": 256},
        "issuerRef": {"name": BOOTSTRAP, "kind": "Issuer"},
    }
    return [
        issuer(BOOTSTRAP, {"selfSigned": {}}),
        {
            "apiVersion": "cert-manager.io/v1",
            "kind": "Certificate",
            "metadata": {"name": AUTHORITY, "labels": of_fleet},
            "spec": root,
        },
        issuer(AUTHORITY, {"ca": {"secretName": AUTHORITY}}),
    ]


def _certificate(workload: Workload, plan: FleetPlan) -> Document:
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": {"name": workload.name, "labels": labels(workload, plan)},
        "spec": {
            "secretName": _secret(workload),
            "duration": DURATION,
            "renewBefore": RENEW_BEFORE,
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "usages": ["digital signature", "server auth", "client auth"],
            "dnsNames": [SERVER_NAME, workload.name, "localhost"],
            "uris": [identity(workload)],
            "issuerRef": {"name": AUTHORITY, "kind": "Issuer"},
        },
    }


def _patch(workload: Workload) -> Document:
    """What changes in a workload, as a strategic merge."""
    probe = {"grpc": {"port": HEALTH_PORT}}
    container = {
        "name": "aixgo",
        "env": list(_environment(workload)),
        "ports": [{"name": "health", "containerPort": HEALTH_PORT}],
        "startupProbe": probe,
        "readinessProbe": probe,
        "livenessProbe": probe,
        "volumeMounts": [{"name": "tls", "mountPath": FOLDER, "readOnly": True}],
    }
    tls = {"name": "tls", "secret": {"secretName": _secret(workload), "defaultMode": READ_BY_GROUP}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": workload.name},
        "spec": {"template": {"spec": {"containers": [container], "volumes": [tls]}}},
    }


def _environment(workload: Workload) -> Iterator[Document]:
    yield from ({"name": name, "$patch": "delete"} for name in INSECURE)
    told = {
        "AIXGO_TLS_CA_FILE": f"{FOLDER}/ca.crt",
        "AIXGO_TLS_CERT_FILE": f"{FOLDER}/tls.crt",
        "AIXGO_TLS_KEY_FILE": f"{FOLDER}/tls.key",
        "AIXGO_TLS_SERVER_NAME": SERVER_NAME,
        "AIXGO_HEALTH_PORT": str(HEALTH_PORT),
    }
    if workload.component is Component.CONTROL_PLANE:
        told["AIXGO_ALLOW_REGISTER"] = f"spiffe://{TRUST_DOMAIN}/agent/{{name}}"
    yield from ({"name": name, "value": value} for name, value in told.items())


def _secret(workload: Workload) -> str:
    return f"{workload.name}-tls"
