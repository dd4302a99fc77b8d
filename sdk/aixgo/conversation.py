"""A conversation that travels with a message: turns in the metadata `conversation`.

Part of the core: no I/O. Patterns write it for their members, the ready LLM agents put it before the message that they
answer, and callers may send one of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from aixgo.errors import InvalidInput
from aixgo.message import Message

KEY = "conversation"
"""The key in a message's metadata."""
MAX_TURNS = 1000
_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said. `name` is the agent that said it; empty for people."""

    role: Literal["user", "assistant"]
    content: str
    name: str = ""

    def to_json(self) -> dict[str, str]:
        """As it stands in metadata."""
        made = {"role": self.role, "content": self.content}
        return made | {"name": self.name} if self.name else made


def turns_of(message: Message) -> tuple[Turn, ...] | None:
    """The conversation that comes with a message; None without one. Raises InvalidInput, naming the turn."""
    given = message.metadata.get(KEY)
    if given is None:
        return None
    if not isinstance(given, (list, tuple)):
        raise InvalidInput(f"metadata.{KEY} is a {type(given).__name__}; pass a list of turns")
    turns = cast("Sequence[Any]", given)
    if len(turns) > MAX_TURNS:
        raise InvalidInput(f"metadata.{KEY} has {len(turns)} turns and {MAX_TURNS} are allowed; drop the oldest")
    return tuple(_turn(index, turn) for index, turn in enumerate(turns))


def with_turns(message: Message, turns: Sequence[Turn]) -> Message:
    """`message` with this conversation before it."""
    return message.with_metadata(**{KEY: [turn.to_json() for turn in turns]})


def _turn(index: int, given: Any) -> Turn:
    turn: Mapping[str, Any] = cast("Mapping[str, Any]", given) if isinstance(given, Mapping) else {}
    role, content, name = turn.get("role"), turn.get("content"), turn.get("name", "")
    if role not in _ROLES or not isinstance(content, str) or not isinstance(name, str):
        raise InvalidInput(
            f"metadata.{KEY}.{index}: a turn is an object with `role` (user or assistant), `content` (text) and"
            " perhaps `name` (text)"
        )
    return Turn(role, content, name)
