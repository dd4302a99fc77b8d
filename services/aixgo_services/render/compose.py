"""A fleet as a Compose file.

Owns how containers of one machine are started in order, kept small in rights, and scaled. Below: `fleet.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aixgo_services.render.fleet import FOLDER, MODEL_PORT, Component
from aixgo_services.render.names import CONTROL_PLANE, MODEL_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aixgo_services.render.documents import Document
    from aixgo_services.render.fleet import FleetPlan, Workload

STOP_SECONDS = 15
"""How long a container may drain: the 10 s of a server, and some for the process to end."""
PUBLISHED = "127.0.0.1:${AIXGO_GATEWAY_PORT:-50051}"
"""Where on the host the gateway is published: for this machine only, because it asks nobody who they are."""

_MODEL_HEALTH = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{MODEL_PORT}/health', timeout=3)"


def compose_document(plan: FleetPlan, files: Mapping[str, str]) -> Document:
    """The Compose file of a fleet. `files` are the paths, from the Compose file, of what `plan.source.files` holds.

    Keys come from a `.env` beside the Compose file, if there is one.
    """
    configs = {_config_name(name): {"file": _escaped(files[name])} for name in plan.source.files}
    services = {workload.name: _service(workload, plan) for workload in plan.workloads}
    return {"name": plan.name, "services": services, "configs": configs}


def _service(workload: Workload, plan: FleetPlan) -> dict[str, Any]:
    service: dict[str, Any] = {"image": workload.image, "command": [_escaped(part) for part in workload.command]}
    if workload.environment:
        service["environment"] = {name: _escaped(value) for name, value in workload.environment.items()}
    if workload.component.serves_agents:
        service["env_file"] = [{"path": ".env", "required": False}]
        service["configs"] = [
            {"source": _config_name(name), "target": f"{FOLDER}/{name}"} for name in plan.source.files
        ]
    if workload.component is Component.GATEWAY:
        service["ports"] = [f"{PUBLISHED}:{workload.port}"]
    before = _before(workload, plan.workloads)
    if before:
        service["depends_on"] = {name: {"condition": "service_healthy"} for name in before}
    return service | {
        "healthcheck": _health(workload),
        "deploy": {"replicas": workload.replicas},
        "restart": "unless-stopped",
        "stop_grace_period": f"{STOP_SECONDS}s",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108  # the container's own
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def _before(workload: Workload, workloads: Iterable[Workload]) -> list[str]:
    """Who must be healthy first: what all stand on, then agents, then those who call them."""
    if workload.component in {Component.CONTROL_PLANE, Component.MODEL_SERVER}:
        return []
    if workload.component is Component.AGENT:
        return [each.name for each in workloads if each.name in {CONTROL_PLANE, MODEL_SERVER}]
    return [CONTROL_PLANE, *(each.name for each in workloads if each.component is Component.AGENT)]


def _health(workload: Workload) -> dict[str, Any]:
    is_model = workload.component is Component.MODEL_SERVER
    test = ["CMD", "python", "-c", _MODEL_HEALTH] if is_model else ["CMD", "aixgo", "health"]
    return {"test": test, "interval": "5s", "timeout": "5s", "start_period": "60s", "retries": 3}


def _config_name(file: str) -> str:
    return file.replace(".", "-")


def _escaped(text: str) -> str:
    """As Compose must read it, which would take `$` for a variable."""
    return text.replace("$", "$$")
