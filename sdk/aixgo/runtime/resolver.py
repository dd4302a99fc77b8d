"""Finding the instances of a name: fixed addresses first, then what the control planes say, then `*`.

Owns the fixed addresses and the waiting for something to change. Below it lie `directory.py` (what is known),
`discovery.py` (how it is heard) and `dns.py` (host names); `remote.py` asks it before each attempt. No call asks a
control plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from aixgo.agent import NAME
from aixgo.errors import AgentNotFound
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.dns import ANY_NAME, Hosts, Target
from aixgo.runtime.instance import AgentInfo, Instance

EARLY_NAMES = 100
"""Names that may be asked for before a control plane has said which there are."""


class Resolver:
    """Instances by name. `discovery` is None when there is no control plane; `hosts` looks up host names.

    Where discovery is by name, the instances of a name are asked for when it is first used. One that nobody knows is
    not asked for, so callers cannot make a process follow what they invent.
    """

    def __init__(self, discovery: Discovery | None, hosts: Hosts | None = None) -> None:
        self._discovery = discovery
        self._hosts = hosts or Hosts()
        self._hosts.changed = self.touch
        self._fixed: dict[str, tuple[Instance, ...]] = {}
        self._changed = asyncio.Event()
        self._used: set[str] = set()

    def connect(self, name: str, address: str) -> None:
        """Resolve `name` to `address`, whatever the control planes say. Raises ConfigError for what is no address.

        `dns:///host:port` stands for every address of the host name. The name `*` stands for all names that are not
        known otherwise, and `{name}` in its host for the name.
        """
        target = Target.parse(name, address)
        self._fixed.pop(name, None)
        self._hosts.disconnect(name)
        if target.many or name == ANY_NAME:
            self._hosts.connect(name, target)
        else:
            self._fixed[name] = (Instance(f"{name}@{address}", address, 0, (AgentInfo(name),)),)
        self.touch()

    def disconnect(self, name: str) -> str:
        """Forget the address of `name` and return it; raises AgentNotFound when there is none."""
        target = self._hosts.disconnect(name)
        if target is not None:
            return str(target)
        instances = self._fixed.pop(name, None)
        if instances is None:
            raise AgentNotFound(f"{name!r} is not connected to an address", fields={"agent": name})
        return instances[0].address

    def described(self, name: str, info: AgentInfo) -> None:
        """What the process at the fixed address of `name` says of the agent."""
        fixed = self._fixed.get(name)
        if fixed is not None:
            self._fixed[name] = (Instance(fixed[0].instance_id, fixed[0].address, 0, (info,)),)

    def use(self, names: Iterable[str]) -> None:
        """Ask for the instances of agents that will be called; returns at once. No agent has a name that is none."""
        names = {name for name in names if NAME.fullmatch(name)}
        self._used |= names
        if self._discovery is not None:
            self._discovery.follow(names)

    def use_all(self) -> None:
        """Ask for the instances of all agents; returns at once."""
        if self._discovery is not None:
            self._discovery.follow_all()

    async def heard_all(self, timeout: float) -> bool:
        """Ask for the instances of all agents, and wait until they are listed; False when none came in `timeout` s."""
        return self._discovery is None or await self._discovery.heard_all(timeout)

    def instances(self, name: str) -> Sequence[Instance]:
        """The instances that are known now, ready or not."""
        fixed = self._fixed.get(name)
        if fixed is not None:
            return fixed
        if self._discovery is not None and self._heard_of(name) and not self._hosts.named(name):
            if name not in self._used:
                self.use((name,))
            return self._discovery.directory.instances(name)
        return self._hosts.instances(name)

    def known(self, name: str) -> bool:
        """Whether the name was ever seen."""
        if name in self._fixed or self._hosts.known(name):
            return True
        return self._heard_of(name) and not self._hosts.named(name)

    async def find(self, name: str, timeout: float) -> bool:
        """Wait until it is clear whether a name is known; False when no control plane has said anything so far.

        Raises AgentNotFound or Unavailable for a name that is looked up and cannot be found.
        """
        if not self.heard and len(self._used) < EARLY_NAMES:
            self.use((name,))  # it may well be there, and the first snapshot then has its instances
        heard = self._hosts.named(name) or await self.first_snapshot(timeout)
        if not self.known(name) and self._hosts.covers(name):
            await self._hosts.find(name, timeout)
            return True
        return heard

    def info(self, name: str) -> AgentInfo | None:
        """What is known of the agent; None when it is not known where it could be."""
        listed = next((i.by_name[name] for i in self.instances(name) if name in i.by_name), None)
        if listed is None and self._discovery is not None and not self._hosts.named(name):
            listed = self._discovery.directory.described(name)
        return listed or self._hosts.info(name)

    def suspect(self, instance: Instance) -> None:
        """An instance has failed: what was looked up may be out of date."""
        self._hosts.suspect(instance.instance_id)

    def fixed_names(self) -> list[str]:
        """The names with fixed addresses."""
        return list(self._fixed)

    def names(self) -> list[str]:
        """The names that have instances."""
        heard = self._discovery.directory.names() if self._discovery is not None else []
        return sorted({*self._fixed, *heard, *self._hosts.names()})

    def instance_ids(self) -> set[str]:
        """The ids of all instances that are known now."""
        return {instance.instance_id for instance in self.all()}

    def all(self) -> Sequence[Instance]:
        """All instances that are known now, ready or not."""
        heard = self._discovery.directory.all() if self._discovery is not None else ()
        return [*(instance for fixed in self._fixed.values() for instance in fixed), *heard, *self._hosts.all()]

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

    def _heard_of(self, name: str) -> bool:
        return self._discovery is not None and self._discovery.directory.known(name)
