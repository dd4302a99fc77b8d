"""How long calls took, by agent: the histogram `aixgo.call.duration`, counted by ourselves.

Owns the counting, and the form in which metric readers get it. A histogram of OpenTelemetry's takes ten times as long
for a measurement, a good part of what a call over a session costs in all. Above: `metrics.py`, which counts, and
`export.py`, whose readers hand the figures on with what they collect.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from time import time_ns
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, MetricsData

NAME, UNIT, MEANING = "aixgo.call.duration", "s", "How long calls of agents of this process took."
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
AGENT = "gen_ai.agent.name"


class Durations:
    """Durations since it was made, in buckets. `scope` is the meter whose metrics they stand among."""

    def __init__(self, scope: str, clock: Callable[[], int] = time_ns) -> None:
        self.scope = scope
        self._clock = clock
        self._begun = clock()
        self._by_agent: dict[str, _Spread] = {}

    def add(self, agent: str, seconds: float) -> None:
        """A call of an agent took so long."""
        spread = self._by_agent.get(agent)
        if spread is None:
            spread = self._by_agent[agent] = _Spread(seconds)
        spread.buckets[bisect_left(SECONDS, seconds)] += 1
        spread.sum += seconds
        if seconds > spread.max:
            spread.max = seconds
        elif seconds < spread.min:
            spread.min = seconds

    def among(self, data: MetricsData) -> MetricsData:
        """What a reader has collected, with this histogram among the metrics of its meter."""
        if not self._by_agent:
            return data
        metric = self._metric()
        resources = [
            replace(
                resource,
                scope_metrics=[
                    replace(told, metrics=[*told.metrics, metric]) if told.scope.name == self.scope else told
                    for told in resource.scope_metrics
                ],
            )
            for resource in data.resource_metrics
        ]
        return replace(data, resource_metrics=resources)

    def _metric(self) -> Metric:
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, Metric

        now = self._clock()
        points = [self._point(agent, spread, now) for agent, spread in list(self._by_agent.items())]
        return Metric(NAME, MEANING, UNIT, Histogram(points, AggregationTemporality.CUMULATIVE))

    def _point(self, agent: str, spread: _Spread, now: int) -> HistogramDataPoint:
        from opentelemetry.sdk.metrics.export import HistogramDataPoint

        buckets = list(spread.buckets)  # the event loop goes on counting in its own thread
        return HistogramDataPoint(
            attributes={AGENT: agent},
            start_time_unix_nano=self._begun,
            time_unix_nano=now,
            count=sum(buckets),
            sum=spread.sum,
            bucket_counts=buckets,
            explicit_bounds=SECONDS,
            min=spread.min,
            max=spread.max,
        )


class _Spread:
    """The durations of one agent's calls, in seconds: how many lie in each bucket, their sum and their ends."""

    __slots__ = ("buckets", "max", "min", "sum")

    def __init__(self, first: float) -> None:
        self.buckets = [0] * (len(SECONDS) + 1)
        self.sum = 0.0
        self.min = self.max = first


def telling(reader: Any, durations: Durations) -> Any:
    """A class of metric readers like `reader` that hand on `durations` with what they collect."""

    class Telling(reader):
        def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any) -> None:
            told = durations.among(metrics_data)
            super()._receive_metrics(told, timeout_millis, **more)  # pyright: ignore[reportUnknownMemberType]  # of Any

    return Telling
