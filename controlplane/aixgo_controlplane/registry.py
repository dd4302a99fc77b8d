"""The control plane's state: which instances there are, until when, and what has changed.

Pure: no I/O, and the clock is passed in. Below it, `tombstones.py` remembers who is gone; above it, `service.py` puts
it on gRPC and `prober.py` tells it who is healthy.

How one instance lives here:

    grant (seq) --> listed --renew--> listed --expire--> gone, remembered as a floor: no lower seq comes back
                      |  ^
          set_health  |  | grant (higher seq: new contents; the same seq: a renewal)
                      |
                      `--revoke (seq)--> gone, remembered as a tombstone: neither that seq nor a lower one comes back

Every visible change gets the next version and one entry in a bounded log. A watch is a position in that log, so a
change costs the same for one watcher as for thousands, and a watcher that falls behind the log is cut off.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import count, islice

from aixgo.errors import LimitExceeded, Unavailable, WrongState
from aixgo.runtime.instance import Instance, InstanceState
from aixgo.runtime.updates import Removal, Update

from aixgo_controlplane.tombstones import Tombstones

DEFAULT_LEASE = 10.0
"""Seconds that a lease lasts when the instance does not ask for another length."""
MIN_LEASE = 1.0
"""Seconds of the shortest lease."""
MAX_LEASE = 300.0
"""Seconds of the longest lease."""


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """What bounds a registry's memory. `instances` are listed ones, `tombstones` those remembered after they are gone,
    and `log` is how many changes a watcher may fall behind.
    """

    instances: int = 100_000
    tombstones: int = 100_000
    log: int = 65_536


DEFAULT_LIMITS = RegistryLimits()


@dataclass(slots=True)
class Lease:
    """An instance's right to be listed until `expires`, in seconds of the registry's clock."""

    announced: Instance
    listed: Instance
    seconds: float
    expires: float
    healthy: bool = True
    due: float = field(default=0.0, repr=False)
    """When the one valid entry of the expiry heap comes up; never later than `expires`."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log: what an instance was, what it is, or how it went."""

    before: Instance | None
    after: Instance | None
    removal: Removal | None


