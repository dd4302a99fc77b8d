"""A fleet as a Compose file.

Owns how containers of one machine are started in order, kept small in rights, and scaled. Below: `fleet.py`.
"""

from __future__ import annotations

import re
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

KEPT = "kept"
"""The volume of what agents write: sessions and mailboxes in SQLite, an embedded store of documents."""

_MODEL_HEALTH = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{MODEL_PORT}/health', timeout=3)"


def compose_document(plan: FleetPlan, paths: Mapping[str, str]) -> Document:
    """The Compose file of a fleet. `paths` lead from the Compose file to what `plan.source` has: its files and its
    folders.

    Keys come from a `.env` beside the Compose file, if there is one.
    """
    configs = _config_names(plan.source.files)
    services = {workload.name: _service(workload, plan, configs, paths) for workload in plan.workloads}
    document: Document = {"name": plan.name, "services": services}
    document["configs"] = {name: {"file": _escaped(paths[file])} for file, name in configs.items()}
    if any(workload.writes for workload in plan.workloads):
        document["volumes"] = {KEPT: {}}
    return document


def _service(
    workload: Workload, plan: FleetPlan, configs: Mapping[str, str], paths: Mapping[str, str]
) -> dict[str, Any]:
    service: dict[str, Any] = {"image": workload.image, "command": [_escaped(part) for part in workload.command]}
    if workload.folder:
        service["working_dir"] = workload.folder
    if workload.environment:
        service["environment"] = {name: _escaped(value) for name, value in workload.environment.items()}
    if workload.component.serves_agents:
        service["env_file"] = [{"path": ".env", "required": False}]
        service["configs"] = [
            {"source": name, "target": _escaped(f"{FOLDER}/{file}")} for file, name in configs.items()
        ]
        service |= _volumes(workload, plan, paths)
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


def _volumes(workload: Workload, plan: FleetPlan, paths: Mapping[str, str]) -> dict[str, Any]:
    """The folders beside the YAML; below them, where files are kept, a volume that has the owner that the image gives
    this folder. All agents of the fleet have the same one, as processes of one machine have.
    """
    volumes: list[dict[str, Any]] = []
    if workload.writes:
        volumes.append({"type": "volume", "source": KEPT, "target": FOLDER})
    for folder in plan.source.folders:
        place = {"source": _escaped(paths[folder]), "target": _escaped(f"{FOLDER}/{folder}")}
        volumes.append({"type": "bind", **place, "read_only": True, "bind": {"create_host_path": False}})
    return {"volumes": volumes} if volumes else {}


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


def _config_names(files: Iterable[str]) -> dict[str, str]:
    """What each file is called among the configs of the Compose file."""
    names: dict[str, str] = {}
    for file in files:
        plain = re.sub(r"[^A-Za-z0-9_]+", "-", file).strip("-")
        names[file] = f"{plain}-{len(names)}" if plain in names.values() or not plain else plain
    return names


def _escaped(text: str) -> str:
    """As Compose must read it, which would take `$` for a variable."""
    return text.replace("$", "$$")
