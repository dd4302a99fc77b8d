"""Counting calls, and percentiles that are right within an eighth."""

from __future__ import annotations

from math import ceil

import pytest
from aixgo.runtime.metrics import CallMetrics
from hypothesis import given
from hypothesis import strategies as st


def measured(*seconds: float) -> CallMetrics:
    metrics = CallMetrics()
    for number, latency in enumerate(seconds):
        metrics.ended(latency, ok=number % 2 == 0)
    return metrics


@given(st.lists(st.floats(1e-6, 4000.0), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_a_percentile_is_within_an_eighth_of_the_exact_one(latencies: list[float], share: float) -> None:
    exact = sorted(latencies)[ceil(share * len(latencies)) - 1]
    assert measured(*latencies).percentile(share) == pytest.approx(exact, rel=1 / 8)


@given(st.lists(st.floats(0.0, 1e9), min_size=1, max_size=50))
def test_percentiles_grow_with_their_share(latencies: list[float]) -> None:
    metrics = measured(*latencies)
    shares = [metrics.percentile(n / 20) for n in range(21)]
    assert shares == sorted(shares)


def test_no_time_at_all_counts_as_the_shortest() -> None:
    assert measured(0.0, 0.0).percentile(0.5) < 2e-6


def test_longer_than_the_longest_counts_as_the_longest() -> None:
    assert measured(1e12).percentile(0.5) == pytest.approx(4096, rel=1 / 8)


def test_before_the_first_call_everything_is_zero() -> None:
    snapshot = CallMetrics().snapshot(3)
    assert snapshot.active_agents == 3
    assert (snapshot.avg_call_latency, snapshot.p50_call_latency, snapshot.p99_call_latency) == (0.0, 0.0, 0.0)


def test_a_snapshot_counts_successes_failures_and_the_mean() -> None:
    snapshot = measured(1.0, 2.0, 6.0).snapshot(1)
    assert (snapshot.calls_succeeded, snapshot.calls_failed, snapshot.avg_call_latency) == (2, 1, 3.0)
    assert snapshot.p50_call_latency == pytest.approx(2.0, rel=1 / 8)
    assert snapshot.p99_call_latency == pytest.approx(6.0, rel=1 / 8)
