"""What every LLM provider does: complete, stream, and complete into a schema.

Owns the Provider protocol and its records. One file per vendor implements it and only maps; `metering.py` wraps every
provider, so that no vendor file and no agent counts tokens; `models.py` finds the provider of a model's name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel

from aixgo.usage import NO_USAGE, Usage

Speaker = Literal["system", "user", "assistant", "tool"]
StopReason = Literal["stop", "length", "tool_calls", "refused", "other"]
SchemaT = TypeVar("SchemaT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that the model wants called."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation with a model. `tool_call_id` is the use that a `tool` turn answers."""

    role: Speaker
    content: str
    tool_uses: Sequence[ToolUse] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool that the model may ask for; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What to complete. `model` is the vendor's own name, without the prefix. `max_tokens` bounds the completion."""

    model: str
    messages: Sequence[ChatMessage]
    temperature: float | None = None
    max_tokens: int = 1024
    stop: Sequence[str] = ()
    tools: Sequence[ToolOffer] = ()
    schema: Mapping[str, Any] | None = None
    """A JSON schema that the completion must follow; for vendors with a native schema mode."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Further parameters of the vendor's API, passed as they are."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model answered, and what it took."""

    text: str
    model: str
    usage: Usage = NO_USAGE
    stop_reason: StopReason = "stop"
    tool_uses: Sequence[ToolUse] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed completion. The last one carries `completion`, the whole of it."""

    text: str = ""
    completion: Completion | None = None


class Provider(Protocol):
    """A client of one LLM vendor. Raises ProviderError and its subclasses; honours cancellation at once."""

    vendor: str

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion."""
        ...

    def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces; the last chunk carries the whole."""
        ...

    async def complete_structured(
        self, request: CompletionRequest, schema: type[SchemaT]
    ) -> tuple[SchemaT, Completion]:
        """A completion that validates as `schema`; raises InvalidCompletion when the model cannot do it."""
        ...

    async def close(self) -> None:
        """Close connections and what was started."""
        ...
