"""The ready agents by role, as import paths, so that naming a role loads nothing.

Above: whoever builds agents from YAML.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from aixgo.agent import Agent
from aixgo.errors import ConfigError
from aixgo.names import nearest

ROLES: Mapping[str, str] = MappingProxyType(
    {
        "llm": "aixgo.agents.llm:LLMAgent",
        "react": "aixgo.agents.react:ReActAgent",
        "classifier": "aixgo.agents.classifier:ClassifierAgent",
        "aggregator": "aixgo.agents.aggregator:AggregatorAgent",
        "planner": "aixgo.agents.planner:PlannerAgent",
        "retriever": "aixgo.agents.retriever:RetrieverAgent",
        "producer": "aixgo.agents.producer:ProducerAgent",
        "logger": "aixgo.agents.logger:LoggerAgent",
    }
)
"""Ready agents: role -> module:Class. Their constructors take a spec, and what else they name (`models`, ...)."""


def find_role(role: str) -> str:
    """The import path of a ready agent; raises ConfigError for a role that there is not."""
    if role not in ROLES:
        raise ConfigError(f"there is no role {role!r}; {nearest(role, ROLES)}; or name a class: my_pkg.agents:Class")
    return ROLES[role]


def load_role(role: str) -> type[Agent]:
    """The class of a ready agent, imported now."""
    module, _, name = find_role(role).partition(":")
    return getattr(importlib.import_module(module), name)
