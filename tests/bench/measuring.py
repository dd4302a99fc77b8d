"""What the comparisons share: how many rounds they take, and server processes to call."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PEERS = Path(__file__).with_name("peers.py")
ROUNDS = int(os.environ.get("AIXGO_BENCH_ROUNDS", "7"))


@contextmanager
def peer(*arguments: str) -> Generator[tuple[str, int, float]]:
    """A server process; yields its address and pid, and how long it took from start to serving."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(PEERS), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        yield address, process.pid, time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
