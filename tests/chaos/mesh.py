"""The processes that things happen to: two control planes and three instances of every agent of `cast.py`.

Owns starting, killing and replacing them; where networks can be made, each instance lives in one of its own. Above:
`faults.py`. All of it blocks: call it in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from tests.chaos.cast import NAMES
from tests.chaos.networks import Network
from tests.support import Process

INSTANCES, CONTROL_PLANES = 3, 2
CAST = "tests.chaos.cast:new_agents"


class Mesh:
    """A fleet. `transport` is how its processes call others; `networks` says whether each instance gets its own."""

    def __init__(self, *, networks: bool, transport: str = "plain") -> None:
        self._transport = transport
        self._stack = ExitStack()
        self._wanted = networks
        self.networks: Sequence[Network] = ()
        self.control_planes: list[Process] = []
        self.hosts: list[Process] = []
        self.drains_failed = 0

    @property
    def addresses(self) -> list[str]:
        """Where the control planes are; the same after a restart."""
        return list(self._addresses)

    def start_control_plane(self, number: int) -> None:
        """Start a control plane anew at its address; return when it serves."""
        self.control_planes[number] = self._registry(self._addresses[number]).wait_ready()

    def start_host(self, number: int) -> None:
        """Start an instance in the place of an earlier one; return when it is listed."""
        self.hosts[number] = self._host(number).wait_ready()

    def drain(self, number: int) -> None:
        """End an instance in good order; return when it has ended."""
        self.drains_failed += self.hosts[number].drain() != 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self.hosts, *self.control_planes):
            if process.running:
                process.thaw()
                process.terminate()
        self._stack.close()

    def _start(self) -> None:
        if self._wanted:
            self.networks = [self._stack.enter_context(Network(number)) for number in range(INSTANCES)]
        here = self.networks[0].gateway if self.networks else "127.0.0.1"
        starting = [self._registry(f"{here}:0") for _ in range(CONTROL_PLANES)]
        self.control_planes = [process.wait_ready() for process in starting]
        self._addresses = [process.address for process in self.control_planes]
        starting = [self._host(number) for number in range(INSTANCES)]
        self.hosts = [process.wait_ready() for process in starting]

    def _registry(self, listen: str) -> Process:
        return self._stack.enter_context(Process("registry", f"--listen={listen}", "--insecure"))

    def _host(self, number: int) -> Process:
        network = self.networks[number] if self.networks else None
        return self._stack.enter_context(
            Process(
                "agents",
                *NAMES,
                *(f"--control-plane={address}" for address in self._addresses),
                f"--cast={CAST}",
                f"--transport={self._transport}",
                f"--listen={network.address if network else '127.0.0.1'}:0",
                "--insecure",
                inside=network.inside if network else (),
            )
        )
