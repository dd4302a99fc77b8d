"""The control plane's state: which instances there are, until when, and what has changed.

Pure: no I/O, and the clock is passed in. Below it, `tombstones.py` remembers who is gone, `watches.py` tells who
watches, and `room.py` counts what is held; above it, `service.py` puts it on gRPC and `prober.py` tells it who is
healthy.

How one instance lives here:

    grant (seq) --> listed --renew--> listed --expire--> gone, remembered as a floor: no lower seq comes back
                      |  ^
          set_health  |  | grant (higher seq: new contents; the same seq: a renewal)
                      |
                      `--revoke (seq)--> gone, remembered as a tombstone: neither that seq nor a lower one comes back

Every visible change gets the next version and is told to the watches that it concerns.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from aixgo.errors import WrongState
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.runtime.updates import Removal, Update

from aixgo_controlplane.room import DEFAULT_LIMITS, RegistryLimits, Room, Size
from aixgo_controlplane.tombstones import Tombstones
from aixgo_controlplane.watches import Change, Watch, Watches

DEFAULT_LEASE = 10.0
"""Seconds that a lease lasts when the instance does not ask for another length."""
MIN_LEASE = 1.0
"""Seconds of the shortest lease."""
MAX_LEASE = 300.0
"""Seconds of the longest lease."""
SPARE_ENTRIES = 1_000
"""Entries of the expiry heap beyond two for each lease, above which those that count for nothing are thrown out."""


@dataclass(slots=True)
class Lease:
    """An instance's right to be listed until `expires`, in seconds of the registry's clock."""

    announced: Instance
    listed: Instance
    size: Size
    seconds: float
    expires: float
    healthy: bool = True
    due: float = field(default=0.0, repr=False)
    """When the one valid entry of the expiry heap comes up; never later than `expires`."""


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
        self._room = Room(limits)
        self._leases: dict[str, Lease] = {}
        self._by_agent: dict[str, dict[str, Lease]] = {}
        self._heap: list[tuple[float, str]] = []
        self._tombstones = Tombstones(limits.tombstones)
        self._watches = Watches()
        self._catalogue: tuple[AgentInfo, ...] | None = None

    def __len__(self) -> int:
        return len(self._leases)

    @property
    def held(self) -> Size:
        """What all listed instances hold."""
        return self._room.held

    def grant(self, instance: Instance, seconds: float = 0.0) -> Lease:
        """List an instance, or renew its lease with new contents. 0 `seconds` asks for the default length.

        The same `seq` again only renews. Raises WrongState (`fields["seq"]` is the one known) for a `seq` that is
        lower, or that a deregistration has ended, and LimitExceeded when the registry is full; what was listed until
        then stays so.
        """
        lease = self._leases.get(instance.instance_id)
        self._check_seq(instance, lease)
        renewed = lease is not None and instance.seq == lease.announced.seq
        size = lease.size if lease is not None and renewed else Size.of(instance)
        self._room.check(size, lease.size if lease is not None else None)
        seconds = min(max(seconds, MIN_LEASE), MAX_LEASE) if seconds > 0 else self._default_lease
        self._longest_lease = max(self._longest_lease, seconds)
        now = self._now()
        if lease is None:
            lease = self._admit(instance, size, seconds, now)
        else:
            lease.seconds, lease.expires = seconds, now + seconds
            if not renewed:
                self._replace(lease, instance, size)
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
            due, instance_id = heapq.heappop(self._heap)
            lease = self._leases.get(instance_id)
            if lease is None or due != lease.due:
                continue
            if lease.expires > now:
                self._schedule(lease)
                continue
            gone.append(lease.listed)
            self.expirations += 1
            self._bury(Removal(instance_id, lease.announced.seq, expired=True), lease)
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
        change = self._relisted(lease)
        self._publish(change)
        return change is not None

    def late(self) -> set[str]:
        """The ids of instances with less than half of their lease left: they renew at a third, and have missed that."""
        now = self._now()
        return {key for key, lease in self._leases.items() if lease.expires - now < lease.seconds / 2}

    def get(self, instance_id: str) -> Instance | None:
        """The instance as it has announced itself; None when it is not listed."""
        lease = self._leases.get(instance_id)
        return None if lease is None else lease.announced

    def resolve(self, agent: str) -> tuple[Instance, ...]:
        """The instances that serve an agent, in any state."""
        return tuple(lease.listed for lease in self._by_agent.get(agent, {}).values())

    def list(self) -> tuple[Instance, ...]:
        """All instances, in any state; may be asked for from another thread."""
        return tuple(lease.listed for lease in tuple(self._leases.values()))

    def watch(self, agents: Collection[str] = (), *, by_name: bool = False) -> Watch:
        """Everything now, then every change, of the instances that serve one of `agents`.

        Empty `agents` stand for all; with `by_name` for none, and the watch tells which agents there are.
        """
        return Watch(self, self._watches, frozenset(agents), by_name=by_name, limit=self._limits.behind)

    def snapshot(self, agents: frozenset[str] = frozenset(), *, by_name: bool = False) -> Update:
        """Everything that a watch with these parameters sees now."""
        if agents or by_name:
            leases = {key: lease for name in agents for key, lease in self._by_agent.get(name, {}).items()}
            changed = tuple(lease.listed for lease in leases.values())
        else:
            changed = self.list()
        gone = self._tombstones.deregistered(agents if agents or by_name else None)
        catalogue = self.catalogue() if by_name else ()
        return Update(self.epoch, self.version, True, changed, gone, self._longest_lease, catalogue)

    def catalogue(self) -> tuple[AgentInfo, ...]:
        """Every agent that is served, as one of its instances describes it; the same object until some come or end."""
        if self._catalogue is None:
            self._catalogue = tuple(info for name in self._by_agent if (info := self.described(name)) is not None)
        return self._catalogue

    def described(self, name: str) -> AgentInfo | None:
        """An agent as one of its instances describes it; None when nobody serves it."""
        for lease in self._by_agent.get(name, {}).values():
            return lease.announced.by_name[name]
        return None

    @property
    def longest_lease(self) -> float:
        """The longest lease granted so far, in seconds; at least the default."""
        return self._longest_lease

    def close(self) -> None:
        """End every watch, once it has seen all changes."""
        self._watches.close()

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

    def _admit(self, instance: Instance, size: Size, seconds: float, now: float) -> Lease:
        self._tombstones.lift(instance.instance_id)
        lease = Lease(instance, instance, size, seconds, now + seconds)
        self._room.held += size
        self.registrations += 1
        self._leases[instance.instance_id] = lease
        came = self._index(lease)
        self._publish(Change(None, instance, None), came)
        return lease

    def _replace(self, lease: Lease, instance: Instance, size: Size) -> None:
        self._room.held += size - lease.size
        lease.size = size
        if instance.address != lease.announced.address:
            lease.healthy = True
        ended = self._unindex(lease)
        lease.announced = instance
        came = self._index(lease)
        self._publish(self._relisted(lease), came ^ ended)

    def _relisted(self, lease: Lease) -> Change | None:
        """List a lease as its announcement and its health say; None when that changes nothing."""
        before, announced = lease.listed, lease.announced
        hidden = not lease.healthy and announced.state is InstanceState.READY
        lease.listed = announced.with_state(InstanceState.NOT_READY) if hidden else announced
        return None if lease.listed == before else Change(before, lease.listed, None)

    def _bury(self, removal: Removal, lease: Lease | None) -> None:
        ended = set[str]()
        if lease is not None:
            del self._leases[removal.instance_id]
            self._room.held -= lease.size
            ended = self._unindex(lease)
        listed = lease.listed if lease is not None else None
        self._tombstones.bury(removal, self._now(), frozenset(listed.by_name) if listed is not None else None)
        self._publish(Change(listed, None, removal), ended)

    def _index(self, lease: Lease) -> set[str]:
        """Find a lease by its agents; the names that nobody served before."""
        came = set[str]()
        for name in lease.announced.by_name:
            served = self._by_agent.get(name)
            if served is None:
                served = self._by_agent[name] = {}
                came.add(name)
            served[lease.announced.instance_id] = lease
        return came

    def _unindex(self, lease: Lease) -> set[str]:
        """Undo `_index`; the names that nobody serves any more."""
        ended = set[str]()
        for name in lease.announced.by_name:
            served = self._by_agent[name]
            del served[lease.announced.instance_id]
            if not served:
                del self._by_agent[name]
                ended.add(name)
        return ended

    def _schedule(self, lease: Lease) -> None:
        lease.due = lease.expires
        heapq.heappush(self._heap, (lease.due, lease.announced.instance_id))
        if len(self._heap) > 2 * len(self._leases) + SPARE_ENTRIES:  # most are of those who were gone before their time
            self._heap = [(each.due, key) for key, each in self._leases.items()]
            heapq.heapify(self._heap)

    def _publish(self, change: Change | None, names: Iterable[str] = ()) -> None:
        """Tell a change, and the names that have come or ended with it."""
        if change is None:
            return
        self.version += 1
        if names:
            self._catalogue = None
        self._watches.tell(change)
        self._watches.tell_names(names)
