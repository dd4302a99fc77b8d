"""A tree of 20 agents: three levels of patterns, and language models at the end of every branch.

Owns the shape (TREE) and which process has which agent (`place`): no child lives with its parent. Every agent writes
into a file when its task begins and ends, and every process how late its event loop is. Above: `trees.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any, cast

from aixgo import Agent, AgentSpec, Event, Message, Parallel, Sequential
from aixgo.agents.llm import LLMAgent
from aixgo.llm.models import Models

from tests.chaos.cast import note
from tests.chaos.lag import LoopLag

PROCESSES = 8
JOURNAL = "CHAOS_JOURNAL"
"""The environment variable that names the file."""
TREE: Mapping[str, Sequence[str]] = {
    "root": ("branch-1", "branch-2", "branch-3", "branch-4"),
    "branch-1": ("twig-1", "leaf-1", "leaf-2"),
    "branch-2": ("twig-2", "leaf-3", "leaf-4"),
    "branch-3": ("twig-3", "leaf-5"),
    "branch-4": ("leaf-6", "leaf-7"),
    "twig-1": ("leaf-8", "leaf-9"),
    "twig-2": ("leaf-10", "leaf-11"),
    "twig-3": ("leaf-12",),
}
"""The members of each pattern. The branches and twigs of odd number work in parallel, the others one by one."""
PATTERNS = tuple(TREE)
LEAVES = tuple(f"leaf-{number}" for number in range(1, 13))
AGENTS = (*PATTERNS, *LEAVES)
_TREE_ID = re.compile(r"tree-\d+")


def place(name: str) -> int:
    """The process that an agent lives in."""
    return AGENTS.index(name) % PROCESSES


def above(name: str) -> Sequence[str]:
    """The agents from the root down to this one, itself included."""
    parent = next((each for each, members in TREE.items() if name in members), None)
    return (*above(parent), name) if parent else (name,)


def tree_of(text: str) -> str:
    """The id of the tree that a message belongs to: every answer repeats it."""
    found = _TREE_ID.search(text)
    assert found, text
    return found[0]


class Watched(Agent):
    """Notes when its tasks begin and end, and, from its first on, how late the event loop of its process is."""

    _lag: LoopLag | None = None

    async def execute(self, message: Message) -> Message:
        watched = await self._begin(message)
        try:
            return await super().execute(message)
        finally:
            self._note("end", watched)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        watched = await self._begin(message)
        try:
            async with aclosing(cast("Any", super().stream(message))) as events:
                async for event in events:
                    yield event
        finally:
            self._note("end", watched)

    async def _begin(self, message: Message) -> str:
        if Watched._lag is None:
            Watched._lag = LoopLag(lambda at, late: note(os.environ[JOURNAL], "late", os.getpid(), at, late))
            await Watched._lag.__aenter__()  # until the process ends
        tree = tree_of(str(message.payload))
        self._note("begin", tree)
        return tree

    def _note(self, what: str, tree: str) -> None:
        note(os.environ[JOURNAL], what, tree, self.name, os.getpid(), monotonic())


class WatchedLeaf(Watched, LLMAgent):
    """A language model, watched."""


class WatchedParallel(Watched, Parallel):
    """A Parallel, watched."""


class WatchedSequential(Watched, Sequential):
    """A Sequential, watched."""


def new_agents() -> list[Agent]:
    """All of them, new."""
    models = Models()
    leaves = [WatchedLeaf(AgentSpec(name=name, role="llm", model=("openai/tree",)), models=models) for name in LEAVES]
    at_once = ("root", "branch-1", "branch-3", "twig-1", "twig-3")
    patterns = [
        (WatchedParallel if name in at_once else WatchedSequential)(name, members) for name, members in TREE.items()
    ]
    return [*patterns, *leaves]
