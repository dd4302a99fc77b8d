"""A PostgreSQL server of the tests' own: a new, empty cluster in a temporary folder, at a free port, gone afterwards.

`tests/tools/install-postgres` installs the programs. Above: the tests of what is stored in PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "aixgo", "not-to-be-shown"
_ACCOUNT = "postgres"
"""Who runs the server when the tests run as root, which PostgreSQL refuses."""
_START = 60.0


def find_program(name: str) -> str | None:
    """A program of PostgreSQL: on the PATH, or where Debian has them."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@contextmanager
def postgres_server() -> Generator[str]:
    """A server; its DSN. Its password is PASSWORD. Raises AssertionError with its log when it does not start."""
    folder = Path(tempfile.mkdtemp(prefix="aixgo-postgres-"))
    data, log, password = folder / "data", folder / "log", folder / "password"
    password.write_text(PASSWORD)
    if _account():
        for path in (folder, password):
            shutil.chown(path, _ACCOUNT)
    port = _free_port()
    try:
        _run("initdb", ["-D", data, "-U", USER, f"--pwfile={password}", "--auth=scram-sha-256", "-N", "-E", "UTF8"])
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        _run("pg_ctl", ["-D", data, "-l", log, "-o", options, "-w", "-t", str(int(_START)), "start"], log)
        try:
            yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            _run("pg_ctl", ["-D", data, "-m", "immediate", "-w", "stop"], log)
    finally:
        shutil.rmtree(folder)


def _account() -> str | None:
    return _ACCOUNT if os.geteuid() == 0 else None


def _run(program: str, arguments: Sequence[str | Path], log: Path | None = None) -> None:
    path = find_program(program)
    assert path is not None, f"{program} is not installed"
    done = subprocess.run(
        [path, *map(str, arguments)],
        user=_account(),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a pipe would be kept open by the server that pg_ctl leaves behind
        stderr=subprocess.PIPE if log is None else subprocess.DEVNULL,
        timeout=2 * _START,
        check=False,
    )
    told = done.stderr.decode() if log is None else log.read_text() if log.exists() else ""
    assert done.returncode == 0, f"{program} failed:\n{told}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
