"""Counting calls and messages, and the distribution of latencies, in a few additions per call.

Pure. A runtime owns one `CallMetrics`; `RuntimeMetrics` is what it shows.
"""

from __future__ import annotations

from math import frexp

from aixgo.runtime.contract import RuntimeMetrics

_STEPS = 8
"""Buckets per doubling of the latency: a percentile is off by at most 1/8."""
_SMALLEST = -20
"""The first bucket holds what is below 2**-20 s, one microsecond."""
_BUCKETS = 33 * _STEPS
_LEAST, _MOST = 2.0**_SMALLEST, 2.0 ** (_SMALLEST + _BUCKETS // _STEPS - 1)
"""Seconds that lie in a bucket of their own; what is shorter or longer is in the first or the last of these."""
_ORIGIN = -(_SMALLEST + 1) * _STEPS
"""The bucket of 0 doublings, for a fraction that begins at 0 although `frexp` gives none below 0.5."""


class CallMetrics:
    """Counters and a histogram of latencies in logarithmic buckets, from 1 us to 4,000 s."""

    __slots__ = ("_buckets", "_seconds", "calls_failed", "calls_succeeded", "messages_received", "messages_sent")

    def __init__(self) -> None:
        self.calls_succeeded = self.calls_failed = self.messages_sent = self.messages_received = 0
        self._seconds = 0.0
        self._buckets = [0] * _BUCKETS

    def ended(self, seconds: float, ok: bool) -> None:
        """Count a call that took `seconds`."""
        if ok:
            self.calls_succeeded += 1
        else:
            self.calls_failed += 1
        self._seconds += seconds
        if not _LEAST <= seconds < _MOST:
            self._buckets[_STEPS if seconds < _LEAST else -1] += 1
            return
        fraction, exponent = frexp(seconds)  # seconds == fraction * 2**exponent, fraction in [0.5, 1)
        self._buckets[exponent * _STEPS + int(fraction * (2 * _STEPS)) + _ORIGIN] += 1

    def percentile(self, share: float) -> float:
        """The latency, in seconds, that `share` (0 to 1) of the calls stayed below; 0 before the first call."""
        rank = share * (self.calls_succeeded + self.calls_failed)
        seen = 0
        for bucket, count in enumerate(self._buckets):
            seen += count
            if count and seen >= rank:
                exponent, step = divmod(bucket, _STEPS)
                return 2.0 ** (exponent + _SMALLEST) * (0.5 + (step + 0.5) / _STEPS / 2)
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
