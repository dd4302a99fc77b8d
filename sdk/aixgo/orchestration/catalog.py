"""Patterns by name, as YAML names them, made from their `config`.

Owns the table of patterns, as import paths, so that naming one loads nothing. Above it lies `aixgo.config.build`;
below, one file per pattern, each with its own configuration.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aixgo.errors import ConfigError
from aixgo.imports import find_object
from aixgo.names import nearest

if TYPE_CHECKING:
    from aixgo.orchestration.base import Limits, Member, Orchestrator

PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "supervisor": "aixgo.orchestration.supervisor:Supervisor",
        "sequential": "aixgo.orchestration.sequential:Sequential",
        "parallel": "aixgo.orchestration.parallel:Parallel",
        "router": "aixgo.orchestration.router:Router",
        "swarm": "aixgo.orchestration.swarm:Swarm",
        "hierarchical": "aixgo.orchestration.hierarchical:Hierarchical",
        "rag": "aixgo.orchestration.rag:RAG",
        "reflection": "aixgo.orchestration.reflection:Reflection",
        "ensemble": "aixgo.orchestration.ensemble:Ensemble",
        "debate": "aixgo.orchestration.debate:Debate",
        "mapreduce": "aixgo.orchestration.mapreduce:MapReduce",
        "planning": "aixgo.orchestration.planning:Planning",
    }
)
"""Patterns: name -> module:Class."""


def build(pattern: str, name: str, agents: Sequence[Member], config: Mapping[str, Any], limits: Limits) -> Orchestrator:
    """An orchestrator from its description; raises ConfigError naming the key and the fix."""
    from aixgo.orchestration.reading import read_config  # names alone need no pydantic

    cls = find_pattern(pattern)
    return cls.from_config(name, agents, read_config(cls.Config, name, config), limits)


def find_pattern(pattern: str) -> type[Orchestrator]:
    """The class of a pattern, or of one of the user's own (`my_pkg.patterns:Cascade`), imported now.

    Raises ConfigError for a name that is none.
    """
    if ":" in pattern:
        return _own(pattern)
    if pattern not in PATTERNS:
        hint = f"{nearest(pattern, PATTERNS)}; or name a class: my_pkg.patterns:Class"
        raise ConfigError(f"pattern {pattern!r} is not known; {hint}")
    module, _, name = PATTERNS[pattern].partition(":")
    return getattr(importlib.import_module(module), name)


def _own(path: str) -> type[Orchestrator]:
    from aixgo.orchestration.base import Orchestrator  # names alone need no runtime

    found = find_object(path, f"pattern {path!r}", "a subclass of aixgo.Orchestrator")
    if not (isinstance(found, type) and issubclass(found, Orchestrator)):
        raise ConfigError(f"pattern {path!r} is no subclass of aixgo.Orchestrator")
    if "from_config" not in vars(found) or not hasattr(found, "Config"):
        raise ConfigError(f"pattern {path!r} cannot be made from YAML; give it a `Config` and a `from_config`")
    return found
