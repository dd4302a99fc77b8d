"""How often each caller may call a server: a token bucket for each.

Pure: the clock is passed in. Above it lies `calls.py`, which asks before each call and message.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Self

from aixgo.errors import ConfigError, Overloaded
from aixgo.security.identity import Caller

MAX_CALLERS = 10_000
"""Callers that are told apart; of more, those that have not called for longest are forgotten."""
_TEXT = re.compile(r"(?P<rate>[0-9]{1,9}(\.[0-9]{1,6})?)(:(?P<burst>[0-9]{1,9}))?")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Calls and messages of one caller: `per_second` in the long run, and `burst` at once. Raises ConfigError."""

    per_second: float
    burst: int

    def __post_init__(self) -> None:
        if not (self.per_second > 0 and math.isfinite(self.per_second)):
            raise ConfigError(f"rate_limit.per_second is {self.per_second}; give a number above 0")
        if self.burst < 1:
            raise ConfigError(f"rate_limit.burst is {self.burst}; 1 is the least")

    @classmethod
    def of(cls, per_second: float, burst: int | None = None) -> Self:
        """With a burst of one second's calls, at least one, where none is given."""
        return cls(per_second, max(1, math.ceil(per_second)) if burst is None else burst)

    @classmethod
    def parse(cls, text: str) -> Self:
        """`PER_SECOND` or `PER_SECOND:BURST`, as AIXGO_RATE_LIMIT has it. Raises ConfigError."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"rate_limit is {text[:40]!r}; write calls a second, or PER_SECOND:BURST, like 50:100")
        return cls.of(float(match["rate"]), None if match["burst"] is None else int(match["burst"]))


class RateLimits:
    """The buckets of the callers of one server. `clock` gives seconds; `most` callers are told apart."""

    def __init__(self, limit: RateLimit, *, clock: Callable[[], float] = monotonic, most: int = MAX_CALLERS) -> None:
        self._limit = limit
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def check(self, caller: Caller, peer: str) -> None:
        """Count one call of `caller`, or, where nobody knows who that is, of the host of `peer` (as gRPC writes it).

        Raises Overloaded, not accepted, when it is one too many; `retry_after` says when the next one may come.
        """
        limit, now = self._limit, self._clock()
        key = f"caller {caller}" if caller.known else f"host {peer.rpartition(':')[0] or peer}"
        left, at = self._buckets.get(key, (float(limit.burst), now))
        left = min(limit.burst, left + (now - at) * limit.per_second)
        self._buckets[key] = (left - 1 if left >= 1 else left), now
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        if left < 1:
            raise self._too_many((1 - left) / limit.per_second)

    def _too_many(self, wait: float) -> Overloaded:
        rate, burst = self._limit.per_second, self._limit.burst
        text = f"this caller may call {rate:g} times a second, and {burst} times at once (rate_limit); call later"
        return Overloaded(text, retry_after=wait, fields={"per_second": rate, "burst": burst})
