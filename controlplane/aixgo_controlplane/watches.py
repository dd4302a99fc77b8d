"""The watches of a registry: who hears of which change, and what waits for a watcher until it reads.

Pure, on one event loop. `registry.py` above tells it every change; `service.py` reads the watches.

A change is noted only at the watches that it concerns, which an index by agent name finds: what nobody watches costs
nothing, however many watchers there are. What waits for a watcher is the last word on each instance, so a burst comes
as one update; a watcher for whom too many changes wait is cut off, loses what waits, and begins anew with a snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from aixgo.errors import LimitExceeded, Unavailable
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.runtime.updates import Removal, Update


@dataclass(frozen=True, slots=True)
class Change:
    """What an instance was, what it is, or how it went."""

    before: Instance | None
    after: Instance | None
    removal: Removal | None

    @property
    def names(self) -> set[str]:
        """The agents that it served or serves."""
        return {name for instance in (self.before, self.after) if instance is not None for name in instance.by_name}


class Source(Protocol):
    """What a watch reads of the registry."""

    epoch: str
    version: int

    @property
    def longest_lease(self) -> float:
        """The longest lease granted so far, in seconds."""
        ...

    def described(self, name: str) -> AgentInfo | None:
        """An agent as one of its instances describes it; None when nobody serves it."""
        ...

    def snapshot(self, agents: frozenset[str], *, by_name: bool) -> Update:
        """Everything that a watch sees."""
        ...


class Watches:
    """The open watches, by what they see."""

    def __init__(self) -> None:
        self.closed = False
        self._of_all: set[Watch] = set()
        self._of_names: set[Watch] = set()
        self._by_agent: dict[str, set[Watch]] = {}

    def add(self, watch: Watch) -> None:
        """Tell `watch` of changes from now on."""
        for group in self._groups(watch):
            group.add(watch)

    def discard(self, watch: Watch) -> None:
        """Tell `watch` nothing more."""
        for group in self._groups(watch):
            group.discard(watch)
        for name in watch.agents:
            if not self._by_agent[name]:
                del self._by_agent[name]

    def tell(self, change: Change) -> None:
        """Note a change at every watch that it concerns; the end of an instance that was not listed concerns all."""
        listed = change.before is not None or change.after is not None
        for watch in self._seeing(change.names) if listed else self._everyone():
            watch.note(change)

    def tell_names(self, names: Iterable[str]) -> None:
        """Note that agents have come or ended, at the watches that follow which there are."""
        names = set(names)
        if names:
            for watch in self._of_names:
                watch.note_names(names)

    def close(self) -> None:
        """End every watch once it has told what waits."""
        self.closed = True
        for watch in self._everyone():
            watch.wake()

    def _groups(self, watch: Watch) -> Iterator[set[Watch]]:
        if watch.by_name:
            yield self._of_names
        elif not watch.agents:
            yield self._of_all
        for name in watch.agents:
            yield self._by_agent.setdefault(name, set())

    def _seeing(self, names: set[str]) -> set[Watch]:
        return self._of_all.union(*(self._by_agent.get(name, ()) for name in names))

    def _everyone(self) -> set[Watch]:
        return self._of_all.union(self._of_names, *self._by_agent.values())


class Watch:
    """One watcher's view: of the instances that serve one of `agents`; of all when those are empty and not `by_name`.

    `by_name` adds which agents there are. The first update is a snapshot, with which the watch opens; whoever has
    opened it closes it. `limit` is how many changes may wait.
    """

    def __init__(
        self, source: Source, watches: Watches, agents: frozenset[str], *, by_name: bool = False, limit: int
    ) -> None:
        self.agents = agents
        self.by_name = by_name
        self._source = source
        self._watches = watches
        self._limit = limit
        self._open = False
        self._waiting = 0
        self._changed: dict[str, Instance] = {}
        self._removed: dict[str, Removal] = {}
        self._names: set[str] = set()
        self._wake = asyncio.Event()

    async def next(self) -> Update:
        """Wait for the next update.

        Raises LimitExceeded when the watcher is too far behind, and Unavailable when the registry is closed.
        """
        while True:
            self._wake.clear()
            update = self.take()
            if update is not None:
                return update
            if self._watches.closed:
                raise Unavailable("the control plane is stopping; watch again")
            await self._wake.wait()

    def take(self) -> Update | None:
        """The next update, or None when there is none yet. Raises LimitExceeded as `next` does."""
        if not self._open:
            self._open = True
            self._watches.add(self)
            return self._source.snapshot(self.agents, by_name=self.by_name)
        if self._waiting > self._limit:
            raise LimitExceeded(
                f"the watcher is {self._waiting} changes behind and {self._limit} are kept; watch anew,"
                " and read faster",
                fields={"behind": self._waiting},
            )
        if not self._waiting:
            return None
        source = self._source
        described = {name: source.described(name) for name in self._names}
        update = Update(
            source.epoch,
            source.version,
            False,
            tuple(self._changed.values()),
            tuple(self._removed.values()),
            source.longest_lease,
            tuple(info for info in described.values() if info is not None),
            tuple(name for name, info in described.items() if info is None),
        )
        self._forget()
        self._waiting = 0
        return update

    def close(self) -> None:
        """Hear no more; what waits is dropped."""
        if self._open:
            self._open = False
            self._watches.discard(self)
        self._forget()

    def note(self, change: Change) -> None:
        """Keep the last word on an instance until it is read."""
        if not self._more_waits():
            return
        after, removal = change.after, change.removal
        if after is not None and self._sees(after):
            self._removed.pop(after.instance_id, None)
            self._changed[after.instance_id] = after
            return
        if after is not None:
            removal = Removal(after.instance_id, after.seq, expired=True)  # it no longer serves what is watched
        if removal is not None:
            self._changed.pop(removal.instance_id, None)
            self._removed[removal.instance_id] = removal

    def note_names(self, names: set[str]) -> None:
        """Keep which agents have come or ended until that is read."""
        if self._more_waits():
            self._names |= names

    def wake(self) -> None:
        """Let the watcher look."""
        self._wake.set()

    def _more_waits(self) -> bool:
        """Count a change; False: the watcher is cut off, and nothing more is kept for it."""
        self._waiting += 1
        self._wake.set()
        if self._waiting <= self._limit:
            return True
        self._forget()
        return False

    def _forget(self) -> None:
        self._changed, self._removed, self._names = {}, {}, set()

    def _sees(self, instance: Instance) -> bool:
        return not (self.agents or self.by_name) or not self.agents.isdisjoint(instance.by_name)
