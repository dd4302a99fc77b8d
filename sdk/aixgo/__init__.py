"""aixgo: write an agent once; run it in one process or as a fleet of gRPC services.

This module names what agents' authors import. The core is loaded at once (which also makes `aixgo.agent` the
decorator, not the module that defines it); everything heavier when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aixgo.agent import Agent, agent
from aixgo.errors import AixgoError
from aixgo.events import Delta, Event, MemberFinished, MemberStarted, Result, ToolCall
from aixgo.message import Message
from aixgo.usage import Usage

__version__ = "2.0.0a1"

if TYPE_CHECKING:
    from aixgo.config.spec import AgentSpec
    from aixgo.launch import run
    from aixgo.orchestration.base import Limits, Orchestrator
    from aixgo.orchestration.debate import Debate
    from aixgo.orchestration.ensemble import Ensemble
    from aixgo.orchestration.hierarchical import Hierarchical
    from aixgo.orchestration.mapreduce import MapReduce
    from aixgo.orchestration.parallel import Parallel
    from aixgo.orchestration.planning import Planning
    from aixgo.orchestration.rag import RAG
    from aixgo.orchestration.reflection import Reflection
    from aixgo.orchestration.router import Router
    from aixgo.orchestration.sequential import Sequential
    from aixgo.orchestration.supervisor import Supervisor
    from aixgo.orchestration.swarm import Swarm
    from aixgo.runtime.contract import CallOptions, Runtime
    from aixgo.runtime.distributed import DistributedRuntime
    from aixgo.runtime.local import LocalRuntime
    from aixgo.security.security import Security
    from aixgo.security.settings import SecuritySettings
    from aixgo.server.server import AgentServer
    from aixgo.telemetry.scores import record_score
    from aixgo.tools.functions import tool

_HOMES = {
    "AgentServer": "server.server",
    "AgentSpec": "config.spec",
    "CallOptions": "runtime.contract",
    "Debate": "orchestration.debate",
    "DistributedRuntime": "runtime.distributed",
    "Ensemble": "orchestration.ensemble",
    "Hierarchical": "orchestration.hierarchical",
    "Limits": "orchestration.base",
    "LocalRuntime": "runtime.local",
    "MapReduce": "orchestration.mapreduce",
    "Orchestrator": "orchestration.base",
    "Parallel": "orchestration.parallel",
    "Planning": "orchestration.planning",
    "RAG": "orchestration.rag",
    "Reflection": "orchestration.reflection",
    "Router": "orchestration.router",
    "Runtime": "runtime.contract",
    "Security": "security.security",
    "SecuritySettings": "security.settings",
    "Sequential": "orchestration.sequential",
    "Supervisor": "orchestration.supervisor",
    "Swarm": "orchestration.swarm",
    "record_score": "telemetry.scores",
    "run": "launch",
    "tool": "tools.functions",
}

__all__ = [  # noqa: RUF022  # by subject
    "Agent", "agent", "tool", "AgentSpec", "Message", "Usage", "AixgoError",
    "Event", "Delta", "ToolCall", "MemberStarted", "MemberFinished", "Result",
    "Runtime", "CallOptions", "LocalRuntime", "DistributedRuntime", "AgentServer", "run",
    "Security", "SecuritySettings",
    "Orchestrator", "Limits", "Supervisor", "Sequential", "Parallel", "Router", "Swarm", "Hierarchical", "RAG",
    "Reflection", "Ensemble", "Debate", "MapReduce", "Planning", "record_score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aixgo' has no attribute {name!r}")
    value = getattr(import_module(f"aixgo.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
