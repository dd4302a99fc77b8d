"""Processes under test, and waiting for what they do: shared by `contract/` and `integration/`.

Owns starting, killing and draining the processes of `contract/host.py`. Nothing here sleeps to pace a test: a process
is ready when it says so, and conditions that nobody announces are looked at again until a bound.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self

from aixgo import AixgoError

ROOT = Path(__file__).resolve().parent.parent
START, STOP = 60.0, 30.0
"""Seconds that a process may take to serve, and to end; generous, because machines may be busy."""
POLL = 0.02
"""Seconds between two looks at a condition that nobody announces."""


class Process:
    """One process of `contract/host.py`. Leaving the `with` ends it, in good order as long as it can.

    `inside` is a command that runs it where it is to run, for example in a network of its own; `environment` is what it
    has besides that of this process.
    """

    def __init__(
        self, *arguments: str, inside: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by __exit__
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.contract.host", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        )
        self.address = ""
        self.instance_id = ""

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_ready(self) -> Self:
        """Return when it serves; raises AssertionError with its log when it does not."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START)
        line = self._process.stdout.readline() if readable else b""
        assert line, f"process {self.pid} did not come up:\n{self.log()}"
        ready = json.loads(line)
        self.address, self.instance_id = ready["address"], ready["instance_id"]
        return self

    def log(self) -> str:
        """What it has written to standard error."""
        self._log.seek(0)
        return self._log.read()

    def kill(self) -> None:
        """SIGKILL it, and return when it is gone."""
        self._process.kill()
        self._process.wait(STOP)

    def terminate(self) -> None:
        """SIGTERM it, if it still runs."""
        self._process.terminate()

    def drain(self) -> int:
        """SIGTERM it, and return its exit code."""
        self._process.terminate()
        return self._process.wait(STOP)

    def freeze(self) -> None:
        """SIGSTOP it: its connections stay open, and nobody answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it."""
        self._process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.kill()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def start_registry(listen: str = "127.0.0.1:0") -> Process:
    """Start a control plane."""
    return Process("registry", "--listen", listen)


CAST = "tests.contract.agents:new_agents"
"""The function that makes the agents of a fleet, where nobody says otherwise."""


def start_host(
    names: Sequence[str], *, control_plane: Sequence[str] = (), cast: str = CAST, transport: str = "plain"
) -> Process:
    """Start a process that serves these agents of a cast, listed with the control planes that are given, and calls
    others over `transport`.
    """
    listed = (f"--control-plane={address}" for address in control_plane)
    return Process("agents", *names, *listed, f"--cast={cast}", f"--transport={transport}")


class Fleet:
    """A control plane and the processes that are listed with it. `transport` is how they call each other."""

    def __init__(self, registry: Process, hosts: Sequence[Process], transport: str = "plain") -> None:
        self.registry = registry
        self.hosts = tuple(hosts)
        self.transport = transport

    @property
    def control_plane(self) -> str:
        """The address of the control plane."""
        return self.registry.address


@contextmanager
def fleet(*places: Sequence[str], cast: str = CAST, transport: str = "plain") -> Generator[Fleet]:
    """A control plane and one process for each of `places`, all serving; drained at the end."""
    with ExitStack() as stack:
        registry = stack.enter_context(start_registry()).wait_ready()
        hosts = [
            stack.enter_context(start_host(names, control_plane=[registry.address], cast=cast, transport=transport))
            for names in places
        ]
        try:
            yield Fleet(registry, [host.wait_ready() for host in hosts], transport)
        finally:
            for host in hosts:
                host.terminate()


async def eventually(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Return when `condition` holds; raises TimeoutError when it does not within `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  # of processes and files nobody sets an event
            await asyncio.sleep(POLL)


class Stopwatch:
    """How long a `with` block took: for bounds, never for exact times."""

    seconds = 0.0


@contextmanager
def seconds_of() -> Generator[Stopwatch]:
    """Measure the `with` block."""
    watch, started = Stopwatch(), monotonic()
    try:
        yield watch
    finally:
        watch.seconds = monotonic() - started


class Load:
    """Steady calls from a few workers, for as long as the `async with` lasts. `errors` has those that failed."""

    def __init__(self, call: Callable[[], Awaitable[Any]], *, workers: int = 8) -> None:
        self._call = call
        self._workers = workers
        self._ended = asyncio.Event()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self.replies: list[Any] = []
        self.errors: list[Exception] = []

    @property
    def count(self) -> int:
        """Calls that have ended."""
        return len(self.replies) + len(self.errors)

    async def more(self, calls: int) -> None:
        """Return when so many calls more have ended."""
        until = self.count + calls
        async with asyncio.timeout(60.0):
            while self.count < until:
                await self._ended.wait()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    async def _work(self) -> None:
        while not self._stopping:
            try:
                self.replies.append(await self._call())
            except AixgoError as error:
                self.errors.append(error)
            self._ended.set()
            self._ended = asyncio.Event()
