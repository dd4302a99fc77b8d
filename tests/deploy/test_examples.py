"""Every example as it is: what its rendered fleet mounts is all that its agents need."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.launch import make_resources
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

from tests.deploy.fleets import of_kind
from tests.tools.render_deploy import ROOT

FOLDER = "/etc/aixgo/"
EXAMPLES = sorted((ROOT / "examples").glob("*/config.yaml"))
Mounted = dict[str, str]


def by_compose(file: Path, out: Path) -> Mounted:
    """What every agent's container has in its folder, by path."""
    assert execute(["render", "compose", str(file), "-o", str(out)]) == Exit.OK
    document = yaml.safe_load((out / "docker-compose.yml").read_text())
    services = [each for each in document["services"].values() if each["command"][0] == "serve"]
    seen = [_mounted(service, document["configs"], out) for service in services]
    assert all(each == seen[0] for each in seen)
    return seen[0]


def _mounted(service: dict[str, Any], configs: dict[str, Any], out: Path) -> Mounted:
    found = {each["target"]: out / configs[each["source"]]["file"] for each in service["configs"]}
    for volume in service.get("volumes", []):
        source = out / volume["source"]
        found |= {f"{volume['target']}/{path.relative_to(source).as_posix()}": path for path in source.rglob("*.*")}
    return {target.removeprefix(FOLDER): path.read_text() for target, path in found.items()}


def by_kubernetes(file: Path, out: Path) -> Mounted:
    """The same of every agent's pod."""
    assert execute(["render", "kubernetes", str(file), "-o", str(out)]) == Exit.OK
    objects = [one for path in sorted(out.glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())]
    objects = [one for one in objects if one["kind"] != "Kustomization"]
    data = of_kind(objects, "ConfigMap")["aixgo-config"]["data"]
    pods = [each["spec"]["template"]["spec"] for each in of_kind(objects, "Deployment").values()]
    volumes = [volume["configMap"] for pod in pods for volume in pod["volumes"] if "configMap" in volume]
    assert all(volume == volumes[0] for volume in volumes)
    items = volumes[0].get("items", [{"key": key, "path": key} for key in data])
    return {item["path"]: data[item["key"]] for item in items}


def test_there_is_one_for_each_of_the_twelve_patterns():
    assert len(EXAMPLES) == 12


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
async def test_agents_can_be_made_of_what_is_mounted(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    mounted = by_compose(file, tmp_path / "compose")
    assert by_kubernetes(file, tmp_path / "kubernetes") == mounted
    assert capsys.readouterr().err == ""  # nothing is missing
    place = tmp_path / "container"
    for path, text in mounted.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_text(text)
    for module in [path.stem for path in file.parent.glob("*.py")]:
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if "examples" not in part])
    monkeypatch.chdir(tmp_path)
    config = load(place / "fleet.yaml", {})
    resources = make_resources(config, {})
    made = build_agents(config, resources)
    await resources.close()
    assert [agent.name for agent in made] == list(config.names)
    documents = [agent.config["documents"] for agent in config.agents if "documents" in agent.config]
    assert all((place / one).is_dir() for one in documents)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.parent.name)
def test_a_fleet_is_called_as_its_example(file: Path, capsys: pytest.CaptureFixture[str]):
    assert execute(["render", "compose", str(file)]) == Exit.OK
    assert yaml.safe_load(capsys.readouterr().out)["name"] == file.parent.name
