"""aixgo: write an agent once; run it in one process or as a fleet of gRPC services.

This module only names what agents' authors import; each name is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aixgo.agent import Agent, agent
    from aixgo.config.spec import AgentSpec
    from aixgo.errors import AixgoError
    from aixgo.events import Delta, Event, MemberFinished, MemberStarted, Result, ToolCall
    from aixgo.message import Message
    from aixgo.orchestration.base import Limits, Orchestrator
    from aixgo.orchestration.parallel import Parallel
    from aixgo.orchestration.router import Router
    from aixgo.orchestration.sequential import Sequential
    from aixgo.run import run
    from aixgo.runtime.contract import CallOptions, Runtime
    from aixgo.runtime.distributed import DistributedRuntime
    from aixgo.runtime.local import LocalRuntime
    from aixgo.server.server import AgentServer
    from aixgo.usage import Usage

_HOMES = {
    "Agent": "agent",
    "AgentServer": "server.server",
    "AgentSpec": "config.spec",
    "AixgoError": "errors",
    "CallOptions": "runtime.contract",
    "Delta": "events",
    "DistributedRuntime": "runtime.distributed",
    "Event": "events",
    "Limits": "orchestration.base",
    "LocalRuntime": "runtime.local",
    "MemberFinished": "events",
    "MemberStarted": "events",
    "Message": "message",
    "Orchestrator": "orchestration.base",
    "Parallel": "orchestration.parallel",
    "Result": "events",
    "Router": "orchestration.router",
    "Runtime": "runtime.contract",
    "Sequential": "orchestration.sequential",
    "ToolCall": "events",
    "Usage": "usage",
    "agent": "agent",
    "run": "run",
}

__all__ = [  # noqa: RUF022  # by subject
    "Agent", "agent", "AgentSpec", "Message", "Usage", "AixgoError",
    "Event", "Delta", "ToolCall", "MemberStarted", "MemberFinished", "Result",
    "Runtime", "CallOptions", "LocalRuntime", "DistributedRuntime", "AgentServer", "run",
    "Orchestrator", "Limits", "Sequential", "Parallel", "Router",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aixgo' has no attribute {name!r}")
    value = getattr(import_module(f"aixgo.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
