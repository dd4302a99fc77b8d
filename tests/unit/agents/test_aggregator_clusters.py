"""Clusters: the joining of vectors, against a plain definition of average link."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean

import pytest
from aixgo.agents.clustering import clusters_of, cosine
from hypothesis import given
from hypothesis import strategies as st

ANGLES = st.lists(st.integers(0, 359), min_size=1, max_size=9)


def vectors(angles: list[int]) -> list[list[float]]:
    return [[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in angles]


def test_cosine_is_that_of_the_angle_and_0_without_one() -> None:
    assert cosine([1, 0], [0, 2]) == 0
    assert cosine([1, 1], [2, 2]) == pytest.approx(1)
    assert cosine([1, 0], [-3, 0]) == -1
    assert cosine([1, 0], [0, 0]) == 0
    assert cosine([], [1, 0]) == 0


def test_the_largest_cluster_comes_first_and_its_medoid_lies_in_the_middle() -> None:
    first, second = clusters_of(vectors([90, 0, 10, 25]), 0.9)
    assert (first.members, first.medoid) == ((1, 2, 3), 2)
    assert (second.members, second.medoid, second.cohesion) == ((0,), 0, 1.0)


def test_of_equal_sizes_the_more_cohesive_comes_first() -> None:
    assert [cluster.members for cluster in clusters_of(vectors([0, 20, 180, 181]), 0.9)] == [(2, 3), (0, 1)]


def test_nothing_is_joined_by_a_chain_of_neighbours_alone() -> None:
    assert len(clusters_of(vectors([0, 30, 60, 90]), 0.8)) == 2


@given(ANGLES, st.floats(0.05, 1))
def test_no_two_clusters_are_as_near_as_the_threshold_and_each_vector_is_in_one(
    angles: list[int], threshold: float
) -> None:
    made = vectors(angles)
    clusters = clusters_of(made, threshold)
    assert sorted(at for cluster in clusters for at in cluster.members) == list(range(len(angles)))
    assert [len(cluster.members) for cluster in clusters] == sorted(
        (len(cluster.members) for cluster in clusters), reverse=True
    )
    for one, other in combinations(clusters, 2):
        assert fmean(cosine(made[a], made[b]) for a in one.members for b in other.members) < threshold + 1e-9
    for cluster in clusters:
        assert cluster.medoid in cluster.members
    assert clusters == clusters_of(made, threshold)


@given(ANGLES)
def test_the_same_vector_is_always_in_the_same_cluster(angles: list[int]) -> None:
    for cluster in clusters_of(vectors(angles), 0.999999):
        assert all(angles.index(angles[at]) in cluster.members for at in cluster.members)
