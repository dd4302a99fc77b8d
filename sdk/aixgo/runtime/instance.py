"""What is known of an instance: where it is, which agents it serves, whether it takes calls.

Pure records. The control plane's registry keeps them, discovery merges them, the balancer chooses among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property


class InstanceState(IntEnum):
    """Whether an instance takes calls; the numbers of aixgo.v1.InstanceState."""

    READY = 1
    NOT_READY = 2
    DRAINING = 3


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What a caller can know of an agent without calling it."""

    name: str
    role: str = "custom"
    idempotent: bool = False
    pattern: str = ""
    agents: tuple[str, ...] = ()
    ready: bool = True


@dataclass(frozen=True)
class Instance:
    """One running process that serves agents at one address: an instance of each agent that it names.

    `seq` is the instance's own, and grows with everything that it announces of itself.
    """

    instance_id: str
    address: str
    seq: int
    agents: tuple[AgentInfo, ...]
    state: InstanceState = InstanceState.READY
    transports: tuple[str, ...] = ("plain",)
    version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @cached_property
    def by_name(self) -> Mapping[str, AgentInfo]:
        """Its agents by name."""
        return {agent.name: agent for agent in self.agents}

    @cached_property
    def takes(self) -> frozenset[str]:
        """The names of its agents that take calls now."""
        ready = self.state is InstanceState.READY
        return frozenset(agent.name for agent in self.agents if ready and agent.ready)

    def with_state(self, state: InstanceState) -> Instance:
        """A copy in another state."""
        return replace(self, state=state)
