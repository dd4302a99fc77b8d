"""What a control plane tells its watchers: a snapshot, then changes.

Pure records, between the control plane's registry, which writes them, and the directory, which merges those of several
control planes. `aixgo.wire.instances` carries them as aixgo.v1.WatchResponse.
"""

from __future__ import annotations

from dataclasses import dataclass

from aixgo.runtime.instance import AgentInfo, Instance


@dataclass(frozen=True, slots=True)
class Removal:
    """An instance that is gone. `seq` is the one that ended it (deregistered), or the last one known (`expired`)."""

    instance_id: str
    seq: int
    expired: bool


@dataclass(frozen=True, slots=True)
class Update:
    """One step of a control plane's state: everything (`snapshot`), or what has changed.

    `epoch` names one life of the control plane, within which `version` grows; `lease` is the longest lease that it has
    granted, in seconds. A snapshot's `removed` are the deregistrations that the control plane still remembers. In a
    watch by name, `agents` have come (in a snapshot: all there are) and `ended` are served by nobody any more.
    """

    epoch: str
    version: int
    snapshot: bool
    changed: tuple[Instance, ...]
    removed: tuple[Removal, ...]
    lease: float
    agents: tuple[AgentInfo, ...] = ()
    ended: tuple[str, ...] = ()
