"""What the comparisons share: how many rounds they take, server processes to call, and what CPU time was spent.

All of it, servers included, runs on asyncio's own event loop; with AIXGO_BENCH_UVLOOP=1 on uvloop's, which the
processes of aixgo use where it is installed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

PEERS = Path(__file__).with_name("peers.py")
ROUNDS = int(os.environ.get("AIXGO_BENCH_ROUNDS", "7"))
UVLOOP = os.environ.get("AIXGO_BENCH_UVLOOP", "") == "1"
PAYLOAD = "x" * 1024
IN_FLIGHT = 64
TOKENS = 200
"""Tokens of a stream."""
if UVLOOP:  # here, because this is what every process of the bench imports
    import uvloop

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


@contextmanager
def peer(*arguments: str) -> Generator[tuple[str, int, float]]:
    """A server process; yields its address and pid, and how long it took from start to serving."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(PEERS), *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the server {' '.join(arguments)!r} did not start; it has said why")
        yield address, process.pid, time.perf_counter() - started
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has had, all its threads: its CPU clock, as clock_getcpuclockid(3) names it."""
    return time.clock_gettime((~pid << 3) | 2)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call took, in seconds: by the clock, callers that ran beside it included, and of CPU on each side."""

    wall: float
    caller: float
    callee: float

    @property
    def both(self) -> float:
        """CPU of caller and callee."""
        return self.caller + self.callee


async def cost(call: Callable[[], Awaitable[object]], calls: int, pid: int, callers: int = IN_FLIGHT) -> Cost:
    """What one of so many calls to process `pid` takes, when so many callers make one after the other."""
    each = max(1, calls // callers)

    async def caller() -> None:
        for _ in range(each):
            await call()

    begun, ours, theirs = time.perf_counter(), time.process_time(), cpu_of(pid)
    await asyncio.gather(*(caller() for _ in range(callers)))
    made = each * callers
    return Cost(
        (time.perf_counter() - begun) / made, (time.process_time() - ours) / made, (cpu_of(pid) - theirs) / made
    )


def middle(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(
        median(each.wall for each in costs),
        median(each.caller for each in costs),
        median(each.callee for each in costs),
    )
