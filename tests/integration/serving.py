"""Processes of `aixgo serve`, as a fleet has them, over files that a test writes."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support import START, STOP


@contextmanager
def served(file: Path, names: Sequence[str], **environment: str) -> Generator[str]:
    """A process that serves agents of `file`; its address. It works in the file's folder, and drains at the end."""
    agents = [f"--agent={name}" for name in names]
    command = [sys.executable, "-m", "aixgo_services.cli.main", "serve", str(file), *agents, "--json", "--with-parent"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command,
            cwd=file.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "AIXGO_LISTEN": "127.0.0.1:0", **environment},
        ) as process,
    ):
        try:
            assert process.stdout is not None
            readable, _, _ = select.select([process.stdout], [], [], START)
            line = process.stdout.readline() if readable else b""
            log.seek(0)
            assert line, f"aixgo serve did not come up:\n{log.read()}"
            yield json.loads(line)["address"]
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            finally:
                process.kill()
