"""Search in a tree of thoughts: what is expanded next, and which leaf is the best.

Knows no model: how a node is expanded is passed in. After "Tree of Thoughts" (Yao et al. 2023): thoughts are proposed,
each is scored, and the most promising go on; `beam` is its breadth-first search, `best_first` takes the best open node
of the whole tree. Above: the planner's strategy `tree`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from aixgo.agents.together import together


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thought that could come next. `score` is 0 to 1; `finished` says that nothing is to come after it."""

    thought: str
    score: float
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a search goes. `beam` is how many nodes of a level go on, `concurrency` how many expand at once."""

    branching: int = 3
    depth: int = 3
    max_expansions: int = 12
    method: Literal["beam", "best_first"] = "beam"
    beam: int = 2
    concurrency: int = 4


@dataclass(frozen=True, slots=True)
class Node:
    """A thought in its place; `parent` is None for the root, which is no thought."""

    id: int
    parent: int | None
    depth: int
    thought: str = ""
    score: float = 0.0
    finished: bool = False


Expand: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[Candidate]]]
"""What could come after these thoughts; none says that they are finished."""


@dataclass(slots=True)
class Tree:
    """All nodes, by id, in the order in which they were made; and which were expanded."""

    bounds: Bounds
    nodes: list[Node] = field(default_factory=lambda: [Node(0, None, 0)])
    expanded: list[int] = field(default_factory=list[int])

    def thoughts(self, node: Node) -> Sequence[str]:
        """From the root down to `node`."""
        found: list[str] = []
        while node.parent is not None:
            found.append(node.thought)
            node = self.nodes[node.parent]
        return found[::-1]

    @property
    def best(self) -> Node:
        """The finished leaf with the highest score (of equals the first made); with none finished, of all leaves.

        Finished are leaves after which nothing is to come: by their candidate, by their depth, or because their
        expansion brought nothing.
        """
        parents = {node.parent for node in self.nodes}
        leaves = [node for node in self.nodes if node.id not in parents]
        finished = [node for node in leaves if not self.open(node) or node.id in self.expanded]
        return max(finished or leaves, key=lambda node: (node.score, -node.id))

    def open(self, node: Node) -> bool:
        """Whether something could come after `node`."""
        return not node.finished and node.depth < self.bounds.depth

    def grow(self, node: Node, candidates: Sequence[Candidate]) -> Sequence[Node]:
        """Put at most `branching` candidates below an expanded node."""
        self.expanded.append(node.id)
        made = [
            Node(len(self.nodes) + at, node.id, node.depth + 1, each.thought, each.score, each.finished)
            for at, each in enumerate(candidates[: self.bounds.branching])
        ]
        self.nodes += made
        return made

    def to_json(self) -> dict[str, Any]:
        """As it stands in metadata; the root is left out."""
        nodes = [
            {"id": node.id, "parent": node.parent, "depth": node.depth, "thought": node.thought}
            | {"score": node.score, "finished": node.finished}
            for node in self.nodes[1:]
        ]
        return {"nodes": nodes, "expansions": len(self.expanded), "best": self.best.id}


async def search(expand: Expand, bounds: Bounds) -> Tree:
    """The tree after at most `bounds.max_expansions` calls of `expand`, whose errors are raised as they are."""
    tree = Tree(bounds)
    frontier = list(tree.nodes)
    while frontier and len(tree.expanded) < bounds.max_expansions:
        chosen = _next(frontier, tree, bounds)
        frontier = [] if bounds.method == "beam" else [node for node in frontier if node not in chosen]
        grown = await together([_run(expand, tree.thoughts(node)) for node in chosen], concurrency=bounds.concurrency)
        for node, candidates in zip(chosen, grown, strict=True):
            frontier += filter(tree.open, tree.grow(node, candidates))
    return tree


def _next(frontier: Sequence[Node], tree: Tree, bounds: Bounds) -> Sequence[Node]:
    """The nodes to expand now, the best first."""
    width = min(bounds.beam if bounds.method == "beam" else 1, bounds.max_expansions - len(tree.expanded))
    return sorted(frontier, key=lambda node: (-node.score, node.id))[:width]


async def _run(expand: Expand, thoughts: Sequence[str]) -> Sequence[Candidate]:
    return await expand(thoughts)
