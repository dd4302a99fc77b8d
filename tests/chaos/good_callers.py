"""Good callers in a process of their own, so that nothing an attacker does to itself keeps them from being served.

    python -m tests.chaos.good_callers CONTROL_PLANE GATEWAY [CERTIFICATES]

Three of them (plain, session, through the gateway) call one after another until standard input ends. What became of the
calls is written as lines of JSON, a few times a second. Below: `lag.py`; above: `hostile.py`, by `GoodCallers`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aixgo import DistributedRuntime
from aixgo.errors import AgentUnavailable, AixgoError, DeadlineExceeded, InstanceLost

from tests.chaos.lag import LoopLag
from tests.integration.secured import security

DEADLINE = 30.0
PATIENCE: dict[type[AixgoError], float] = {DeadlineExceeded: DEADLINE, InstanceLost: 4.0, AgentUnavailable: 2.0}
"""Seconds after which a call fails in this way: its own deadline, the timeout of keepalive, and READY_TIMEOUT. One of
which this process stood still for half was not failed by those who were called."""
TOLD = 0.25
"""Seconds between two lines."""


@dataclass
class Served:
    """What became of good callers' calls. `lag` is the worst of their event loop, in seconds.

    `stood_still` are failures that are their own: this process got no processor while a limit of seconds passed.
    """

    ok: int = 0
    failed: Counter[str] = field(default_factory=Counter[str])
    stood_still: Counter[str] = field(default_factory=Counter[str])
    slowest: float = 0.0
    lag: float = 0.0


class GoodCallers:
    """The process of good callers of one fleet, for as long as the `async with` lasts.

    `served` is kept up to date, and `attacks` counts what goes on meanwhile: a failure is noted with it.
    """

    def __init__(self, served: Served, attacks: Counter[str], *arguments: str) -> None:
        self._served, self._attacks = served, attacks
        self._arguments = arguments
        self._ready = asyncio.Event()

    async def __aenter__(self) -> Self:
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, "-m", "tests.chaos.good_callers", *self._arguments]
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        self._reader = asyncio.create_task(self._read())
        async with asyncio.timeout(60):
            await self._ready.wait()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(2 * DEADLINE):
                await self._reader
                if await self._process.wait():
                    self._served.failed[f"the good callers ended with {self._process.returncode}"] += 1
        finally:
            if self._process.returncode is None:
                self._process.kill()
                self._served.failed["the good callers hang"] += 1

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told: dict[str, Any] = json.loads(line)
            during = ", ".join(name for name, count in self._attacks.items() if count > 0)
            self._served.failed.update(f"{failure}, during: {during}" for failure in told.pop("failed"))
            self._served.stood_still.update(told.pop("stood_still"))
            for name, value in told.items():
                setattr(self._served, name, value)
            self._ready.set()


class Caller:
    """One good caller; what it has to tell of it is in `served`, and `failed` until that was told."""

    def __init__(self, runtime: DistributedRuntime, served: Served, failed: list[str], lag: LoopLag) -> None:
        self._runtime, self._served, self._failed, self._lag = runtime, served, failed, lag

    async def find(self) -> None:
        """Return when a first call was answered: the fleet is still finding itself."""
        while True:
            try:
                await self._runtime.call("shout", "first", timeout=DEADLINE)
            except AixgoError:
                await asyncio.sleep(0.1)
            else:
                return

    async def work(self, stop: asyncio.Event) -> None:
        """Call until `stop`."""
        clock = asyncio.get_running_loop().time
        while not stop.is_set():
            since = clock()
            try:
                reply = await self._runtime.call("shout", "good", timeout=DEADLINE)
                self._served.ok += reply.payload == "GOOD"
                if reply.payload != "GOOD":
                    self._failed.append("a wrong reply")
            except AixgoError as error:
                self._note(error, since, clock())
            self._served.slowest = max(self._served.slowest, clock() - since)
            await asyncio.sleep(0.02)

    def _note(self, error: AixgoError, since: float, now: float) -> None:
        patience = PATIENCE.get(type(error))
        lag = self._lag.since(since if patience is None else min(since, now - patience))
        what = f"{type(error).__name__}: {error}"[:200]
        what = f"{what}, after {now - since:.1f} s, with a lag of {lag:.1f} s"
        if patience is not None and lag > patience / 2:
            self._served.stood_still[what] += 1
        else:
            self._failed.append(what)


async def run(control_plane: str, gateway: str, certificates: str = "") -> None:
    """Call until standard input ends."""
    trusted = security(Path(certificates), "keeper") if certificates else None
    runtimes = [
        DistributedRuntime(control_plane=[control_plane], transport="plain", security=trusted),
        DistributedRuntime(control_plane=[control_plane], transport="session", security=trusted),
        DistributedRuntime(connect={"shout": gateway}, transport="plain", security=trusted),
    ]
    stop, served, failed, lag = asyncio.Event(), Served(), list[str](), LoopLag()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lag)
        for runtime in runtimes:
            await stack.enter_async_context(runtime)
        callers = [Caller(runtime, served, failed, lag) for runtime in runtimes]
        await asyncio.gather(*(caller.find() for caller in callers))
        async with asyncio.TaskGroup() as group:
            for caller in callers:
                group.create_task(caller.work(stop))
            while not stop.is_set():
                tell(served, failed, lag)
                await asyncio.sleep(TOLD)
        asyncio.get_running_loop().remove_reader(sys.stdin)
        tell(served, failed, lag)


def tell(served: Served, failed: list[str], lag: LoopLag) -> None:
    """One line of what there is so far; each failure once."""
    numbers = {"ok": served.ok, "slowest": served.slowest, "lag": lag.worst}
    print(json.dumps({**numbers, "failed": failed, "stood_still": served.stood_still}), flush=True)
    failed.clear()
    served.stood_still.clear()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
