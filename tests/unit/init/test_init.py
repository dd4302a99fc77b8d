"""`aixgo init` writes a project that works at once, and overwrites nothing unasked."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from aixgo import errors
from aixgo.agents.catalog import ROLES
from aixgo.config.load import load
from aixgo.orchestration.catalog import PATTERNS
from aixgo_services.cli.main import execute
from aixgo_services.project.scaffold import TEMPLATES, create, project_name

TIMEOUT = 120


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this Python's in a folder."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project in an empty folder; the tests below only read it."""
    folder = tmp_path_factory.mktemp("made") / "Front Desk"
    create(folder)
    return folder


def test_a_project_has_all_its_files_and_its_name(project):
    assert {path.name for path in project.iterdir()} == set(TEMPLATES)
    assert (project / "README.md").read_text().startswith("# front-desk\n")
    assert not any("{{" in path.read_text() for path in project.iterdir())


def test_its_file_tells_of_every_pattern_and_role(project):
    told = set(re.findall(r"[a-z]+", (project / "aixgo.yaml").read_text()))
    assert {*PATTERNS, *ROLES} <= told


def test_its_own_tests_pass(project):
    done = run(project, "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_its_file_is_checked_and_its_mesh_runs_in_one_process(project):
    assert run(project, "aixgo_services.cli.main", "config", "check", "aixgo.yaml").returncode == 0
    done = run(project, "aixgo_services.cli.main", "run", "aixgo.yaml", "-i", "The shop is down!", "--json")
    assert done.returncode == 0, done.stderr
    payload = json.loads(done.stdout)["payload"]
    assert payload["triage"] == {"urgent": True, "because": ["down"]}
    assert payload["reply"].startswith("Thank you")


def test_its_mesh_runs_as_a_fleet(project):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "aixgo_services.cli.main", "up", "aixgo.yaml", "--control-plane", address]
    fleet = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        heard = []
        for line in fleet.stdout:
            heard.append(line)
            if line.startswith("ready"):
                break
        assert heard[-1].startswith("ready: 5 processes"), "".join(heard)
        done = run(
            project, "aixgo_services.cli.main", "call", "inbox", "All is well", "--json", AIXGO_CONTROL_PLANE=address
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["payload"]["triage"] == {"urgent": False, "because": []}
    finally:
        fleet.send_signal(signal.SIGINT)
        fleet.communicate(timeout=TIMEOUT)


def test_the_models_that_its_file_suggests_can_be_used_by_that_name(project):
    suggested = re.findall(r"#   model: (\S+)", (project / "aixgo.yaml").read_text())
    assert [name.partition("/")[0] for name in suggested] == ["local", "openai", "ollama"]
    for name in suggested:
        text = re.sub(r'model: "test/.*"', f"model: {name}", (project / "aixgo.yaml").read_text())
        file = project.parent / "other.yaml"
        file.write_text(text)
        assert load(file).agents[1].model == (name,)


def test_the_compose_file_runs_what_the_rendered_one_would(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert execute(["render", "compose", "aixgo.yaml"]) == 0
    rendered = yaml.safe_load(capsys.readouterr().out)["services"]
    services = yaml.safe_load((project / "docker-compose.yml").read_text())["services"]
    assert set(services) == set(rendered)
    for name, service in services.items():
        wanted = rendered[name]
        command = ["aixgo.yaml" if word == "/etc/aixgo/fleet.yaml" else word for word in wanted["command"]]
        assert service["command"] == command
        assert service.get("deploy", {"replicas": 1}) == wanted["deploy"]
        for key in ("environment", "depends_on", "ports", "env_file", "read_only", "cap_drop", "stop_grace_period"):
            assert service.get(key) == wanted.get(key), (name, key)


def test_keys_stay_out_of_the_image_and_of_the_repository(project):
    ignored = (project / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert not any(".env" in line for line in ignored if line.startswith("!"))
    assert ".env" in (project / ".gitignore").read_text().splitlines()


def test_a_folder_that_is_not_empty_is_refused_and_its_files_are_named(tmp_path, capsys):
    (tmp_path / "triage.py").write_text("mine")
    (tmp_path / ".git").mkdir()
    assert execute(["init", str(tmp_path)]) == 2
    assert f"{tmp_path} is not empty: it has triage.py;" in capsys.readouterr().err
    assert (tmp_path / "triage.py").read_text() == "mine"
    assert not (tmp_path / "aixgo.yaml").exists()


def test_many_files_are_counted_not_listed(tmp_path):
    for number in range(8):
        (tmp_path / f"f{number}").touch()
    with pytest.raises(errors.ConfigError, match="f0, f1, f2, f3, f4 and 3 more"):
        create(tmp_path)


def test_force_writes_into_it_and_leaves_other_files(tmp_path):
    (tmp_path / "triage.py").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    assert execute(["init", str(tmp_path), "--force"]) == 0
    assert "class Triage" in (tmp_path / "triage.py").read_text()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_repository_without_files_counts_as_empty(tmp_path):
    (tmp_path / ".git").mkdir()
    assert len(create(tmp_path)) == len(TEMPLATES)


def test_a_path_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert execute(["init", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_it_says_what_it_wrote_and_what_comes_next(tmp_path, capsys):
    assert execute(["init", str(tmp_path / "new")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  {tmp_path / 'new' / 'aixgo.yaml'}" in lines
    assert lines[-2:] == [f"  cd {tmp_path / 'new'}", '  aixgo run aixgo.yaml -i "The shop is down!"']


def test_here_is_the_default_and_scripts_get_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert execute(["init", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"directory": ".", "files": list(TEMPLATES)}
    assert (tmp_path / ".env.example").exists()


@pytest.mark.parametrize(
    ("folder", "name"), [("Front Desk", "front-desk"), ("my_shop", "my-shop"), ("ünï", "n"), ("日本", "my-agents")]
)
def test_the_projects_name_is_one_that_compose_takes(tmp_path, folder, name):
    assert project_name(tmp_path / folder) == name
