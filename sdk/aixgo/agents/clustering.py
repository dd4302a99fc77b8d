"""Clusters of vectors that point the same way, and each cluster's most typical member.

Pure arithmetic on plain lists, deterministic. Above: the aggregator's strategy `clustering`; the classifier's method
`embeddings` uses `cosine`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

Vector = Sequence[float]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Positions of vectors that belong together, in order.

    `medoid` is the one that is most similar to the others; `cohesion` the mean similarity of two members, 1 for one
    alone.
    """

    members: tuple[int, ...]
    medoid: int
    cohesion: float


def cosine(one: Vector, other: Vector) -> float:
    """The cosine of the angle between two vectors, -1 to 1; 0 when one has no length."""
    return _dot(_unit(one), _unit(other))


def clusters_of(vectors: Sequence[Vector], threshold: float) -> list[Cluster]:
    """Average-link agglomerative clustering by cosine similarity (Sokal and Michener 1958, "UPGMA").

    Each vector begins alone; the two clusters whose members are most similar on average are joined as long as that
    average is `threshold` at least. Of equal averages the pair that begins first is joined. The largest cluster comes
    first; of equal sizes the more cohesive, then the one that begins first. n vectors take time of order n^3.
    """
    units = [_unit(vector) for vector in vectors]
    similar = [[_dot(one, other) for other in units] for one in units]
    groups = _joined(similar, threshold)
    made = [_described(similar, group) for group in groups]
    return sorted(made, key=lambda cluster: (-len(cluster.members), -cluster.cohesion, cluster.members))


def _joined(similar: Sequence[Sequence[float]], threshold: float) -> list[list[int]]:
    groups = [[at] for at in range(len(similar))]
    averages = [list(row) for row in similar]
    while len(groups) > 1:
        best, first, second = max(
            ((averages[i][j], i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))),
            key=lambda pair: (pair[0], -pair[1], -pair[2]),
        )
        if best < threshold:
            break
        _join(groups, averages, first, second)
    return [sorted(group) for group in groups]


def _join(groups: list[list[int]], averages: list[list[float]], first: int, second: int) -> None:
    """Put group `second` into `first`; the average to any third is that of both, weighed by size."""
    a, b = len(groups[first]), len(groups[second])
    for other in range(len(groups)):
        average = (a * averages[first][other] + b * averages[second][other]) / (a + b)
        averages[first][other] = averages[other][first] = average
    groups[first] += groups.pop(second)
    averages.pop(second)
    for row in averages:
        row.pop(second)


def _described(similar: Sequence[Sequence[float]], group: Sequence[int]) -> Cluster:
    def closeness(member: int) -> float:
        return math.fsum(similar[member][other] for other in group if other != member)

    pairs = len(group) * (len(group) - 1)
    cohesion = math.fsum(closeness(member) for member in group) / pairs if pairs else 1.0
    return Cluster(tuple(group), max(group, key=closeness), cohesion)


def _unit(vector: Vector) -> Vector:
    length = math.hypot(*vector)
    return [part / length for part in vector] if length else ()


def _dot(one: Vector, other: Vector) -> float:
    return max(-1.0, min(1.0, sum(map(mul, one, other))))
