"""The engine, and what is built once for all tests of this folder: the images and a fleet of scripted agents."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.docker import BUILD, IMAGE, TAG, Compose

_REQUIRED = bool(os.environ.get("AIXGO_REQUIRE_TOOLS"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(1800))  # an image may have to be built first


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skip without an engine and Compose; fail where AIXGO_REQUIRE_TOOLS says that they must be there."""
    missing = _missing()
    if missing and _REQUIRED:
        pytest.fail(f"{missing}, and AIXGO_REQUIRE_TOOLS is set")
    if missing:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def image(engine: None) -> str:
    """The image of the repository, built as Compose builds it."""
    Compose("aixgo-build")("build", "control-plane", timeout=BUILD)
    return IMAGE


@pytest.fixture(scope="session")
def model_image(image: str) -> str:
    """The image that has the embedded model inside."""
    Compose("aixgo-build")("build", "model", timeout=BUILD)
    return f"aixgo-model:{TAG}"


@pytest.fixture(scope="module")
def fleet(image: str) -> Iterator[Compose]:
    """The fleet of docker-compose.yml with agents that need no model, up and healthy."""
    compose = Compose("aixgo-test", ("tests/containers/fleet/compose.yaml",))
    compose.down()
    compose.up()
    yield compose
    compose.down()


def _missing() -> str:
    if shutil.which("docker") is None:
        return "there is no docker command"
    for arguments, what in ((["info"], "the Docker engine does not answer"), (["compose", "version"], "no Compose")):
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            return f"{what}: {done.stderr.strip()[-200:]}"
    return ""
