"""Finding instances by host name: a headless Service, a Compose service, or a gateway in front of everything.

Owns the targets that names are looked up at, what was found there, and when it is looked up again: when a name is first
called, every few seconds while it is in use, and at once after an instance of it has failed. Resolving, describing,
clock, sleep and randomness are passed in. Above it lies the resolver, which asks it for names that it has no better
source for.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any

from aixgo.errors import AgentNotFound, AixgoError, ConfigError, Unavailable
from aixgo.runtime.instance import AgentInfo, Instance

ANY_NAME = "*"
"""The key of the target for every name that has none of its own."""
SCHEME, PLACE = "dns:///", "{name}"
REFRESH = 5.0
"""Seconds between two look-ups of a name in use, jittered by a fifth."""
SHORTEST_GAP = 0.5
"""Seconds between two look-ups of a name whose instances go on failing."""
IDLE_AFTER = 60.0
"""Seconds without a call after which a name is forgotten, until it is called again."""
DESCRIBE_TIMEOUT = 5.0
"""Seconds that a process has to say which agents it serves; it is asked again at the next look-up."""
DESCRIBED_FOR = 60.0
"""Seconds that its answer is believed."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Every host:port of a host name and port; raises socket.gaierror."""
Describe = Callable[[str, float], Awaitable[Sequence[AgentInfo] | None]]
"""The agents that the process at an address serves, asked for at most so many seconds; None when it does not say."""

log = logging.getLogger(__name__)

_LABEL = re.compile(r"(?!(0[xX][0-9A-Fa-f]*|[0-9]+)$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
"""One part of a host name, and no number, which systems read as an address: names may come from outside the mesh."""
_NO_SUCH_HOST = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})