class Registry:
    """The instances that hold a lease, indexed by id and by agent name.

    `epoch` names this life of the control plane; `clock` gives seconds and never runs backwards. Leases end only in
    `expire`, which the owner calls a few times a second.
    """

    def __init__(
        self,
        epoch: str,
        clock: Callable[[], float],
        *,
        lease: float = DEFAULT_LEASE,
        limits: RegistryLimits = DEFAULT_LIMITS,
    ) -> None:
        self.epoch = epoch
        self.version = 0
        self.registrations = self.expirations = 0
        """Instances that were listed, and that expired, since it began."""
        self._default_lease = self._longest_lease = min(max(lease, MIN_LEASE), MAX_LEASE)
        self._clock = clock
        self._forgiven = 0.0
        self._limits = limits
        self._leases: dict[str, Lease] = {}
        self._by_agent: dict[str, dict[str, Lease]] = {}
        self._heap: list[tuple[float, int, Lease]] = []
        self._ties = count()
        self._tombstones = Tombstones(limits.tombstones)
        self._log: deque[Change] = deque(maxlen=limits.log)
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, instance: Instance, seconds: float = 0.0) -> Lease:
        """List an instance, or renew its lease with new contents. 0 `seconds` asks for the default length.

        The same `seq` again only renews. Raises WrongState (`fields["seq"]` is the one known) for a `seq` that is
        lower, or that a deregistration has ended, and LimitExceeded when the registry is full.
        """
        lease = self._leases.get(instance.instance_id)
        self._check_seq(instance, lease)
        seconds = min(max(seconds, MIN_LEASE), MAX_LEASE) if seconds > 0 else self._default_lease
        self._longest_lease = max(self._longest_lease, seconds)
        now = self._now()
        if lease is None:
            lease = self._admit(instance, seconds, now)
        else:
            lease.seconds, lease.expires = seconds, now + seconds
            if instance.seq > lease.announced.seq:
                self._replace(lease, instance)
        if not lease.due or lease.expires < lease.due:
            self._schedule(lease)
        return lease

    def renew(self, instance_id: str, seq: int) -> bool:
        """Keep a lease for its length from now. False: there is no such lease with this `seq`; register again."""
        lease = self._leases.get(instance_id)
        if lease is None or lease.announced.seq != seq:
            return False
        lease.expires = self._now() + lease.seconds
        return True

    def revoke(self, instance_id: str, seq: int) -> bool:
        """Take an instance off the list for good: nothing up to `seq` can come back. False: it was not listed.

        Raises WrongState when the instance has announced a higher `seq` since.
        """
        lease = self._leases.get(instance_id)
        if lease is not None and seq < lease.announced.seq:
            raise WrongState(
                f"deregistering seq {seq} of instance {instance_id}, which has announced {lease.announced.seq}",
                fields={"seq": lease.announced.seq},
            )
        if lease is None and self._tombstones.barring(instance_id, seq) is not None:
            return False
        self._bury(Removal(instance_id, seq, expired=False), lease)
        return lease is not None

    def expire(self) -> list[Instance]:
        """Take off the list whose lease has ended, and forget old tombstones. Answers who has expired."""
        now = self._now()
        gone: list[Instance] = []
        while self._heap and self._heap[0][0] <= now:
            due, _, lease = heapq.heappop(self._heap)
            if due != lease.due or self._leases.get(lease.announced.instance_id) is not lease:
                continue
            if lease.expires > now:
                self._schedule(lease)
                continue
            gone.append(lease.listed)
            self.expirations += 1
            self._bury(Removal(lease.announced.instance_id, lease.announced.seq, expired=True), lease)
        self._tombstones.forget(now)
        return gone

    def forgive(self, seconds: float) -> None:
        """Prolong every lease: the control plane itself stood still for so long, and could not hear renewals."""
        self._forgiven += seconds

    def set_health(self, instance_id: str, address: str, healthy: bool) -> bool:
        """Note a health check's verdict on an instance at an address; True when that changed what is listed.

        An unhealthy instance is listed as NOT_READY whatever it announces. A verdict on an address that is no longer
        the instance's is dropped.
        """
        lease = self._leases.get(instance_id)
        if lease is None or lease.announced.address != address or lease.healthy == healthy:
            return False
        lease.healthy = healthy
        return self._list(lease, lease.announced)

    def get(self, instance_id: str) -> Instance | None:
        """The instance as it has announced itself; None when it is not listed."""
        lease = self._leases.get(instance_id)
        return None if lease is None else lease.announced

    def resolve(self, agent: str) -> tuple[Instance, ...]:
        """The instances that serve an agent, in any state."""
        return tuple(lease.listed for lease in self._by_agent.get(agent, {}).values())

    def list(self) -> tuple[Instance, ...]:
        """All instances, in any state."""
        return tuple(lease.listed for lease in self._leases.values())

    def watch(self, agents: Collection[str] = ()) -> Watch:
        """Everything now, then every change, of the instances that serve one of `agents` (empty: of all)."""
        return Watch(self, frozenset(agents))

    def snapshot(self) -> Update:
        """Everything now."""
        gone = self._tombstones.deregistered()
        return Update(self.epoch, self.version, True, self.list(), gone, self._longest_lease)

    def changes_since(self, version: int) -> Iterator[Change]:
        """The log after `version`. Raises LimitExceeded when it no longer reaches back so far."""
        behind = self.version - version
        if behind > len(self._log):
            raise LimitExceeded(
                f"the watcher is {behind} changes behind and {self._limits.log} are kept; watch anew, and read faster",
                fields={"behind": behind},
            )
        return reversed(list(islice(reversed(self._log), behind)))

    @property
    def longest_lease(self) -> float:
        """The longest lease granted so far, in seconds; at least the default."""
        return self._longest_lease

    async def changed(self, version: int) -> None:
        """Return when there is a version above `version`. Raises Unavailable when the registry is closed."""
        while self.version <= version:
            if self._closed:
                raise Unavailable("the control plane is stopping; watch again")
            await self._changed.wait()

    def close(self) -> None:
        """End every watch, once it has seen all changes."""
        self._closed = True
        self._wake()

    def _now(self) -> float:
        return self._clock() - self._forgiven

    def _check_seq(self, instance: Instance, lease: Lease | None) -> None:
        known = self._tombstones.barring(instance.instance_id, instance.seq)
        if known is None:
            if lease is None or instance.seq >= lease.announced.seq:
                return
            known = lease.announced.seq
        raise WrongState(
            f"seq {instance.seq} of instance {instance.instance_id} comes after seq {known}; announce a higher one",
            fields={"seq": known},
        )

    def _admit(self, instance: Instance, seconds: float, now: float) -> Lease:
        if len(self._leases) >= self._limits.instances:
            raise LimitExceeded(
                f"{self._limits.instances} instances are listed, and no more are taken; run another control plane",
                fields={"limit": self._limits.instances},
            )
        self._tombstones.lift(instance.instance_id)
        lease = Lease(instance, instance, seconds, now + seconds)
        self.registrations += 1
        self._leases[instance.instance_id] = lease
        self._index(lease)
        self._publish(None, instance, None)
        return lease

    def _replace(self, lease: Lease, instance: Instance) -> None:
        if instance.address != lease.announced.address:
            lease.healthy = True
        self._unindex(lease)
        self._list(lease, instance)
        self._index(lease)

    def _list(self, lease: Lease, announced: Instance) -> bool:
        before = lease.listed
        hidden = not lease.healthy and announced.state is InstanceState.READY
        lease.announced = announced
        lease.listed = announced.with_state(InstanceState.NOT_READY) if hidden else announced
        if lease.listed == before:
            return False
        self._publish(before, lease.listed, None)
        return True

    def _bury(self, removal: Removal, lease: Lease | None) -> None:
        if lease is not None:
            del self._leases[removal.instance_id]
            self._unindex(lease)
        self._tombstones.bury(removal, self._now())
        self._publish(lease.listed if lease is not None else None, None, removal)

    def _index(self, lease: Lease) -> None:
        for agent in lease.announced.agents:
            self._by_agent.setdefault(agent.name, {})[lease.announced.instance_id] = lease

    def _unindex(self, lease: Lease) -> None:
        for agent in lease.announced.agents:
            served = self._by_agent[agent.name]
            del served[lease.announced.instance_id]
            if not served:
                del self._by_agent[agent.name]

    def _schedule(self, lease: Lease) -> None:
        lease.due = lease.expires
        heapq.heappush(self._heap, (lease.due, next(self._ties), lease))

    def _publish(self, before: Instance | None, after: Instance | None, removal: Removal | None) -> None:
        self.version += 1
        self._log.append(Change(before, after, removal))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Watch:
    """One watcher's place in a registry's log. The first update is a snapshot; changes that waited come as one."""

    def __init__(self, registry: Registry, agents: frozenset[str]) -> None:
        self._registry = registry
        self._agents = agents
        self._version: int | None = None

    async def next(self) -> Update:
        """Wait for the next update.

        Raises LimitExceeded when the watcher has fallen behind the log, and Unavailable when the registry is closed.
        """
        while True:
            update = self.take()
            if update is not None:
                return update
            await self._registry.changed(self._version or 0)

    def take(self) -> Update | None:
        """The next update, or None when there is none yet. Raises LimitExceeded as `next` does."""
        if self._version is None:
            return self._snapshot()
        if self._version == self._registry.version:
            return None
        changed: dict[str, Instance] = {}
        removed: dict[str, Removal] = {}
        for change in self._registry.changes_since(self._version):
            self._fold(change, changed, removed)
        self._version = self._registry.version
        if not changed and not removed:
            return None
        return Update(
            self._registry.epoch,
            self._version,
            False,
            tuple(changed.values()),
            tuple(removed.values()),
            self._registry.longest_lease,
        )

    def _snapshot(self) -> Update:
        update = self._registry.snapshot()
        self._version = update.version
        if not self._agents:
            return update
        changed = tuple(instance for instance in update.changed if self._sees(instance))
        return Update(update.epoch, update.version, True, changed, update.removed, update.lease)

    def _fold(self, change: Change, changed: dict[str, Instance], removed: dict[str, Removal]) -> None:
        after, removal = change.after, change.removal
        if after is not None and self._sees(after):
            removed.pop(after.instance_id, None)
            changed[after.instance_id] = after
            return
        if after is not None and change.before is not None and self._sees(change.before):
            removal = Removal(after.instance_id, after.seq, expired=True)  # it no longer serves what is watched
        if removal is not None:
            changed.pop(removal.instance_id, None)
            removed[removal.instance_id] = removal

    def _sees(self, instance: Instance) -> bool:
        return not self._agents or not self._agents.isdisjoint(instance.by_name)
