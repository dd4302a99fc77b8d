"""Networks of their own for processes, which can be cut off from this one and healed: namespaces of Linux.

Needs root with CAP_NET_ADMIN and iproute2; `available` says whether it works here. Above: `mesh.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self


class Network:
    """A network namespace, joined to this one by a pair of virtual Ethernet devices. `number` is from 0 to 63.

    A process runs in it by `inside`, and listens on `address`. `gateway` is the address of this side.
    """

    def __init__(self, number: int) -> None:
        run = os.getpid()
        self.name = f"aixgo-{run}-{number}"
        self._device = f"aix{run % 1_000_000}-{number}"
        subnet = f"10.{200 + run // 250 % 50}.{run % 250}"
        self.gateway, self.address = f"{subnet}.{4 * number + 1}", f"{subnet}.{4 * number + 2}"

    @property
    def inside(self) -> Sequence[str]:
        """The command that runs another one in it."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """Cut it off: what either side sends is lost without a word."""
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def heal(self) -> None:
        """Join it again."""
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "route", "replace", "default", "via", self.gateway)

    def __enter__(self) -> Self:
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _ip("address", "add", f"{self.gateway}/30", "dev", self._device)
            _ip("link", "set", self._device, "up")
            _ip("-n", self.name, "address", "add", f"{self.address}/30", "dev", "eth0")
            _ip("-n", self.name, "link", "set", "lo", "up")
            self.heal()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # it was never made
            _ip("link", "delete", self._device)  # here, for the end of a namespace takes its devices only later
        _ip("netns", "delete", self.name)


def available() -> str:
    """Why networks cannot be made here; "" when they can."""
    if shutil.which("ip") is None:
        return "the command `ip` (iproute2) is missing"
    try:
        with Network(63):
            return ""
    except RuntimeError as error:
        return str(error)


def _ip(*arguments: str) -> None:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {ended.stderr.strip()}")
