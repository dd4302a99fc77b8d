"""Docker and Compose by their command line: what users type is what is tested.

Owns running commands, also those that docs/DEPLOYMENT.md gives, and one Compose project of the repository's
docker-compose.yml under test. Commands block; asynchronous tests run them by `asyncio.to_thread`, so that load goes on
meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import ROOT

BUILD, UP, COMMAND = 900.0, 300.0, 180.0
"""Seconds that a build, containers until they are healthy, and any other command may take; generous, because machines
may be busy.
"""
WAIT = ("--wait", "--wait-timeout", f"{UP:.0f}")
BASE, TAG = "docker-compose.yml", "test"
IMAGE = f"aixgo:{TAG}"
NATS = "nats:2.11-alpine"
"""What docker-compose.nats.yml runs when nobody says otherwise."""
MEBIBYTE = 1 << 20


def docker(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = COMMAND) -> str:
    """Run `docker ...` in the repository; its output. Raises AssertionError with what it said when it fails."""
    return run(["docker", *arguments], env=env, timeout=timeout)


def run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, folder: Path = ROOT, timeout: float = COMMAND
) -> str:
    """Run a command in `folder`, with `env` besides this process's variables; its output. Raises AssertionError with
    what it said when it fails.
    """
    given = {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def image_bytes(image: str) -> int:
    """The size of an image."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image))


def documented(heading: str) -> list[str]:
    """The blocks of shell commands under a heading of docs/DEPLOYMENT.md."""
    page = (ROOT / "docs" / "DEPLOYMENT.md").read_text(encoding="utf-8")
    _, found, below = page.partition(f"### {heading}\n")
    assert found, f"docs/DEPLOYMENT.md has no heading {heading!r}"
    section = below.partition("\n#")[0]
    return [block.partition("```")[0] for block in section.split("```bash\n")[1:]]


@dataclass(frozen=True)
class Compose:
    """One Compose project: docker-compose.yml of the repository, and `overrides` over it, of images with `tag`.

    `variables` are those that the files read.
    """

    project: str
    overrides: Sequence[str] = ()
    tag: str = TAG
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def network(self) -> str:
        """The name of the network that its containers share."""
        return f"{self.project}_default"

    @property
    def environment(self) -> dict[str, str]:
        """What makes `docker compose` mean this project, and `aixgo` the one that is tested."""
        return {
            "AIXGO_GATEWAY_PORT": "0",  # the engine chooses a free one, and tells it (`gateway`)
            "AIXGO_TAG": self.tag,
            "COMPOSE_FILE": ":".join(str(ROOT / name) for name in (BASE, *self.overrides)),
            "COMPOSE_PROJECT_NAME": self.project,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self.variables,
        }

    def __call__(self, *arguments: str, timeout: float = COMMAND) -> str:
        """Run `docker compose ...` for this project; its output."""
        return docker("compose", *arguments, env=self.environment, timeout=timeout)

    def type(self, script: str, *, folder: Path = ROOT) -> str:
        """Run lines of a shell for this project, which may build images and wait for containers; their output."""
        return run(["bash", "-euo", "pipefail", "-c", script], env=self.environment, folder=folder, timeout=BUILD)

    def up(self, *arguments: str) -> None:
        """Start what is not there, and wait until all is healthy."""
        try:
            self("up", "--detach", "--no-build", *WAIT, *arguments, timeout=UP + COMMAND)
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
