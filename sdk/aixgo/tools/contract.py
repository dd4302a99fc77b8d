"""What a tool is: a name, a description, a JSON schema of its arguments, and `call`.

Owns the protocol, which names models can be told, and how a tool's output becomes text. Below it lies the core.
Above: `functions.py` and `mcp.py` make tools, `toolbox.py` finds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from aixgo.errors import ConfigError
from aixgo.llm.contract import ToolOffer
from aixgo.message import JSON, to_json

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A tool's name as every vendor takes it (OpenAI's and Anthropic's rule)."""
MAX_DESCRIPTION = 1024
"""Characters of a description that a model is shown (OpenAI's limit)."""


@runtime_checkable
class Tool(Protocol):
    """Something that a model may ask for by name."""

    @property
    def name(self) -> str:
        """What the model calls it; see NAME."""
        ...

    @property
    def description(self) -> str:
        """What it does and when to use it, for the model."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """A JSON schema of an object: its arguments."""
        ...

    async def call(self, arguments: Mapping[str, Any]) -> JSON:
        """Do it. The text of a ToolError is for the model: what was wrong, and how to ask better.

        It honours cancellation, and checks `arguments` itself: models do not always keep to the schema.
        """
        ...


def offer(tool: Tool) -> ToolOffer:
    """How a model is told of a tool."""
    return ToolOffer(tool.name, tool.description[:MAX_DESCRIPTION], tool.parameters)


def check_tool_name(name: str) -> None:
    """Raise ConfigError when models could not call a tool by that name."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"tool name {name!r} is not usable; use 1 to 64 letters, digits, '_' or '-'")


def acceptable_name(name: str) -> str:
    """`name` as vendors take it: each other character is a '_', and it ends after 64."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "_"


def as_text(output: JSON, limit: int) -> str:
    """What a model is shown of an output: text as it is, else compact JSON; cut at `limit` characters, saying so."""
    text = output if isinstance(output, str) else to_json(output).decode()
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: the first {limit} of {len(text)} characters are shown; ask for less]"
