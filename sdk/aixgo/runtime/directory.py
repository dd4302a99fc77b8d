"""What this process knows of the instances of a mesh: the merged word of several control planes.

Pure: no I/O, and the clock is passed in. `discovery.py` above feeds it from watches; resolvers read it, once a call.

The rules
    * Of one instance the highest `seq` wins, whoever says it. Of equal ones: a control plane that can be heard wins
      over one that cannot or that has forgotten, then the word that lets more calls through.
    * An expiry at one control plane takes nothing away that another still lists under the same `seq`.
    * A deregistration ends its `seq` and every lower one everywhere, and an expiry every lower one, so nothing that
      drained comes back.
    * While a control plane cannot be reached, all that it said stays. When it comes back with a new epoch, what it
      said before stays for one lease more, unless it is announced anew or deregistered.
    * A watch may be by name: then it tells the instances of some names, and which other names there are. Whether those
      are served is said by the control planes that can be heard, or, while none can, by all that were.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from aixgo.errors import InternalError
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.runtime.updates import Removal, Update

FLOOR_SECONDS = 600.0
"""How long an instance that is gone is remembered; twice the longest lease, so nobody lists it any more."""
MAX_FLOORS = 100_000
"""How many instances that are gone are remembered."""
MAX_NAMES = 10_000
"""How many names are remembered, the latest heard of: a call to one that nobody serves just now waits for it."""


@dataclass(slots=True)
class _View:
    """What one control plane has said. What is retained is from before its present epoch, until `retained_until`."""

    epoch: str = ""
    lease: float = 0.0
    reachable: bool = True
    listed: dict[str, Instance] = field(default_factory=dict[str, Instance])
    retained: dict[str, Instance] = field(default_factory=dict[str, Instance])
    catalogue: dict[str, AgentInfo] = field(default_factory=dict[str, AgentInfo])
    retained_catalogue: dict[str, AgentInfo] = field(default_factory=dict[str, AgentInfo])
    retained_until: float = 0.0
    asked: frozenset[str] = frozenset()

    def fading(self) -> bool:
        # Only while the control plane can be reached: else nobody could have registered with it anew.
        return self.reachable and bool(self.retained or self.retained_catalogue)

    def holds(self) -> Iterator[Instance]:
        yield from self.listed.values()
        yield from self.retained.values()

    def names(self) -> set[str]:
        """The names that it knows and tells no instances of."""
        return (self.catalogue.keys() | self.retained_catalogue.keys()) - self.asked

    def describes(self, name: str) -> AgentInfo | None:
        return self.catalogue.get(name) or self.retained_catalogue.get(name)


@dataclass(frozen=True, slots=True)
class _Floor:
    """The least `seq` that an instance that went away may come back with."""

    seq: int
    at: float


class Directory:
    """All instances that a process knows, by the names of their agents. Not thread-safe: one event loop owns it.

    `clock` gives seconds and never runs backwards.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.version = 0
        """Grows with every visible change."""
        self.has_snapshot = False
        """Whether any control plane has ever said all that it knows."""
        self._clock = clock
        self._views: dict[str, _View] = {}
        self._floors: dict[str, _Floor] = {}
        self._visible: dict[str, Instance] = {}
        self._members: dict[str, dict[str, Instance]] = {}
        self._by_name: dict[str, tuple[Instance, ...]] = {}
        self._heard: dict[str, None] = {}

    def instances(self, name: str) -> tuple[Instance, ...]:
        """The instances that serve an agent, in any state."""
        return self._by_name.get(name, ())

    def known(self, name: str) -> bool:
        """Whether an agent of that name is served, or was, and was among the last MAX_NAMES to be heard of."""
        return name in self._heard or name in self._by_name or self.described(name) is not None

    def names(self) -> list[str]:
        """The names that at least one instance serves, sorted."""
        return sorted(set(self._by_name).union(*(view.names() for view in self._witnesses())))

    def described(self, name: str) -> AgentInfo | None:
        """An agent as a control plane describes it of which only the name was watched; None when there is none."""
        return next((info for view in self._witnesses() if (info := view.describes(name)) is not None), None)

    def all(self) -> tuple[Instance, ...]:
        """All instances, in any state."""
        return tuple(self._visible.values())

    def apply(self, control_plane: str, update: Update, asked: Collection[str] = ()) -> None:
        """Merge what a control plane says. Raises InternalError for a change that does not follow a snapshot.

        `asked` are the names that a watch by name tells the instances of; it counts with a snapshot.
        """
        view = self._views.get(control_plane)
        if not update.snapshot and (view is None or update.epoch != view.epoch):
            raise InternalError(f"control plane {control_plane} sent a change of an epoch that it gave no snapshot of")
        if view is None:
            view = self._views[control_plane] = _View()
        names_move = update.snapshot or update.agents or update.ended
        named = view.names() if names_move else None
        touched = list[str]()
        if update.snapshot:
            touched = self._take_snapshot(view, update)
            view.asked = frozenset(asked)
        view.reachable = True
        view.lease = update.lease
        self._forget_floors(self._clock())
        for instance in update.changed:
            view.listed[instance.instance_id] = instance
            view.retained.pop(instance.instance_id, None)
            touched.append(instance.instance_id)
        for removal in update.removed:
            self._remove(view, removal)
            touched.append(removal.instance_id)
        if named is not None:
            self._describe(view, update)
            self.version += view.names() != named
        self._settle(touched)

    def lost(self, control_plane: str) -> None:
        """Note that a control plane cannot be heard. What it said stays."""
        view = self._views.get(control_plane)
        if view is not None and view.reachable:
            view.reachable = False
            self._settle(instance.instance_id for instance in view.holds())

    def next_expiry(self) -> float | None:
        """When `tick` next has something to drop, in seconds of the clock; None: nothing is due."""
        return min((view.retained_until for view in self._views.values() if view.fading()), default=None)

    def tick(self) -> None:
        """Drop what was kept for one lease after a control plane's restart, and is over."""
        now = self._clock()
        touched: list[str] = []
        for view in self._views.values():
            if view.fading() and view.retained_until <= now:
                touched.extend(view.retained)
                self._drop(view.retained)
                self.version += bool(view.retained_catalogue)
                view.retained_catalogue.clear()
        self._forget_floors(now)
        self._settle(touched)

    def _take_snapshot(self, view: _View, update: Update) -> list[str]:
        self.has_snapshot = True
        before = {**view.retained, **view.listed}
        if view.epoch != update.epoch or not view.reachable:
            view.retained_until = self._clock() + max(view.lease, update.lease)
        if view.epoch != update.epoch:
            view.retained = dict(before)
            view.retained_catalogue |= view.catalogue
            view.listed = {}
        else:
            told = {instance.instance_id for instance in update.changed}
            self._drop({key: instance for key, instance in view.listed.items() if key not in told})
            view.listed = {}
        view.catalogue = {}
        view.epoch = update.epoch
        return list(before)

    def _describe(self, view: _View, update: Update) -> None:
        """Take over which agents there are."""
        for name in update.ended:
            view.catalogue.pop(name, None)
        for info in update.agents:
            view.catalogue[info.name] = info
            view.retained_catalogue.pop(info.name, None)
            self._remember(info.name)

    def _witnesses(self) -> list[_View]:
        """The control planes whose word on names counts."""
        views = list(self._views.values())
        return [view for view in views if view.reachable] or views

    def _remove(self, view: _View, removal: Removal) -> None:
        floor = removal.seq if removal.expired else removal.seq + 1
        self._raise_floor(removal.instance_id, floor)
        views = [view] if removal.expired else self._views.values()
        for holder in views:
            for held in (holder.listed, holder.retained):
                instance = held.get(removal.instance_id)
                if instance is not None and instance.seq <= removal.seq:
                    del held[removal.instance_id]

    def _drop(self, held: dict[str, Instance]) -> None:
        for instance in held.values():
            self._raise_floor(instance.instance_id, instance.seq)
        held.clear()

    def _raise_floor(self, instance_id: str, seq: int) -> None:
        known = self._floors.pop(instance_id, None)
        self._floors[instance_id] = _Floor(max(seq, known.seq if known else 0), self._clock())
        if len(self._floors) > MAX_FLOORS:
            del self._floors[next(iter(self._floors))]

    def _forget_floors(self, now: float) -> None:
        while self._floors:
            oldest = next(iter(self._floors))
            if self._floors[oldest].at + FLOOR_SECONDS > now:
                return
            del self._floors[oldest]

    def _settle(self, touched: Iterable[str]) -> None:
        """Work out anew what is visible of these instances."""
        names: set[str] = set()
        for instance_id in touched:
            before = self._visible.get(instance_id)
            after = self._winner(instance_id)
            if before == after:
                continue
            if before is not None:
                names.update(before.by_name)
                self._unlist(before)
            if after is not None:
                names.update(after.by_name)
                self._list(after)
        for name in names:
            self._publish(name)
        self.version += bool(names)

    def _winner(self, instance_id: str) -> Instance | None:
        floor = self._floors.get(instance_id)
        best: tuple[tuple[int, bool, int], Instance] | None = None
        for view in self._views.values():
            current = view.listed.get(instance_id)
            instance = current or view.retained.get(instance_id)
            if instance is None or (floor is not None and instance.seq < floor.seq):
                continue
            rank = (instance.seq, current is not None and view.reachable, -instance.state)
            if best is None or rank > best[0]:
                best = (rank, instance)
        return best[1] if best else None

    def _list(self, instance: Instance) -> None:
        self._visible[instance.instance_id] = instance
        for name in instance.by_name:
            self._members.setdefault(name, {})[instance.instance_id] = instance

    def _unlist(self, instance: Instance) -> None:
        del self._visible[instance.instance_id]
        for name in instance.by_name:
            del self._members[name][instance.instance_id]

    def _publish(self, name: str) -> None:
        self._remember(name)
        members = self._members[name]
        if members:
            self._by_name[name] = tuple(members.values())
        else:
            del self._members[name]
            self._by_name.pop(name, None)

    def _remember(self, name: str) -> None:
        self._heard.pop(name, None)
        self._heard[name] = None
        if len(self._heard) > MAX_NAMES:
            del self._heard[next(iter(self._heard))]
