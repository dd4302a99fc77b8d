"""Random call trees: at most four levels, nodes with up to three children, leaves with up to three LLM calls.

Every tree ends: where something hangs, a call above it has a short timeout, or nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.ledger.cast import HERE, PLACES, Tree

LEVELS = 4
SHORT = 0.15
"""Seconds of calls whose callee may hang."""
NODES, LEAVES = zip(HERE, *PLACES.values(), strict=True)

percent = st.integers(0, 100)
takes = st.fixed_dictionaries({"completion": st.integers(0, 60), "cached": percent, "written": percent})
DOING = (*["answer"] * 12, "refuse", "fail", "hang")
MOSTLY_ENDING = (*["answer"] * 40, *["refuse", "fail"] * 4, "hang")
model = st.sampled_from(["cheap", "dear", "secret"])


@st.composite
def calls(draw: st.DrawFn, doing: Sequence[str] = DOING) -> Tree:
    """One LLM call."""
    return {
        "model": draw(model),
        "prompt": draw(st.integers(0, 400)),
        "max_tokens": draw(st.integers(1, 50)),
        "pieces": draw(st.sampled_from([0, 0, 1, 3])),
        "left": draw(st.sampled_from([False, False, True])),
        "does": draw(st.sampled_from(doing)),
        "takes": draw(takes),
        "forgiven": draw(st.booleans()),
    }


@st.composite
def leaves(draw: st.DrawFn, names: Sequence[str] = LEAVES) -> Tree:
    """A leaf and how it is called."""
    made = {
        "agent": draw(st.sampled_from(names)),
        "calls": draw(st.lists(calls(), max_size=3)),
        "ends": draw(st.sampled_from(["reply"] * 10 + ["raise", "hang"])),
    }
    return made | called(draw, made)


@st.composite
def nodes(draw: st.DrawFn, level: int) -> Tree:
    """A node, what is below it, and how it is called."""
    below = leaves() if level <= 1 else st.one_of(leaves(), nodes(level - 1))
    made: Tree = {
        "agent": draw(st.sampled_from(NODES)),
        "children": draw(st.lists(below, min_size=1, max_size=3)),
        "how": draw(st.sampled_from(["in turn", "together"])),
        "at_once": draw(st.sampled_from([None, 1, 2])),
        "wanted": draw(st.sampled_from([0, 0, 0, 1])),
        "strict": draw(st.booleans()),
    }
    return made | called(draw, made)


def called(draw: st.DrawFn, made: Tree) -> dict[str, Any]:
    """How a callee is called: with a timeout where it may hang, sometimes by a stream that is left at once."""
    timeout = SHORT if hangs(made) else draw(st.sampled_from([None, 60.0]))
    return {"timeout": timeout, "by": draw(st.sampled_from(["call"] * 4 + ["stream", "glance"]))}


def hangs(tree: Tree) -> bool:
    """Whether a callee may wait for ever when nobody stops it; what hangs below a timeout does not."""
    return tree.get("ends") == "hang" or any(call["does"] == "hang" for call in tree.get("calls", ()))


trees = nodes(LEVELS)


@st.composite
def members(draw: st.DrawFn) -> Tree:
    """A leaf in another process, called without a timeout of its own unless it hangs."""
    made = {
        "agent": draw(st.sampled_from(LEAVES[1:])),
        "calls": draw(st.lists(calls(MOSTLY_ENDING), min_size=1, max_size=3)),
        "ends": draw(st.sampled_from(["reply"] * 8 + ["raise"])),
    }
    return made | called(draw, made)


@st.composite
def crowds(draw: st.DrawFn) -> Tree:
    """Ten members of other processes at the same time; some of them are cancelled when enough have ended."""
    return {
        "agent": NODES[0],
        "children": draw(st.lists(members(), min_size=10, max_size=10)),
        "how": "together",
        "at_once": draw(st.sampled_from([None, None, 3, 7])),
        "wanted": draw(st.sampled_from([0, 0, 0, 5])),
        "strict": draw(st.booleans()),
    }
