"""Everything that the tests of patterns call, the same in one process and in a fleet.

Owns which names there are, which process of the fleet each lives in (PLACES), and the pairs that are nested there.
"""

from __future__ import annotations

from typing import Any

import yaml
from aixgo import Agent, Parallel, Sequential
from aixgo.config.build import build_agents
from aixgo.config.load import loads
from aixgo.resources import Resources

from tests.patterns.cast import Brain, cast_members
from tests.patterns.table import TABLE, in_yaml, make

PATTERNS = tuple(TABLE)
PAIRS = tuple(zip(PATTERNS, (*PATTERNS[5:], *PATTERNS[:5]), strict=True))
"""Twelve pairs (outer, inner): each pattern once outside and once inside."""
CAST = ("lead", "greeter", "leaf", "leaf-2", "sorter", "shelf", "paid-boom", "hangs", "hanging", "mortal")
FAILURES = ("paid-boom", "hangs", "mortal")


def all_agents(brain: Brain | None = None) -> list[Agent]:
    """Every agent and orchestrator, new."""
    brain = brain or Brain()
    early = Parallel("early", ["hangs", "late", "hangs"], early_stop=True)
    made = [*from_python(), *from_yaml(brain), *nested(PAIRS), *failing(), *levels(), *circles(), early]
    return [*cast_members(brain), *made]


def from_python() -> list[Agent]:
    """Each pattern around a leaf, as `py-PATTERN`."""
    return [make(pattern, f"py-{pattern}", "leaf") for pattern in PATTERNS]


def from_yaml(brain: Brain) -> list[Agent]:
    """The same out of a YAML file, as `yaml-PATTERN`."""
    names = [f"yaml-{pattern}" for pattern in PATTERNS]
    text = yaml.safe_dump(document([in_yaml(pattern, f"yaml-{pattern}", "leaf") for pattern in PATTERNS]))
    return build_agents(loads(text), Resources(brain.models), names)


def nested(pairs: Any) -> list[Agent]:
    """The pairs as `OUTER.INNER`, each around `inner-INNER`, which holds a leaf."""
    inner = sorted({inner for _, inner in pairs})
    return [
        *(make(pattern, f"inner-{pattern}", "leaf") for pattern in inner),
        *(make(outer, f"{outer}.{within}", f"inner-{within}") for outer, within in pairs),
    ]


def failing() -> list[Agent]:
    """Each pattern around each member that fails, as `PATTERN.MEMBER`."""
    return [make(pattern, f"{pattern}.{member}", member) for pattern in PATTERNS for member in FAILURES]


def circles() -> list[Agent]:
    """Each pattern around itself, as `circle-PATTERN`."""
    return [make(pattern, f"circle-{pattern}", f"circle-{pattern}") for pattern in PATTERNS]


def levels() -> list[Agent]:
    """Sequences of leaves in three levels, which live in three processes."""
    return [
        Sequential("top", ["middle", "leaf-2"]),
        Sequential("middle", ["bottom", "leaf"]),
        Sequential("bottom", ["leaf", "leaf-2"]),
    ]


def document(orchestrations: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole YAML file with the cast's names and these orchestrations."""
    agents = [{"name": name, "role": "llm", "model": "test/brain"} for name in CAST]
    return {"version": 2, "agents": agents, "orchestrations": orchestrations}


PLACES: dict[str, tuple[str, ...]] = {
    "outer": (
        "top",
        "early",
        *(f"circle-{pattern}" for pattern in PATTERNS),
        *(f"py-{pattern}" for pattern in PATTERNS),
        *(f"yaml-{pattern}" for pattern in PATTERNS),
        *(f"{outer}.{inner}" for outer, inner in PAIRS),
        *(f"{pattern}.{member}" for pattern in PATTERNS for member in FAILURES),
    ),
    "inner": ("middle", *(f"inner-{pattern}" for pattern in PATTERNS), "lead", "greeter", "sorter", "shelf"),
    "leaves": ("bottom", "leaf", "leaf-2", "paid-boom", "hangs", "hanging", "late"),
}
"""The processes of the fleet; `mortal` gets one of its own in the tests that kill it."""
