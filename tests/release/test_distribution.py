"""What is released: a wheel and an sdist, built, looked into, installed in a clean venv and used.

Needs a package index, and no Docker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from venv import EnvBuilder

import aixgo
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("aixgo", "aixgo_controlplane", "aixgo_services")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TIMEOUT = 600

pytestmark = pytest.mark.slow


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run a command, away from this repository's settings; its output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def venv(folder: Path, *install: str | Path) -> Path:
    """A clean venv with these packages, in the versions of constraints.txt; its bin folder."""
    EnvBuilder(with_pip=True, symlinks=True).create(folder)
    constraints = ROOT / "constraints.txt"
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", constraints, *install, folder=folder)
    return folder / "bin"


def only(folder: Path, pattern: str) -> Path:
    """The one file of a folder that matches."""
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """The Python of a venv that has nothing but the build backend."""
    return venv(tmp_path_factory.mktemp("builder"), "hatchling") / "python"


@pytest.fixture(scope="module")
def dist(tmp_path_factory, builder):
    """A folder with the wheel and the sdist of this tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(builder, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder, folder=ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(dist):
    """The wheel, opened."""
    with zipfile.ZipFile(only(dist, "*.whl")) as archive:
        yield archive


@pytest.fixture(scope="module")
def installed(tmp_path_factory, dist):
    """The bin folder of a clean venv with the wheel, as a user's."""
    return venv(tmp_path_factory.mktemp("user"), only(dist, "*.whl"))


def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_version_stands_in_one_place(dist, wheel):
    assert "version" in PROJECT["dynamic"]
    assert metadata(wheel)["Version"] == aixgo.__version__
    assert {path.name for path in dist.iterdir()} == {
        f"aixgo-{aixgo.__version__}-py3-none-any.whl",
        f"aixgo-{aixgo.__version__}.tar.gz",
    }


def test_the_wheel_has_the_three_packages_typed_and_nothing_else(wheel):
    names = wheel.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, f"aixgo-{aixgo.__version__}.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_the_wheel_has_every_file_of_the_sources_and_no_junk(wheel):
    sources = {"sdk/aixgo", "controlplane/aixgo_controlplane", "services/aixgo_services"}
    expected = {
        path.relative_to((ROOT / source).parent).as_posix()
        for source in sources
        for path in (ROOT / source).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected
    assert not [name for name in wheel.namelist() if name.endswith((".pyc", ".log", ".orig", "~")) or "/tests/" in name]


def test_the_metadata_says_what_pyproject_says(wheel):
    told = metadata(wheel)
    assert told["Name"] == "aixgo"
    assert told["Requires-Python"] == PROJECT["requires-python"]
    assert told["License-Expression"] == "Apache-2.0"
    assert told.get_all("License-File") == ["LICENSE"]
    assert set(told.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert told["Description-Content-Type"] == "text/markdown"
    assert told.get_payload().startswith("# aixgo")
    always = [each for each in told.get_all("Requires-Dist") if "extra ==" not in each]
    assert {Requirement(each) for each in always} == {Requirement(each) for each in PROJECT["dependencies"]}


def test_every_extra_is_documented():
    page = (ROOT / "CONTRIBUTING.md").read_text() + (ROOT / "docs" / "FAQ.md").read_text()
    assert [extra for extra in PROJECT["optional-dependencies"] if f"`{extra}`" not in page] == []


def test_the_sdist_has_what_it_takes_and_nothing_of_the_repository_around_it(dist):
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    assert {"sdk", "controlplane", "services", "proto", "README.md", "LICENSE", "CHANGELOG.md"} <= tops
    assert not tops & {"tests", "examples", "deploy", ".ci", ".venv", ".env"}


def test_the_sdist_builds_the_same_wheel(dist, builder, tmp_path):
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    run(builder, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", folder=only(tmp_path, "aixgo-*"))
    assert only(tmp_path / "again", "*.whl").read_bytes() == only(dist, "*.whl").read_bytes()


def test_the_installed_command_says_its_version(installed, tmp_path):
    assert run(installed / "aixgo", "--version", folder=tmp_path) == f"aixgo {aixgo.__version__}\n"


def test_the_three_packages_are_imported_from_the_wheel(installed, tmp_path):
    code = f"import {', '.join(PACKAGES)}; print({', '.join(f'{each}.__file__' for each in PACKAGES)}, sep='\\n')"
    paths = run(installed / "python", "-c", code, folder=tmp_path).splitlines()
    assert all(Path(path).is_relative_to(installed.parent) for path in paths)


def test_every_module_can_be_imported_without_any_extra_or_names_the_one_it_is_made_of(installed, tmp_path):
    code = (
        "import importlib, pkgutil\n"
        f"for top in {PACKAGES!r}:\n"
        "    for found in pkgutil.walk_packages(importlib.import_module(top).__path__, top + '.'):\n"
        "        try:\n"
        "            importlib.import_module(found.name)\n"
        "        except ImportError as error:\n"
        "            print(found.name, error, sep=': ')\n"
    )
    refused = dict(line.split(": ", 1) for line in run(installed / "python", "-c", code, folder=tmp_path).splitlines())
    made_of = {
        "adapters.langgraph": "langgraph",
        "adapters.pydantic_ai": "pydantic-ai",
        "telemetry.observations": "langfuse",
    }
    assert {name for name in refused if not name.startswith("aixgo.adapters.")} == {"aixgo.telemetry.observations"}
    for name, extra in made_of.items():
        assert refused[f"aixgo.{name}"].endswith(f"pip install 'aixgo[{extra}]'")


def test_a_new_project_runs_and_the_doctor_finds_nothing_wrong(installed, tmp_path):
    run(installed / "aixgo", "init", "desk", folder=tmp_path)
    desk = tmp_path / "desk"
    reply = json.loads(run(installed / "aixgo", "run", "aixgo.yaml", "-i", "It is down", "--json", folder=desk))
    assert reply["payload"]["triage"]["urgent"]
    told = json.loads(run(installed / "aixgo", "doctor", "aixgo.yaml", "--json", folder=desk))
    assert [each for each in told if each["level"] == "problem"] == []


def test_a_new_project_passes_its_own_tests(installed, tmp_path):
    """pytest stays outside of the venv, so that nothing which it brings hides what aixgo lacks."""
    pip = (installed / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", "--target", tmp_path / "tools", "pytest", folder=tmp_path)
    run(installed / "aixgo", "init", "desk", folder=tmp_path)
    tests = (installed / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "3 passed" in run(*tests, folder=tmp_path / "desk", PYTHONPATH=str(tmp_path / "tools"))


def test_a_type_checker_sees_our_types(installed, tmp_path):
    """pyright is a tool of this repository, and looks into the user's venv."""
    program = tmp_path / "program.py"
    program.write_text("from aixgo import LocalRuntime\nreveal_type(LocalRuntime().list_agents())\n")
    told = run(sys.executable, "-m", "pyright", "--pythonpath", installed / "python", program, folder=tmp_path)
    assert 'is "list[str]"' in told
