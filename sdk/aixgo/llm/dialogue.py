"""Conversations as vendors want them that keep the system's words apart and take turns strictly.

Pure, no I/O. Above: the mappings of such vendors' formats (`anthropic_wire.py`, `gemini_wire.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, takewhile
from typing import Any

from aixgo.llm.contract import ChatMessage

Parts = Sequence[Mapping[str, Any]]


def opened(turns: Sequence[ChatMessage]) -> tuple[str, Sequence[ChatMessage]]:
    """The words of the system before the conversation, and the conversation.

    What the system says later is said by the user, in its place. A conversation of the system's words alone is said by
    the user too, because there has to be one.
    """
    told = [turn.content for turn in takewhile(lambda turn: turn.role == "system", turns)]
    if len(told) == len(turns):
        told = told[:-1]
    rest = [replace(turn, role="user") if turn.role == "system" else turn for turn in turns[len(told) :]]
    return "\n\n".join(text for text in told if text), rest


def by_side(
    turns: Iterable[ChatMessage], parts_of: Callable[[ChatMessage], Parts]
) -> list[tuple[bool, list[Mapping[str, Any]]]]:
    """The parts of turns, those of one side together: whether the model said them, and what. Empty turns are left out.

    What tools gave is the user's side.
    """
    made = [(turn.role == "assistant", parts_of(turn)) for turn in turns]
    groups = groupby((one for one in made if one[1]), key=lambda one: one[0])
    return [(ours, [part for _, parts in group for part in parts]) for ours, group in groups]
