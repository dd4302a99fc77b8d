"""Reciprocal rank fusion, against the formula written out."""

from __future__ import annotations

import pytest
from aixgo.retrieval.fusion import fuse
from hypothesis import given
from hypothesis import strategies as st

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=5)


def reference(rankings: list[list[str]], k: int) -> dict[str, float]:
    items = {item for ranking in rankings for item in ranking}
    return {item: sum(1 / (k + one.index(item) + 1) for one in rankings if item in one) for item in items}


@given(RANKINGS, st.integers(0, 100))
def test_fused_scores_are_those_of_the_formula_best_first(rankings: list[list[str]], k: int):
    fused = fuse(rankings, k)
    assert dict(fused) == pytest.approx(reference(rankings, k))
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)
    assert len({item for item, _ in fused}) == len(fused)


@given(st.lists(st.sampled_from("abcdefgh"), unique=True))
def test_one_ranking_keeps_its_order(ranking: list[str]):
    assert [item for item, _ in fuse([ranking])] == ranking


def test_what_two_rankings_agree_on_beats_what_one_puts_first():
    assert fuse([["a", "b"], ["c", "b"]])[0][0] == "b"


def test_equal_scores_keep_the_order_in_which_they_were_seen():
    assert [item for item, _ in fuse([["x"], ["y"], ["z"]])] == ["x", "y", "z"]


def test_a_repeated_item_counts_once_at_its_best_place():
    assert fuse([["a", "b", "a"]], 1) == [("a", 1 / 2), ("b", 1 / 3)]
