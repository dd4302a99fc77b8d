"""Docker and Compose by their command line: what users type is what is tested.

Owns running commands, and one Compose project of the repository's docker-compose.yml under test. Commands block;
asynchronous tests run them by `asyncio.to_thread`, so that load goes on meanwhile.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.support import ROOT

BUILD, COMMAND = 900.0, 180.0
"""Seconds that a build, and any other command, may take; generous, because machines may be busy."""
TAG = "test"
IMAGE = f"aixgo:{TAG}"
MEBIBYTE = 1 << 20


def docker(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = COMMAND) -> str:
    """Run `docker ...` in the repository; its output. Raises AssertionError with what it said when it fails."""
    given = {**os.environ, **(env or {})}
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=given, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, (
        f"docker {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    )
    return done.stdout.strip()


def image_bytes(image: str) -> int:
    """The size of an image."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


@dataclass(frozen=True)
class Compose:
    """One Compose project: docker-compose.yml of the repository, and `overrides` over it."""

    project: str
    overrides: Sequence[str] = ()

    @property
    def network(self) -> str:
        """The name of the network that its containers share."""
        return f"{self.project}_default"

    def __call__(self, *arguments: str, timeout: float = COMMAND) -> str:
        """Run `docker compose ...` for this project; its output."""
        files = [part for name in ("docker-compose.yml", *self.overrides) for part in ("--file", name)]
        # Port 0: the engine chooses a free one for the gateway, and tells it (`gateway`).
        env = {"AIXGO_TAG": TAG, "AIXGO_GATEWAY_PORT": "0"}
        return docker("compose", "--project-name", self.project, *files, *arguments, env=env, timeout=timeout)

    def up(self, *arguments: str) -> None:
        """Start what is not there, and wait until all is healthy."""
        try:
            self("up", "--detach", "--no-build", "--wait", "--wait-timeout", "150", *arguments)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self('logs', '--tail', '30')}") from error

    def down(self) -> None:
        """Stop and remove everything."""
        self("down", "--volumes", "--remove-orphans")

    def containers(self, service: str) -> list[str]:
        """The ids of the running containers of a service, in the short form that is also their host name."""
        return [one[:12] for one in self("ps", "--quiet", "--status", "running", service).split()]

    def gateway(self) -> str:
        """The host:port of the gateway on this machine."""
        return self("port", "gateway", "50051")
