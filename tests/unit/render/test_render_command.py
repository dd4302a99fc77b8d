"""`aixgo render`: what it reads, and where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

Output = pytest.CaptureFixture[str]
DESK = """\
version: 2
agents:
  - {name: team, role: llm, model: test/echo}
  - {name: ticket, role: "desk:Ticket"}
  - {name: other, role: "pkg.agents:Other"}
"""


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """desk.yaml and a module in a folder of the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "desk.yaml").write_text(DESK)
    (folder / "desk.py").write_text("class Ticket: ...\n")
    return folder


def test_a_compose_file_goes_to_stdout_with_paths_from_here(capsys: Output):
    assert execute(["render", "compose", "project/desk.yaml", "--image", "mine:2"]) == Exit.OK
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["name"] == "desk"
    assert document["configs"]["fleet-yaml"] == {"file": "./project/desk.yaml"}
    assert document["services"]["team"]["image"] == "mine:2"


def test_a_compose_file_in_a_folder_has_paths_from_there(desk: Path, capsys: Output):
    assert execute(["render", "compose", "project/desk.yaml", "-o", "out/compose"]) == Exit.OK
    assert capsys.readouterr().out == "out/compose/docker-compose.yml\n"
    document = yaml.safe_load(Path("out/compose/docker-compose.yml").read_text())
    assert document["configs"]["desk-py"] == {"file": "../../project/desk.py"}
    assert (Path("out/compose") / document["configs"]["desk-py"]["file"]).read_text() == (desk / "desk.py").read_text()


def test_manifests_go_to_stdout_as_one_stream_without_the_kustomization(capsys: Output):
    assert execute(["render", "kubernetes", "project/desk.yaml", "--namespace", "agents"]) == Exit.OK
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert documents[0]["kind"] == "Namespace"
    assert "Kustomization" not in {each["kind"] for each in documents}


def test_manifests_in_a_folder_are_a_kustomize_base(capsys: Output):
    assert execute(["render", "kubernetes", "project/desk.yaml", "-o", "base"]) == Exit.OK
    assert "base/kustomization.yaml\n" in capsys.readouterr().out
    resources = yaml.safe_load(Path("base/kustomization.yaml").read_text())["resources"]
    assert {path.name for path in Path("base").iterdir()} == {*resources, "kustomization.yaml"}
    mounted = yaml.safe_load(Path("base/config.yaml").read_text())["data"]
    assert mounted == {"fleet.yaml": DESK, "desk.py": "class Ticket: ...\n"}


def test_a_file_with_a_mistake_is_refused_and_nothing_is_written(desk: Path, capsys: Output):
    (desk / "desk.yaml").write_text("version: 2\nagentz: []\n")
    assert execute(["render", "kubernetes", "project/desk.yaml", "-o", "base"]) == Exit.USAGE
    assert "did you mean" in capsys.readouterr().err
    assert not Path("base").exists()
