"""The table: each pattern around one slot for a member, as Python and as YAML say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aixgo import (
    RAG,
    Debate,
    Ensemble,
    Hierarchical,
    Limits,
    MapReduce,
    Orchestrator,
    Parallel,
    Planning,
    Reflection,
    Router,
    Sequential,
    Supervisor,
    Swarm,
)
from aixgo.orchestration.base import DEFAULT_LIMITS, Member

Make = Callable[[str, Member, Limits], Orchestrator]


@dataclass(frozen=True)
class Row:
    """One pattern: how it is made around `slot`, what YAML says, and metadata that a good run has."""

    make: Make
    agents: tuple[str, ...]
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]

    def yaml(self, pattern: str, name: str, slot: str) -> dict[str, Any]:
        """The same as an entry of `orchestrations:`."""
        spec: dict[str, Any] = {"name": name, "pattern": pattern, "config": _filled(self.config, slot)}
        return spec | ({"agents": _filled(list(self.agents), slot)} if self.agents else {})


TABLE: Mapping[str, Row] = {
    "supervisor": Row(
        lambda name, slot, limits: Supervisor(name, [slot, "leaf"], supervisor="lead", limits=limits),
        ("SLOT", "leaf"),
        {"supervisor": "lead"},
        {"rounds": 1, "finished": True},
    ),
    "sequential": Row(
        lambda name, slot, limits: Sequential(name, [slot, "leaf"], limits=limits),
        ("SLOT", "leaf"),
        {},
        {"step_count": 2},
    ),
    "parallel": Row(
        lambda name, slot, limits: Parallel(name, [slot, "leaf"], limits=limits),
        ("SLOT", "leaf"),
        {},
        {"agent_count": 2},
    ),
    "router": Row(
        lambda name, slot, limits: Router(name, "sorter", {"a": slot, "b": "leaf"}, limits=limits),
        (),
        {"classifier": "sorter", "routes": {"a": "SLOT", "b": "leaf"}},
        {"category": "a"},
    ),
    "swarm": Row(
        lambda name, slot, limits: Swarm(name, ["greeter", slot], handoffs={"greeter": [slot]}, limits=limits),
        ("greeter", "SLOT"),
        {"handoffs": {"greeter": ["SLOT"]}},
        {"handoff_count": 1},
    ),
    "hierarchical": Row(
        lambda name, slot, limits: Hierarchical(name, {"first": slot, "second": "leaf"}, manager="lead", limits=limits),
        (),
        {"manager": "lead", "teams": {"first": "SLOT", "second": "leaf"}},
        {"level": 1},
    ),
    "rag": Row(
        lambda name, slot, limits: RAG(name, "shelf", slot, limits=limits),
        (),
        {"retriever": "shelf", "generator": "SLOT"},
        {"grounded": True},
    ),
    "reflection": Row(
        lambda name, slot, limits: Reflection(name, slot, "lead", limits=limits),
        (),
        {"generator": "SLOT", "critic": "lead"},
        {"iterations": 1, "stopped": "threshold"},
    ),
    "ensemble": Row(
        lambda name, slot, limits: Ensemble(name, [slot, "leaf", "leaf-2"], limits=limits),
        ("SLOT", "leaf", "leaf-2"),
        {},
        {"strategy": "majority", "used_fallback": False},
    ),
    "debate": Row(
        lambda name, slot, limits: Debate(name, [slot, "leaf"], moderator="lead", structured=False, limits=limits),
        ("SLOT", "leaf"),
        {"moderator": "lead", "structured": False},
        {"rounds": 1, "verdict_by": "moderator"},
    ),
    "mapreduce": Row(
        lambda name, slot, limits: MapReduce(name, slot, reducer="join", limits=limits),
        (),
        {"mapper": "SLOT", "reducer": "join"},
        {"item_count": 1},
    ),
    "planning": Row(
        lambda name, slot, limits: Planning(name, [slot, "leaf"], "lead", limits=limits),
        ("SLOT", "leaf"),
        {"planner": "lead"},
        {"step_count": 2, "replans": 0},
    ),
}


def make(pattern: str, name: str, slot: Member, limits: Limits = DEFAULT_LIMITS) -> Orchestrator:
    """A pattern from Python."""
    return TABLE[pattern].make(name, slot, limits)


def in_yaml(pattern: str, name: str, slot: str) -> dict[str, Any]:
    """A pattern as YAML has it."""
    return TABLE[pattern].yaml(pattern, name, slot)


def _filled(value: Any, slot: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(each, slot) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, slot) for each in value]
    return slot if value == "SLOT" else value
