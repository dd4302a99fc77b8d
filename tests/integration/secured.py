"""Certificates, and processes of `aixgo` that use them, for the tests of security."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aixgo.security.development import Leaf, write_certificates
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings

from tests.support import START, STOP

AGENTS = """
from pathlib import Path

from aixgo import agent


@agent
async def shout(message):
    return message.payload.upper()


@agent
async def vault(message):
    Path("opened").write_text("")
    return "gold"
"""
FLEET = """
version: 2
agents:
  - {name: shout, role: "people:shout"}
  - {name: vault, role: "people:vault", allow_callers: ["spiffe://aixgo.dev/agent/keeper"]}
"""


def variables(folder: Path, name: str, **more: str) -> dict[str, str]:
    """The variables of a process that has the certificate of `name`."""
    return {
        "AIXGO_TLS_CA_FILE": str(folder / "ca.pem"),
        "AIXGO_TLS_CERT_FILE": str(folder / name / "cert.pem"),
        "AIXGO_TLS_KEY_FILE": str(folder / name / "key.pem"),
        **more,
    }


def security(folder: Path, name: str, **more: Any) -> Security:
    """The same, in this process."""
    own = folder / name
    return Security(SecuritySettings(certificate=own / "cert.pem", key=own / "key.pem", ca=folder / "ca.pem", **more))


def certificates(folder: Path, *names: str) -> Path:
    """A CA and certificates for these names in a folder."""
    write_certificates(folder, [Leaf.of(name) for name in names])
    return folder


def fleet_file(folder: Path) -> Path:
    """A YAML file with two agents, one of which lets only `keeper` in and leaves a file `opened` when it runs."""
    (folder / "people.py").write_text(AGENTS)
    file = folder / "fleet.yaml"
    file.write_text(FLEET)
    return file


class Running:
    """A process that serves: what it said when it was ready, and what it has logged."""

    def __init__(self, ready: Mapping[str, Any], log: Callable[[], str]) -> None:
        self.ready = ready
        self.log = log


@contextmanager
def aixgo(folder: Path, *arguments: str, **environment: str) -> Generator[Running]:
    """A process of `aixgo ... --json`, in `folder`; drained at the end."""
    command = [sys.executable, "-m", "aixgo_services.cli.main", "-v", *arguments, "--json", "--with-parent"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AIXGO_")}
    told = {**clean, "AIXGO_LISTEN": "127.0.0.1:0", **environment}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=told
        ) as process,
    ):

        def logged() -> str:
            log.seek(0)
            return log.read()

        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], START)
            line = process.stdout.readline() if readable else b""
            assert line, f"aixgo {arguments} did not come up:\n{logged()}"
            yield Running(json.loads(line), logged)
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            finally:
                process.kill()
