"""The memory of instances that are gone, so that nothing late brings them back.

Pure, and bounded in time, number and bytes. `registry.py` above asks it before it lists an instance.
"""

from __future__ import annotations

from dataclasses import dataclass

from aixgo.runtime.updates import Removal

TOMBSTONE_SECONDS = 600.0
"""How long an instance that is gone is remembered: twice the longest lease, so that nobody can still hold it."""
MAX_NAMES_BYTES = 16 * 1024 * 1024
"""Bytes that the names of agents of those who are gone may take. Of whom they are not kept, every watcher hears."""
NAME_BYTES = 128
"""Bytes that a name takes besides its characters: the objects for it, and its place in a set."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """How an instance went, and when, in seconds of the registry's clock; which agents it served, if that is known."""

    removal: Removal
    at: float
    agents: frozenset[str] | None = None

    def bars(self, seq: int) -> bool:
        """Whether a registration under `seq` comes too late: an expiry lets its own `seq` back in."""
        return seq < self.removal.seq or (seq == self.removal.seq and not self.removal.expired)


class Tombstones:
    """The last removal of each instance that is gone, oldest first; at most `limit`, with `most_bytes` of names."""

    def __init__(self, limit: int, most_bytes: int = MAX_NAMES_BYTES) -> None:
        self._limit = limit
        self._most_bytes = most_bytes
        self._bytes = 0
        self._stones: dict[str, Tombstone] = {}

    def barring(self, instance_id: str, seq: int) -> int | None:
        """The `seq` that keeps this one from being listed; None when nothing does."""
        stone = self._stones.get(instance_id)
        return stone.removal.seq if stone is not None and stone.bars(seq) else None

    def bury(self, removal: Removal, now: float, agents: frozenset[str] | None = None) -> None:
        """Remember a removal; the oldest one is forgotten when there are too many."""
        self.lift(removal.instance_id)
        if self._bytes + _bytes_of(agents) > self._most_bytes:
            agents = None
        self._bytes += _bytes_of(agents)
        self._stones[removal.instance_id] = Tombstone(removal, now, agents)
        if len(self._stones) > self._limit:
            self.lift(next(iter(self._stones)))

    def lift(self, instance_id: str) -> None:
        """Forget about an instance: it is listed again."""
        stone = self._stones.pop(instance_id, None)
        if stone is not None:
            self._bytes -= _bytes_of(stone.agents)

    def forget(self, now: float) -> None:
        """Forget what is older than TOMBSTONE_SECONDS."""
        while self._stones:
            oldest = next(iter(self._stones))
            if self._stones[oldest].at + TOMBSTONE_SECONDS > now:
                return
            self.lift(oldest)

    def deregistered(self, agents: frozenset[str] | None = None) -> tuple[Removal, ...]:
        """The removals that watchers of `agents` (None: of all) must hear of.

        These are deregistrations, for an expiry is local to a control plane; those of who knows whom concern everybody.
        """
        return tuple(
            stone.removal
            for stone in self._stones.values()
            if not stone.removal.expired
            and (agents is None or stone.agents is None or not agents.isdisjoint(stone.agents))
        )


def _bytes_of(agents: frozenset[str] | None) -> int:
    return 0 if agents is None else sum(len(name) + NAME_BYTES for name in agents)
