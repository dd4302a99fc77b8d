"""A fleet at 70% of what it can do, for long: memory, tasks and file descriptors have to stay flat.

    python -m tests.chaos.soak --minutes 20

Over each transport a short calibration finds how many calls a second a fleet answers; then it gets 70% of that, unary
and streamed, paced, and is looked at each minute. A straight line through the readings (least squares) says by how much
they grow in an hour. Ends with 1 when a promise broke.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from aixgo import DistributedRuntime
from aixgo.errors import AixgoError

from tests.chaos.victims import Victims

SHARE = 0.7
CALIBRATION, WARM_UP = 10.0, 20.0
"""Seconds of full load that tell what a fleet can do; seconds of the steady load before the first reading."""
WORKERS = 32
"""Calls in flight while it is calibrated."""
READINGS_A_MINUTE = 4
STREAMED, EVENTS = 10, 20
"""One of so many calls is a stream, which is left after so many events."""
MOST = 400
"""Calls in flight above which none is added: then the machine has less to give than when it was calibrated."""
MAX_GROWTH = 0.10
"""By how much of its first reading memory may have grown over the whole run, by the straight line."""
MAX_TASKS = 20
"""By how many the tasks of the agents' process may differ, by the straight line, between beginning and end."""


@dataclass
class Reading:
    """What was seen at one moment: MB and file descriptors of each process, and tasks of the agents' process."""

    at: float
    rss: dict[str, float]
    fds: dict[str, int]
    tasks: int


@dataclass
class Soaked:
    """What became of one transport's fleet."""

    transport: str
    capacity: float
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    readings: list[Reading] = field(default_factory=list[Reading])

    def growth(self, values: Sequence[float]) -> float:
        """How much the straight line through these values rises from the first reading to the last."""
        times = [reading.at for reading in self.readings]
        return slope(times, values) * (times[-1] - times[0])

    def broken(self) -> list[str]:
        """Which promises broke."""
        found = [f"{self.transport}: {what} ({count}x)" for what, count in self.failed.items()]
        for name in self.readings[0].rss:
            values = [reading.rss[name] for reading in self.readings]
            if self.growth(values) > MAX_GROWTH * values[0]:
                found.append(f"{self.transport}: {name} grows by {self.growth(values):.1f} MB")
        if abs(self.growth([float(reading.tasks) for reading in self.readings])) > MAX_TASKS:
            found.append(f"{self.transport}: tasks {[reading.tasks for reading in self.readings]}")
        return found

    def table(self) -> str:
        """The readings, and the straight lines."""
        names = list(self.readings[0].rss)
        lines = [
            f"{self.transport}: {self.capacity:.0f} calls/s at most, {SHARE:.0%} of it asked for",
            f"{self.answered} answered, {self.failed.total()} failed",
            "",
            "| minute | " + " | ".join(f"{name} MB, fds" for name in names) + " | tasks |",
            "| ---: |" + " --- |" * (len(names) + 1),
        ]
        for one in self.readings:
            cells = " | ".join(f"{one.rss[name]:.1f}, {one.fds[name]}" for name in names)
            lines.append(f"| {one.at / 60:.2f} | {cells} | {one.tasks} |")
        rises = " | ".join(f"{self.growth([one.rss[name] for one in self.readings]):+.1f} MB" for name in names)
        tasks = self.growth([float(one.tasks) for one in self.readings])
        return "\n".join([*lines, f"| line | {rises} | {tasks:+.1f} |"])


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the straight line through points by least squares; 0 for fewer than two."""
    count = len(times)
    middle, mean = sum(times) / max(1, count), sum(values) / max(1, count)
    spread = sum((time - middle) ** 2 for time in times)
    return sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True)) / spread if spread else 0.0


class Caller:
    """Calls a fleet, and notes what fails in `soaked`."""

    def __init__(self, runtime: DistributedRuntime, soaked: Soaked) -> None:
        self._runtime, self._soaked = runtime, soaked
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def calibrate(self, seconds: float) -> float:
        """Calls a second that are answered with WORKERS in flight."""
        end, before = monotonic() + seconds, self._soaked.answered

        async def work() -> None:
            while monotonic() < end:
                await self._one()

        await asyncio.gather(*(work() for _ in range(WORKERS)))
        return (self._soaked.answered - before) / seconds

    async def steady(self, rate: float, stop: asyncio.Event) -> None:
        """So many calls a second until `stop`, whether earlier ones have been answered or not."""
        began, made = monotonic(), 0
        while not stop.is_set():
            due = int((monotonic() - began) * rate)
            for _ in range(min(due - made, WORKERS, MOST - len(self._tasks))):
                task = asyncio.create_task(self._one())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            made = due
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._tasks)

    async def tasks(self) -> int:
        """Tasks of the agents' process, as one of its agents counts them."""
        reply = await self._runtime.call("census", "", timeout=30)
        assert isinstance(reply.payload, dict)
        return int(str(reply.payload["tasks"]))

    async def _one(self) -> None:
        self._number += 1
        try:
            if self._number % STREAMED:
                await self._runtime.call("shout", "a message of some length " * 4, timeout=30)
            else:
                await self._listen()
            self._soaked.answered += 1
        except AixgoError as error:
            self._soaked.failed[f"{type(error).__name__}: {error}"[:150]] += 1

    async def _listen(self) -> None:
        async with self._runtime.stream("endless", "", timeout=30) as events:
            heard = 0
            async for _ in events:
                heard += 1
                if heard == EVENTS:
                    return


async def soak(transport: str, minutes: float) -> Soaked:
    """One fleet over one transport, for so long."""
    with tempfile.TemporaryDirectory() as folder, Victims(Path(folder), secured=False, transport=transport) as fleet:
        control = fleet.of("control-plane").ports["main"]
        soaked = Soaked(transport, 0.0)
        async with DistributedRuntime(control_plane=[control], transport=transport) as runtime:
            caller = Caller(runtime, soaked)
            await runtime.call("shout", "first", timeout=30)
            soaked.capacity = await caller.calibrate(CALIBRATION)
            stop = asyncio.Event()
            load = asyncio.create_task(caller.steady(SHARE * soaked.capacity, stop))
            await asyncio.sleep(WARM_UP)
            began = monotonic()
            for number in range(int(minutes * READINGS_A_MINUTE) + 1):
                await asyncio.sleep(max(0.0, began + number * 60 / READINGS_A_MINUTE - monotonic()))
                seen = {victim.name: victim.usage() for victim in fleet.all}
                rss = {name: usage.rss / 1e6 for name, usage in seen.items()}
                fds = {name: usage.fds for name, usage in seen.items()}
                soaked.readings.append(Reading(monotonic() - began, rss, fds, await caller.tasks()))
            stop.set()
            await load
    return soaked


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="for each transport")
    parser.add_argument("--transport", action="append", choices=["plain", "session"])
    arguments = parser.parse_args()
    broken: list[str] = []
    for transport in arguments.transport or ["session", "plain"]:
        soaked = asyncio.run(soak(transport, arguments.minutes))
        print(soaked.table(), flush=True)
        broken += soaked.broken()
    print("every promise held" if not broken else "BROKEN:\n" + "\n".join(broken))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