@dataclass(frozen=True, slots=True)
class Target:
    """Where a name is looked up: one host and port, or, with `many`, every address that the host name resolves to."""

    host: str
    port: int
    many: bool

    @classmethod
    def parse(cls, name: str, text: str) -> Target:
        """The target of an agent; `text` is `host:port` or `dns:///host:port`. Raises ConfigError for what is none."""
        many = text.startswith(SCHEME)
        host, _, port = text.removeprefix(SCHEME).rpartition(":")
        if not host or "/" in host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise ConfigError(
                f"address {text!r} of agent {name!r} is not usable; write host:port, like localhost:50051, or"
                " dns:///host:port for every address of a host name"
            )
        return cls(host, int(port), many)

    def of(self, name: str) -> Target:
        """The target with `{name}` filled in."""
        return Target(self.host.replace(PLACE, name), self.port, self.many)

    def __str__(self) -> str:
        return f"{SCHEME if self.many else ''}{self.host}:{self.port}"


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a host name, as the system resolves it, in a thread. Raises socket.gaierror."""
    try:
        found = await asyncio.to_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # an empty or too long part of the name, which no DNS can know
        raise socket.gaierror(socket.EAI_NONAME, f"no host can have this name: {error}") from error
    return [_address(family, where) for family, _, _, _, where in found]


class _Host:
    """What was found for one name, and the task that looks it up again."""

    __slots__ = ("addresses", "instances", "looked_up_at", "suspected", "target", "task", "used_at")

    def __init__(self, target: Target, now: float) -> None:
        self.target = target
        self.addresses: tuple[str, ...] = ()
        self.instances: tuple[Instance, ...] = ()
        self.looked_up_at = self.used_at = now
        self.suspected = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Hosts:
    """Instances by the name of their agent, each address of the name's host being one.

    A name whose host does not resolve when it is first called is AgentNotFound; one that resolved once and does not any
    more has no instances, and one that cannot be looked up keeps those it has. `random` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        *,
        resolve: Resolve = system_resolve,
        describe: Describe | None = None,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._resolve = resolve
        self._describe = describe
        self._clock = clock
        self._sleep = sleep
        self._random = random or Random().random  # noqa: S311  # jitter, no secret
        self.changed = changed
        self._targets: dict[str, Target] = {}
        self._hosts: dict[str, _Host] = {}
        self._finding: dict[str, asyncio.Task[AixgoError | None]] = {}
        self._described: dict[str, tuple[float, Mapping[str, AgentInfo]]] = {}
        self._describing: dict[str, asyncio.Task[None]] = {}

    # targets

    def connect(self, name: str, target: Target) -> None:
        """Look `name` up at `target`; the name `*` stands for every name that has no target of its own."""
        self.disconnect(name)
        self._targets[name] = target

    def disconnect(self, name: str) -> Target | None:
        """Forget the target of `name` and what was found there; None when there is none."""
        for known in [known for known in self._hosts if self._key(known) == name]:
            self._forget(known)
        return self._targets.pop(name, None)

    def named(self, name: str) -> bool:
        """Whether the name has a target of its own."""
        return name in self._targets and name != ANY_NAME

    def covers(self, name: str) -> bool:
        """Whether the name can be looked up: not an unnamed member (`parent/0`), nor what cannot stand for `{name}`."""
        target = self._targets.get(self._key(name))
        if target is None or "/" in name:
            return False
        return PLACE not in target.host or _LABEL.fullmatch(name) is not None

    # what was found

    def instances(self, name: str) -> Sequence[Instance]:
        """What was found for a name; nothing for one that `find` has not found."""
        host = self._hosts.get(name)
        if host is None:
            return ()
        host.used_at = self._clock()
        return host.instances

    def known(self, name: str) -> bool:
        """Whether the name is found."""
        return name in self._hosts

    def names(self) -> list[str]:
        """The names that have a target, that are found, and that a gateway says it serves."""
        behind = self._hosts.get(ANY_NAME)
        told = [name for address in behind.addresses for name in self._told(address)] if behind is not None else []
        return [name for name in {*self._targets, *self._hosts, *told} if name != ANY_NAME]

    def info(self, name: str) -> AgentInfo | None:
        """What is known of an agent; None for a name that cannot be looked up, or that the gateway does not list."""
        if not self.covers(name):
            return None
        host = self._hosts.get(name) or self._hosts.get(ANY_NAME)
        addresses = host.addresses if host is not None else ()
        told = [self._told(address) for address in addresses if address in self._described]
        if told and not any(name in agents for agents in told):
            return None
        return next((self._info(name, address) for address in addresses), AgentInfo(name))

    def all(self) -> list[Instance]:
        """All instances that were found."""
        return [instance for name, host in self._hosts.items() if name != ANY_NAME for instance in host.instances]

    # looking up

    async def open(self) -> None:
        """Begin to ask a gateway (a `*` without `{name}`) what it serves; returns at once."""
        target = self._targets.get(ANY_NAME)
        if target is not None and PLACE not in target.host and ANY_NAME not in self._hosts:
            self._begin(ANY_NAME)

    async def find(self, name: str, timeout: float) -> None:
        """Look a name up, once for all who ask. Raises AgentNotFound, Unavailable."""
        if name in self._hosts:
            return
        lookup = self._begin(name)
        await asyncio.wait({lookup}, timeout=timeout)
        if not lookup.done():
            raise Unavailable(f"the look-up of {self._target(name)} takes longer than {timeout:.1f} s", retry_after=1.0)
        error = lookup.result()
        if error is not None:
            raise copy.copy(error)  # each caller writes its own path and usage into it
        await self.open()  # in vain as long as the gateway's own host name did not resolve

    def suspect(self, instance_id: str) -> None:
        """An instance has failed: look its name up again soon, because it may have gone."""
        name, _, address = instance_id.rpartition("@")
        host = self._hosts.get(name)
        if host is not None:
            host.suspected.set()
            if address in self._described:
                self._described[address] = (float("-inf"), self._described[address][1])

    async def close(self) -> None:
        """Stop looking up. What was found stays."""
        followers = [host.task for host in self._hosts.values() if host.task is not None]
        tasks: list[asyncio.Task[Any]] = [*self._finding.values(), *self._describing.values(), *followers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _key(self, name: str) -> str:
        return name if name in self._targets else ANY_NAME

    def _target(self, name: str) -> Target:
        return self._targets[self._key(name)].of(name)

    def _begin(self, name: str) -> asyncio.Task[AixgoError | None]:
        """The first look-up of a name, shared by all who wait for it."""
        running = self._finding.get(name)
        if running is None:
            running = asyncio.get_running_loop().create_task(self._first(name, self._target(name)))
            self._finding[name] = running
            running.add_done_callback(lambda _: self._finding.pop(name, None))
        return running

    async def _first(self, name: str, target: Target) -> AixgoError | None:
        try:
            addresses = await self._addresses(target)
        except socket.gaierror as error:
            return _failure(name, target, error)
        if self._key(name) not in self._targets or self._target(name) != target:
            return AgentNotFound(f"agent {name!r} was disconnected from {target}", fields={"agent": name})
        host = self._hosts[name] = _Host(target, self._clock())
        host.task = asyncio.get_running_loop().create_task(self._follow(name, host), name=f"look-ups of {name}")
        self._found(name, host, addresses)
        return None

    async def _addresses(self, target: Target) -> tuple[str, ...]:
        if not target.many:
            return (f"{target.host}:{target.port}",)
        return tuple(sorted(set(await self._resolve(target.host, target.port))))

    async def _follow(self, name: str, host: _Host) -> None:
        """Look a name up again and again, until nobody has called it for a while."""
        while True:
            await self._pause(host)
            if self._clock() - host.used_at > IDLE_AFTER and name != ANY_NAME:
                self._forget(name)
                return
            host.looked_up_at = self._clock()
            try:
                addresses = await self._addresses(host.target)
            except socket.gaierror as error:
                if error.errno not in _NO_SUCH_HOST:
                    log.warning("%s; its last addresses are kept", _failure(name, host.target, error).message)
                    continue
                addresses = ()
            self._found(name, host, addresses)

    async def _pause(self, host: _Host) -> None:
        """Wait for the next look-up: the usual time, or, when an instance has failed, only the shortest gap."""
        sleeping = asyncio.ensure_future(self._sleep(REFRESH * (0.8 + 0.4 * self._random())))
        suspected = asyncio.ensure_future(host.suspected.wait())
        try:
            await asyncio.wait({sleeping, suspected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            suspected.cancel()
        if host.suspected.is_set():
            gap = host.looked_up_at + SHORTEST_GAP - self._clock()
            if gap > 0:
                await self._sleep(gap)
            host.suspected.clear()

    def _found(self, name: str, host: _Host, addresses: tuple[str, ...]) -> None:
        host.addresses = addresses
        self._settle(name, host)
        self._prune()
        for address in addresses:
            if self._describe is not None and address not in self._describing and self._stale(name, address):
                task = asyncio.get_running_loop().create_task(self._ask(address, self._describe))
                self._describing[address] = task
                task.add_done_callback(lambda _, address=address: self._describing.pop(address, None))

    def _settle(self, name: str, host: _Host) -> None:
        """Make the instances of a name anew from its addresses and what is known of them."""
        instances = tuple(Instance(f"{name}@{a}", a, 0, (self._info(name, a),)) for a in host.addresses)
        if instances != host.instances:
            host.instances = instances
            self.changed()

    def _forget(self, name: str) -> None:
        host = self._hosts.pop(name)
        if host.task is not None and host.task is not asyncio.current_task():
            host.task.cancel()
        self._prune()

    def _prune(self) -> None:
        """Forget what was said at addresses that no name has any more."""
        used = {address for other in self._hosts.values() for address in other.addresses}
        for address in set(self._described) - used:
            del self._described[address]

    # what lives there

    def _told(self, address: str) -> Mapping[str, AgentInfo]:
        return self._described[address][1] if address in self._described else {}

    def _info(self, name: str, address: str) -> AgentInfo:
        told = self._told(address).get(name)
        # Whether it is ready changes from moment to moment: the instance itself refuses what it cannot take.
        return AgentInfo(name, told.role, told.idempotent, told.pattern, told.agents) if told else AgentInfo(name)

    def _stale(self, name: str, address: str) -> bool:
        if address not in self._described or name not in self._told(address):
            return True
        return self._clock() - self._described[address][0] > DESCRIBED_FOR

    async def _ask(self, address: str, describe: Describe) -> None:
        """Learn which agents live at an address, above all whether they are idempotent."""
        agents = await describe(address, DESCRIBE_TIMEOUT)
        if agents is None:
            return
        self._described[address] = (self._clock(), {agent.name: agent for agent in agents})
        for name, host in self._hosts.items():
            if address in host.addresses:
                self._settle(name, host)


def _failure(name: str, target: Target, error: socket.gaierror) -> AixgoError:
    if error.errno in _NO_SUCH_HOST:
        return AgentNotFound(f"no agent named {name!r}: host {target.host!r} does not resolve", fields={"agent": name})
    reason = error.strerror or str(error)
    return Unavailable(f"host {target.host!r} of agent {name!r} cannot be looked up now: {reason}", retry_after=1.0)


def _address(family: int, where: tuple[Any, ...]) -> str:
    host, port = where[:2]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
