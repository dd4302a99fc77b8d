"""Finding the instances of a name: fixed addresses first, then what the control planes say.

Owns the fixed addresses and the waiting for something to change. Below it lie `directory.py` (what is known) and
`discovery.py` (how it is heard); `remote.py` asks it before each attempt. No call asks a control plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aixgo.errors import AgentNotFound, ConfigError
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.instance import AgentInfo, Instance


class Resolver:
    """Instances by name. `discovery` is None when there is no control plane."""

    def __init__(self, discovery: Discovery | None) -> None:
        self._discovery = discovery
        self._fixed: dict[str, tuple[Instance, ...]] = {}
        self._changed = asyncio.Event()

    def connect(self, name: str, address: str) -> None:
        """Resolve `name` to `address`, whatever the control planes say. Raises ConfigError for what is no address."""
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise ConfigError(
                f"address {address!r} of agent {name!r} is not usable; write host:port, like localhost:50051"
            )
        self._fixed[name] = (Instance(f"{name}@{address}", address, 0, (AgentInfo(name),)),)
        self.touch()

    def disconnect(self, name: str) -> str:
        """Forget the fixed address of `name` and return it; raises AgentNotFound when there is none."""
        instances = self._fixed.pop(name, None)
        if instances is None:
            raise AgentNotFound(f"{name!r} is not connected to an address", fields={"agent": name})
        return instances[0].address

    def described(self, name: str, info: AgentInfo) -> None:
        """What the process at the fixed address of `name` says of the agent."""
        fixed = self._fixed.get(name)
        if fixed is not None:
            self._fixed[name] = (Instance(fixed[0].instance_id, fixed[0].address, 0, (info,)),)

    def instances(self, name: str) -> Sequence[Instance]:
        """The instances that are known now, ready or not."""
        fixed = self._fixed.get(name)
        if fixed is not None:
            return fixed
        return self._discovery.directory.instances(name) if self._discovery is not None else ()

    def known(self, name: str) -> bool:
        """Whether the name was ever seen."""
        return name in self._fixed or (self._discovery is not None and self._discovery.directory.known(name))

    def info(self, name: str) -> AgentInfo | None:
        """What is known of the agent; None when no instance is listed."""
        return next((i.by_name[name] for i in self.instances(name) if name in i.by_name), None)

    def fixed_names(self) -> list[str]:
        """The names with fixed addresses."""
        return list(self._fixed)

    def names(self) -> list[str]:
        """The names that have instances."""
        heard = self._discovery.directory.names() if self._discovery is not None else []
        return sorted({*self._fixed, *heard})

    def instance_ids(self) -> set[str]:
        """The ids of all instances that are known now."""
        return {instance.instance_id for instance in self.all()}

    def all(self) -> Sequence[Instance]:
        """All instances that are known now, ready or not."""
        heard = self._discovery.directory.all() if self._discovery is not None else ()
        return [*(instance for fixed in self._fixed.values() for instance in fixed), *heard]

    @property
    def heard(self) -> bool:
        """Whether a control plane has said what there is, or there is none to ask."""
        return self._discovery is None or self._discovery.directory.has_snapshot

    async def first_snapshot(self, timeout: float) -> bool:
        """Wait until the control planes have said what there is; False when none did within `timeout` seconds."""
        return self._discovery is None or await self._discovery.first_snapshot(timeout)

    def touch(self) -> None:
        """Wake those who wait: something else than the directory has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, timeout: float) -> None:
        """Return when something may have changed, or after `timeout` seconds. Raises WrongState when closed."""
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._changed.wait())}
        if self._discovery is not None:
            waits.add(asyncio.ensure_future(self._discovery.changed(self._discovery.directory.version)))
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()
