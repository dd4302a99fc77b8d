"""What the constructor of an agent made from YAML receives.

Below it lie only the rules of access; `schema.py` reads it from files, the ready agents and users' classes take it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from aixgo.config.duration import Duration
from aixgo.security.rules import check_pattern

CONCURRENT_CALLS = "Calls of it that run at once in one process; without a limit, as many as the process takes."
QUEUED_CALLS = "Calls that wait for their turn there; 100 if not said, and 0 lets none wait."
HEDGING = "After so long without an answer a call of it goes to a second instance too, if it is idempotent."

Identity = Annotated[str, AfterValidator(check_pattern)]


class InputSpec(BaseModel):
    """A name whose messages a reactive agent takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str


class OutputSpec(BaseModel):
    """A name that a reactive agent sends its replies to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    target: str


class AgentSpec(BaseModel):
    """One entry of `agents:`. `config` is the role's own; each role says which keys it knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The name that callers use.")
    role: str = Field(
        description="A ready agent (llm, react, classifier, aggregator, planner, retriever, producer, logger) or an"
        " importable class: my_pkg.agents:Analyst."
    )
    model: tuple[str, ...] = Field(default=(), description="`vendor/model`, or a list: the later ones are fallbacks.")
    prompt: str = Field(default="", description="The system prompt.")
    tools: tuple[str, ...] = Field(default=(), description="Names from the top-level `tools:`.")
    mcp_servers: tuple[str, ...] = Field(default=(), description="Names of `tools:` entries that are MCP servers.")
    inputs: tuple[InputSpec, ...] = Field(default=(), description="Where a reactive agent's messages come from.")
    outputs: tuple[OutputSpec, ...] = Field(default=(), description="Where a reactive agent's replies go.")
    config: dict[str, Any] = Field(default_factory=dict, description="What the role itself can be told.")
    allow_callers: tuple[Identity, ...] | None = Field(
        default=None, description="Identities of other processes that may call it, * for any text; else all may."
    )
    max_concurrent_calls: Annotated[int, Field(strict=True, ge=1)] | None = Field(
        default=None, description=CONCURRENT_CALLS
    )
    max_queue: Annotated[int, Field(strict=True, ge=0)] | None = Field(default=None, description=QUEUED_CALLS)
    hedge_after: Duration | None = Field(default=None, description=HEDGING)

    @field_validator("model", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
