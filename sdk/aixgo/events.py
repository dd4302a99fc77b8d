"""What a stream yields, in order, while a call runs; the last one is the Result.

Part of the core. Errors are not events in Python: they raise. `path` names the agents from the root of the call tree
down; the runtime writes it, so an agent's own `stream` may leave it empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aixgo.errors import AixgoError
from aixgo.message import JSON, Message


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of output text."""

    text: str
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A use of a tool: once when it is called, and again with `output` or `error` when it has ended (`done`)."""

    id: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    output: JSON = None
    error: str = ""
    done: bool = False
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberStarted:
    """An orchestrator called a member; `path` ends with it."""

    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberFinished:
    """A member ended with a message, or with an error; `path` ends with the member.

    `instance_id` says which instance answered; it is empty for a member in its orchestrator's own process.
    """

    message: Message | None = None
    error: AixgoError | None = None
    path: tuple[str, ...] = ()
    instance_id: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """The reply of the agent that was called; nothing follows."""

    message: Message
    path: tuple[str, ...] = ()


Event: TypeAlias = "Delta | ToolCall | MemberStarted | MemberFinished | Result"
EVENT_TYPES = (Delta, ToolCall, MemberStarted, MemberFinished, Result)
