"""One child process that is kept alive: started, read, started again after a growing pause, stopped.

Owns the rules of restarting. Knows nothing of agents: `supervisor.py` (above) says what to run. Clock, sleep and the
starting of processes are passed in.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from aixgo.errors import Unavailable

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
HEALTHY_AFTER = 60.0
"""Seconds after which a process counts as healthy, so that its next end begins at the first pause again."""
WRONG_USAGE = 2
"""The exit code of `aixgo` for wrong usage or configuration, which no restart heals."""
_LONGEST_LINE = 256 * 1024


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run: the arguments of `aixgo`, and the environment on top of which variables.

    Processes of a lower `stage` are stopped first. `expects` are the agents that it serves once it is up.
    """

    name: str
    arguments: tuple[str, ...]
    stage: int = 0
    expects: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


class Process(Protocol):
    """A running process, as far as it is needed here."""

    @property
    def pid(self) -> int:
        """Its id."""
        ...

    async def line(self) -> str:
        """The next line it writes; empty after the last one."""
        ...

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        ...

    def terminate(self) -> None:
        """Ask it to drain. Does nothing when it has ended."""
        ...

    def kill(self) -> None:
        """End it now. Does nothing when it has ended."""
        ...


Spawn = Callable[[ProcessSpec], Awaitable[Process]]
OnLine = Callable[[str, str], None]
"""Is told each line that a child writes: the child's name, and the line."""


class Backoff:
    """How long to wait before a process is started again: 0.5 s, doubled each time, at most 30 s."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE

    def after(self, uptime: float) -> float:
        """The pause after a run of so many seconds."""
        if uptime >= HEALTHY_AFTER:
            self._next = FIRST_PAUSE
        pause = self._next
        self._next = min(LONGEST_PAUSE, self._next * 2)
        return pause


class Child:
    """A process that is started again when it ends, until `stop`."""

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        spawn: Spawn,
        on_line: OnLine,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.spec = spec
        self.restarts = 0
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the reason, when the process ends and starting it again cannot help."""
        self._spawn, self._on_line, self._clock, self._sleep = spawn, on_line, clock, sleep
        self._process: Process | None = None
        self._stopping = False
        self._last_lines: deque[str] = deque(maxlen=5)
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the running process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Begin to keep it alive."""
        self._task = asyncio.create_task(self._keep_alive(), name=f"supervise {self.spec.name}")

    async def stop(self, grace: float) -> None:
        """Ask it to drain, wait `grace` seconds, then kill it. Returns when it is gone."""
        self._stopping = True
        task = self._task
        if task is None:
            return
        if self._process is None:
            task.cancel()
        else:
            self._process.terminate()
        done, _ = await asyncio.wait({task}, timeout=grace)
        if not done:
            self._on_line(self.spec.name, f"did not stop within {grace:g} s and is killed")
            self.kill()
            await asyncio.wait({task})

    def kill(self) -> None:
        """End the running process now. It is started again unless it is being stopped."""
        if self._process is not None:
            self._process.kill()

    async def _keep_alive(self) -> None:
        backoff = Backoff()
        while not self._stopping:
            started = self._clock()
            code = await self._run_once()
            if self._stopping:
                return
            if code == WRONG_USAGE and not self.failed.done():
                self.failed.set_result("\n".join(self._last_lines) or f"it ended with exit code {code}")
            pause = backoff.after(self._clock() - started)
            self._on_line(self.spec.name, f"ended with exit code {code}; it is started again in {pause:g} s")
            await self._sleep(pause)
            self.restarts += 1

    async def _run_once(self) -> int:
        process = self._process = await self._spawn(self.spec)
        try:
            while line := await process.line():
                self._last_lines.append(line.rstrip())
                self._on_line(self.spec.name, line.rstrip())
            return await process.wait()
        finally:
            process.kill()
            self._process = None


class AixgoProcess:
    """An `aixgo` command as a child of this process.

    Its stdin is a pipe that only this process holds, so that it notices when this process is gone. It leads a process
    group of its own, so that Ctrl-C in a terminal reaches only this process, which stops its children in order.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def spawn(cls, spec: ProcessSpec) -> AixgoProcess:
        """Start it. Raises Unavailable when the system cannot start a process."""
        command = (sys.executable, "-m", "aixgo_services.cli.main", *spec.arguments)
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=dict(spec.environment),
                start_new_session=True, limit=_LONGEST_LINE,
            )  # fmt: skip
        except OSError as error:
            raise Unavailable(f"process {spec.name} cannot be started: {error}") from error
        return cls(process)

    async def line(self) -> str:
        """The next line it writes, a longer one in pieces; empty after the last one."""
        stdout = self._process.stdout
        assert stdout is not None
        try:
            read = await stdout.readuntil(b"\n")
        except asyncio.IncompleteReadError as error:
            read = error.partial
        except asyncio.LimitOverrunError as error:
            read = await stdout.readexactly(max(1, error.consumed))
        return read.decode(errors="replace")

    async def wait(self) -> int:
        """Its exit code."""
        return await self._process.wait()

    def terminate(self) -> None:
        """SIGTERM."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
