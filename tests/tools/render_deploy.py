"""Writes what is rendered under deploy/: `make render`. tests/deploy holds it fresh.

Owns which files those are: the kustomize base, from examples/support-desk, the components that add mTLS and NATS to it,
and the schema of the chart's values, from that of the YAML and what the chart adds to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aixgo.config.json_schema import json_schema
from aixgo.config.load import load
from aixgo_services.render.documents import to_yaml
from aixgo_services.render.fleet import Source, plan_containers
from aixgo_services.render.kubernetes import kubernetes_files
from aixgo_services.render.mtls import mtls_files
from aixgo_services.render.nats import nats_files

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "support-desk" / "support-desk.yaml"
BASE = ROOT / "deploy" / "kubernetes" / "base"
MTLS = ROOT / "deploy" / "kubernetes" / "components" / "mtls"
NATS = ROOT / "deploy" / "kubernetes" / "components" / "nats"
VALUES_SCHEMA = ROOT / "deploy" / "helm" / "aixgo" / "values.schema.json"
HEADER = "Rendered from examples/support-desk/support-desk.yaml; change that and run: make render"

_COMPONENTS = ("agent", "embedding", "orchestration", "gateway", "control-plane", "model-server")
_AMOUNTS = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_COUNT = {"type": "integer", "minimum": 1}
_DURATION = {"type": "string", "pattern": "^([0-9]+(ms|[smh]))+$"}


def rendered() -> dict[Path, str]:
    """What the rendered files must hold."""
    config = load(EXAMPLE, {})
    modules = {"desk.py": (EXAMPLE.parent / "desk.py").read_text(encoding="utf-8")}
    plan = plan_containers(config, Source(EXAMPLE.stem, EXAMPLE.read_text(encoding="utf-8"), modules))
    base = {BASE / name: to_yaml(each, header=HEADER) for name, each in kubernetes_files(config, plan).items()}
    base |= {MTLS / name: to_yaml(each, header=HEADER) for name, each in mtls_files(plan).items()}
    base |= {NATS / name: to_yaml(each, header=HEADER) for name, each in nats_files(plan).items()}
    return base | {VALUES_SCHEMA: json.dumps(values_schema(), indent=2) + "\n"}


def values_schema() -> dict[str, Any]:
    """The schema of the chart's values: the YAML's keys, which the values mirror, and the chart's own."""
    schema = json_schema()
    return {**schema, "title": "Values of the aixgo chart", "properties": schema["properties"] | chart_properties()}


def chart_properties() -> dict[str, Any]:
    """The values that are no keys of the YAML."""
    resources = {
        "type": "object",
        "additionalProperties": False,
        "properties": {"requests": _AMOUNTS, "limits": _AMOUNTS},
    }
    service = {"type": {"enum": ["ClusterIP", "LoadBalancer", "NodePort"]}, "annotations": _TEXTS}
    return {
        "autoscaling": _closed(enabled={"type": "boolean"}, growth=_COUNT, cpuPercent=_COUNT),
        "config": {"type": "string", "description": "The YAML as text, in place of its keys."},
        "gateway": _closed(replicas=_COUNT, service=_closed(**service)),
        "global": {"type": "object", "description": "Helm's own."},
        "image": {"type": "string", "minLength": 1},
        "imagePullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
        "imagePullSecrets": {"type": "array", "items": _closed(name={"type": "string"})},
        "keysSecret": {"type": "string", "minLength": 1},
        "modelImage": {"type": "string", "minLength": 1},
        "modelServer": {"enum": ["auto", True, False]},
        "modules": {**_TEXTS, "propertyNames": {"pattern": r"^[-._A-Za-z0-9]+$"}},
        "networkPolicies": {"type": "boolean"},
        "podMonitor": _closed(enabled={"type": "boolean"}, interval=_DURATION, labels=_TEXTS),
        "resources": _closed(**dict.fromkeys(_COMPONENTS, resources)),
    }


def write() -> None:
    """Write the files, and remove what is no longer rendered."""
    wanted = rendered()
    for folder in (BASE, MTLS, NATS):
        folder.mkdir(parents=True, exist_ok=True)
        for path in set(folder.iterdir()) - wanted.keys():
            path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


def _closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


if __name__ == "__main__":
    write()
