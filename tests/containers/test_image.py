"""The image: small, without privileges, and a good process in a container."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containers.docker import MEBIBYTE, docker, image_bytes
from tests.support import ROOT, seconds_of

FLEET = ROOT / "tests" / "containers" / "fleet"
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges:true")
OPEN = ("--env", "AIXGO_ALLOW_INSECURE=1")
LIMIT = 200 * MEBIBYTE
"""Bytes that aixgo may add to its base, without the embedded model."""


@contextmanager
def started(image: str, *command: str) -> Generator[str]:
    """A container that runs `command`, hardened; its id."""
    container = docker("run", "--detach", *HARDENED, *OPEN, image, *command)
    try:
        yield container
    finally:
        docker("rm", "--force", container)


def test_the_image_is_small(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    base, whole = image_bytes("python:3.11-slim"), image_bytes(image)
    with capsys.disabled():
        print(f"\n{image}: {whole / MEBIBYTE:.0f} MiB, {(whole - base) / MEBIBYTE:.0f} MiB above its base")
    assert whole - base < LIMIT


def test_it_says_what_it_is_and_runs_as_a_number_that_is_not_root(image: str) -> None:
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))
    assert config["Labels"]["org.opencontainers.image.title"] == "aixgo"
    user, _, group = config["User"].partition(":")
    assert int(user) > 0
    assert int(group) > 0
    assert config["Entrypoint"] == ["aixgo"]
    assert config["Healthcheck"]["Test"] == ["CMD", "aixgo", "health"]


def test_nothing_but_the_package_is_inside(image: str) -> None:
    listed = docker("run", "--rm", "--entrypoint", "sh", image, "-c", "ls -A /app /models; ls -d /src || true")
    assert listed.split() == ["/app:", "/models:"]


def test_agents_get_in_by_mount(image: str) -> None:
    said = docker("run", "--rm", *HARDENED, "--volume", f"{FLEET}:/app:ro", image, "run", "desk.yaml", "-i", "hello")
    assert json.loads(said)["ticket"]["analyst"] == "hello"


def test_agents_get_in_by_from(image: str, tmp_path: Path) -> None:
    for name in ("desk.yaml", "witness.py"):
        shutil.copy(FLEET / name, tmp_path)
    (tmp_path / "Dockerfile").write_text(f"FROM {image}\nCOPY . /app/\n")
    docker("build", "--tag", "aixgo-derived:test", str(tmp_path))
    try:
        said = docker("run", "--rm", *HARDENED, "aixgo-derived:test", "run", "desk.yaml", "-i", "hello")
    finally:
        docker("image", "rm", "aixgo-derived:test")
    assert json.loads(said)["ticket"]["analyst"] == "hello"


def test_health_is_what_the_server_says(image: str) -> None:
    with started(image, "controlplane") as container:
        # The server needs a moment to listen; the command itself does not wait for it.
        script = "until aixgo health >/tmp/said; do :; done; cat /tmp/said; aixgo health 127.0.0.1:1 || echo $?"
        said = docker("exec", container, "timeout", "60", "sh", "-c", script)
    assert said.split() == ["SERVING", "UNAVAILABLE", "3"]


@pytest.mark.parametrize("command", [("controlplane",), ("gateway", "--control-plane=127.0.0.1:1")])
def test_sigterm_ends_it_in_good_order_as_process_1(image: str, command: tuple[str, ...]) -> None:
    with started(image, *command) as container:
        docker("exec", container, "timeout", "60", "sh", "-c", "until aixgo health | grep SERVING; do :; done")
        with seconds_of() as taken:
            docker("stop", "--time", "30", container)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"
        assert taken.seconds < 15
