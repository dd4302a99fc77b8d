"""The engine, and what is built once for all tests of this folder: the images and a fleet of scripted agents."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.docker import BUILD, IMAGE, NATS, TAG, Compose, docker
from tests.nats_server import find_servers
from tests.support import ROOT

LOCAL_NATS = "aixgo-nats:test"
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


@pytest.fixture(scope="session")
def nats_image(engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of docker-compose.nats.yml, where it is here or can be fetched; else one made of a nats-server that is
    installed here, with what else that file asks of it.
    """
    try:
        docker("pull", "--quiet", NATS)
    except (AssertionError, subprocess.TimeoutExpired):
        return _local_nats(tmp_path_factory.mktemp("nats"))
    return NATS


@pytest.fixture(scope="module")
def fleet(image: str) -> Iterator[Compose]:
    """The fleet of docker-compose.yml with agents that need no model, up and healthy."""
    compose = Compose("aixgo-test", ("tests/containers/fleet/compose.yaml",))
    compose.down()
    compose.up()
    yield compose
    compose.down()


def _local_nats(folder: Path) -> str:
    try:
        docker("image", "inspect", NATS)
    except AssertionError:
        servers = find_servers()
        if not servers:
            missing = f"{NATS} cannot be fetched, and no nats-server is installed to make an image of"
            (pytest.fail if _REQUIRED else pytest.skip)(missing)
        shutil.copy(servers[-1], folder / "nats-server")
        shutil.copy(ROOT / "tests" / "containers" / "nats" / "Dockerfile", folder)
        shutil.copy(ROOT / "tests" / "containers" / "nats" / "wget", folder)
        docker("build", "--tag", LOCAL_NATS, str(folder))
        return LOCAL_NATS
    return NATS


def _missing() -> str:
    if shutil.which("docker") is None:
        return "there is no docker command"
    for arguments, what in ((["info"], "the Docker engine does not answer"), (["compose", "version"], "no Compose")):
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            return f"{what}: {done.stderr.strip()[-200:]}"
    return ""
