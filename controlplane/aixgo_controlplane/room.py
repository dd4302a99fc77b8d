"""How much room a registry has, and how much of it the listed instances take.

Pure. `registry.py` above asks before it lists an instance. What is bounded is what grows with it: memory, and the
snapshot that every watcher gets, which has to fit into the largest update that clients take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from aixgo.errors import LimitExceeded
from aixgo.runtime.instance import Instance
from aixgo.wire.instances import listed_bytes


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """What bounds a registry's memory.

    `instances` are listed ones, `agents` theirs altogether, `bytes` those of what all of them announce; `tombstones`
    are instances remembered after they are gone, and `behind` is how many changes may wait for a watcher. A watch by
    name gets instances and a catalogue of the agents, so twice `bytes`, and an id for each tombstone, make the largest
    update: less than clients take (`aixgo.runtime.contact.MAX_UPDATE_BYTES`).
    """

    instances: int = 100_000
    agents: int = 300_000
    bytes: int = 24 * 1024 * 1024
    tombstones: int = 100_000
    behind: int = 65_536


DEFAULT_LIMITS = RegistryLimits()


@dataclass(frozen=True, slots=True)
class Size:
    """What instances take: their number, that of their agents, and the bytes of what they announce."""

    instances: int = 0
    agents: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, instance: Instance) -> Self:
        """That of one instance."""
        return cls(1, len(instance.agents), listed_bytes(instance))

    def __add__(self, other: Size) -> Size:
        return Size(self.instances + other.instances, self.agents + other.agents, self.bytes + other.bytes)

    def __sub__(self, other: Size) -> Size:
        return Size(self.instances - other.instances, self.agents - other.agents, self.bytes - other.bytes)


class Room:
    """What is held, and whether more fits."""

    def __init__(self, limits: RegistryLimits) -> None:
        self.held = Size()
        self._limits = limits

    def check(self, size: Size, instead: Size | None = None) -> None:
        """Raise LimitExceeded, naming the limit, when an instance of `size` does not fit, in place of one or besides.

        One that is no larger in anything than that in whose place it comes always fits.
        """
        more = size - (instead or Size())
        for name in ("instances", "agents", "bytes"):
            held, limit = getattr(self.held, name), getattr(self._limits, name)
            if getattr(more, name) > 0 and held + getattr(more, name) > limit:
                raise LimitExceeded(
                    f"the registry holds {held} {name} of instances, and {limit} are allowed: this one has"
                    f" {getattr(size, name)}. End others, or run another control plane for some of them",
                    fields={"field": name, "limit": limit},
                )
