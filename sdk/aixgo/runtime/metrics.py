"""Counting calls and messages, and the distribution of latencies, in a few additions per call.

Pure. A runtime owns one `CallMetrics`; `RuntimeMetrics` is what it shows.
"""

from __future__ import annotations

from bisect import bisect

from aixgo.runtime.contract import RuntimeMetrics

_STEPS = 8
"""Buckets per doubling of the latency: a percentile is off by at most 1/8."""
_BOUNDS = tuple(2.0**doubling * (1 + step / _STEPS) for doubling in range(-20, 12) for step in range(_STEPS))
"""Seconds between the buckets, from one microsecond to about an hour; beyond them lie two more."""


class CallMetrics:
    """Counters and a histogram of latencies in logarithmic buckets."""

    __slots__ = ("_buckets", "_seconds", "calls_failed", "calls_succeeded", "messages_received", "messages_sent")

    def __init__(self) -> None:
        self.calls_succeeded = self.calls_failed = self.messages_sent = self.messages_received = 0
        self._seconds = 0.0
        self._buckets = [0] * (len(_BOUNDS) + 1)

    def ended(self, seconds: float, ok: bool) -> None:
        """Count a call that took `seconds`."""
        if ok:
            self.calls_succeeded += 1
        else:
            self.calls_failed += 1
        self._seconds += seconds
        self._buckets[bisect(_BOUNDS, seconds)] += 1

    def percentile(self, share: float) -> float:
        """The latency, in seconds, that `share` (0 to 1) of the calls stayed below; 0 before the first call."""
        rank = share * (self.calls_succeeded + self.calls_failed)
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= rank:
                return (_BOUNDS[max(bucket - 1, 0)] + _BOUNDS[min(bucket, len(_BOUNDS) - 1)]) / 2
        return 0.0

    def snapshot(self, active_agents: int) -> RuntimeMetrics:
        """What was counted so far."""
        calls = self.calls_succeeded + self.calls_failed
        return RuntimeMetrics(
            active_agents=active_agents,
            messages_sent=self.messages_sent,
            messages_received=self.messages_received,
            calls_succeeded=self.calls_succeeded,
            calls_failed=self.calls_failed,
            avg_call_latency=self._seconds / calls if calls else 0.0,
            p50_call_latency=self.percentile(0.5),
            p99_call_latency=self.percentile(0.99),
        )
