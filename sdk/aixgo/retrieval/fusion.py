"""Reciprocal rank fusion: several rankings of the same things as one.

Pure. Hybrid search fuses what was found by meaning and by words, the pattern RAG what several queries found.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

K = 60
"""How much less the first places count than they would by their rank alone; 60 is the value of the paper."""

ItemT = TypeVar("ItemT", bound=Hashable)


def fuse(rankings: Sequence[Sequence[ItemT]], k: int = K) -> list[tuple[ItemT, float]]:
    """All items of `rankings` (best first) with their fused scores, best first.

    An item's score is the sum over the rankings that have it of 1 / (k + its rank), ranks counted from 1 (Cormack,
    Clarke, Buettcher: "Reciprocal Rank Fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009).
    Of equal scores the item that was seen first, ranking by ranking, comes first. A repeated item counts at its best
    place in a ranking.
    """
    scores: dict[ItemT, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), start=1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda scored: -scored[1])
