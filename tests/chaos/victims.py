"""The processes that are attacked, as a fleet runs them: control plane, agents, gateway; and what they use.

One set is in plain text on this machine, one has mTLS. Above: `hostile.py` and `soak.py`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from tests.integration.secured import certificates, variables
from tests.support import START, STOP

AGENTS = """
import asyncio
from aixgo import Agent, Delta, Message, agent


@agent
async def shout(message):
    return str(message.text).upper()[:1000]


@agent
async def slow(message):
    await asyncio.sleep(0.2)
    return "done"


@agent
async def vault(message):
    return "gold"


@agent
async def census(message):
    return {"tasks": len(asyncio.all_tasks())}


class Endless(Agent):
    def __init__(self, spec):
        self.name = spec.name

    async def execute(self, message):
        return message

    async def stream(self, message):
        while True:
            yield Delta("x" * 1000)
            await asyncio.sleep(0)
"""
NAMES = ("shout", "slow", "vault", "census", "endless")
FLEET = """
version: 2
agents:
  - {name: shout, role: "people:shout"}
  - {name: slow, role: "people:slow"}
  - {name: census, role: "people:census"}
  - {name: endless, role: "people:Endless"}
  - {name: vault, role: "people:vault"%s}
"""
ALLOWED = ', allow_callers: ["spiffe://aixgo.dev/agent/keeper"]'
MEMBERS = ("control-plane", "agents", "gateway", "keeper", "mallory")


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@dataclass
class Usage:
    """What a process holds: bytes of memory, file descriptors and threads."""

    rss: int
    fds: int
    threads: int


class Victim:
    """A process of `aixgo`. `ports` are its addresses by what they serve."""

    def __init__(self, name: str, folder: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self.name = name
        self.ports = {"health": f"127.0.0.1:{free_port()}", "metrics": f"127.0.0.1:{free_port()}"}
        told = {name: value for name, value in os.environ.items() if not name.startswith("AIXGO_")}
        told |= {"AIXGO_LISTEN": "127.0.0.1:0", "AIXGO_METRICS_ADDRESS": self.ports["metrics"], **environment}
        told["AIXGO_HEALTH_PORT"] = self.ports["health"].rpartition(":")[2]
        command = [sys.executable, "-m", "aixgo_services.cli.main", *arguments, "--json", "--with-parent"]
        self._log = (folder / f"{name}.log").open("w+")
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=told
        )
        self._seen = psutil.Process(self._process.pid)
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> Self:
        """Return when it serves."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START)
        line = self._process.stdout.readline() if readable else b""
        assert line, f"{self.name} did not come up:\n{self.log()}"
        self.ready = json.loads(line)
        self.ports["main"] = next(v for k, v in self.ready.items() if k in ("address", "control_plane", "gateway"))
        return self

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def usage(self) -> Usage:
        """What it holds now."""
        with self._seen.oneshot():
            return Usage(self._seen.memory_info().rss, self._seen.num_fds(), self._seen.num_threads())

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def log(self) -> str:
        """What it has written to standard error."""
        self._log.flush()
        return Path(self._log.name).read_text(errors="replace")

    def stop(self) -> None:
        """End it in good order, as long as it can."""
        self._process.terminate()
        try:
            self._process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


class Victims:
    """A fleet: control plane, one process of agents, and a gateway. `secured` gives all of them certificates."""

    def __init__(self, folder: Path, *, secured: bool, transport: str = "session") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.secured = secured
        self.folder = folder
        self.certificates = certificates(folder / "certs", *MEMBERS) if secured else None
        self._transport = transport
        self._stack = ExitStack()
        self.all: list[Victim] = []

    def __enter__(self) -> Self:
        (self.folder / "people.py").write_text(AGENTS)
        (self.folder / "fleet.yaml").write_text(FLEET % (ALLOWED if self.secured else ""))
        try:
            register = {"AIXGO_ALLOW_REGISTER": "spiffe://aixgo.dev/agent/agents"} if self.secured else {}
            control = self._start("control-plane", ("controlplane",), **register)
            listed = f"--control-plane={control.ports['main']}"
            served = tuple(f"--agent={name}" for name in NAMES)
            self._start("agents", ("serve", "fleet.yaml", *served, listed))
            self._start("gateway", ("gateway", listed))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def of(self, name: str) -> Victim:
        """The process of a name."""
        return next(victim for victim in self.all if victim.name == name)

    def _start(self, name: str, arguments: tuple[str, ...], **environment: str) -> Victim:
        environment["AIXGO_TRANSPORT"] = self._transport
        if self.certificates is not None:
            environment |= variables(self.certificates, name)
        victim = Victim(name, self.folder, arguments, environment)
        self._stack.callback(victim.stop)
        self.all.append(victim.wait_ready())
        return victim
