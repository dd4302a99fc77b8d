"""LoopWatch: notices that the event loop does not turn, and says which code keeps it.

One process has one event loop, so code that blocks it (a synchronous HTTP client, a long computation) stops every call,
every deadline and every answer to a health check of the process. The loop cannot tell of that itself. A thread can: it
looks at a heartbeat that the loop writes. `server.py`, above, runs one watch per server.

    turning  --no beat for `limit` seconds-->  blocked: one warning, with the stack of the loop's thread
    blocked  --a beat-->  turning: one warning more, with how long it took

Where the thread itself has overslept, the whole process stood still: it was stopped, starved of CPU, or an extension
kept the GIL. That is said too, in other words, and no code is blamed for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from time import monotonic

from aixgo.telemetry.metrics import Reading

log = logging.getLogger(__name__)

BEAT = 0.25
"""Seconds between two heartbeats, and between two looks at them."""
LIMIT = 1.0
"""Seconds without a heartbeat after which the loop counts as blocked; probes and leases allow for several."""
_FRAMES = 12


class Heartbeat:
    """What the loop writes and the thread reads. `stack` tells where the loop is; the rest is in seconds."""

    def __init__(
        self, stack: Callable[[], str], *, limit: float = LIMIT, every: float = BEAT, clock: Callable[[], float]
    ) -> None:
        self._stack, self._limit, self._every, self._clock = stack, limit, every, clock
        self._beaten = self._looked = clock()
        self._blocked_since: float | None = None
        self._longest_lag = 0.0

    def beat(self) -> None:
        """The loop turns."""
        now = self._clock()
        self._longest_lag = max(self._longest_lag, now - self._beaten - self._every)
        self._beaten = now

    def lag(self) -> float:
        """How late the loop was at the most since this was last asked."""
        lag = max(self._longest_lag, self._clock() - self._beaten - self._every, 0.0)
        self._longest_lag = 0.0
        return lag

    def look(self) -> None:
        """Compare the last beat with the clock, and tell of a change."""
        now = self._clock()
        overslept = now - self._looked - self._every
        self._looked = now
        if overslept > self._limit:
            log.warning("the process stood still for %.1f s: stopped, without CPU, or the GIL was kept", overslept)
            return  # the loop gets one beat to catch up before it is judged
        silent = now - self._beaten
        if self._blocked_since is not None and silent < self._limit:
            log.warning("the event loop turns again after %.1f s", self._beaten - self._blocked_since)
            self._blocked_since = None
        elif self._blocked_since is None and silent >= self._limit:
            self._blocked_since = self._beaten
            log.warning(
                "the event loop has not turned for %.1f s: no call, deadline or health check is served."
                " Move blocking work into asyncio.to_thread. It is at:\n%s",
                silent,
                self._stack(),
            )


class LoopWatch:
    """Watches an event loop from `start` to `stop`: a timer beats, and a thread looks, every `beat` seconds."""

    def __init__(self, *, limit: float = LIMIT, beat: float = BEAT, clock: Callable[[], float] = monotonic) -> None:
        self._limit, self._every, self._clock = limit, beat, clock
        self._ended = threading.Event()
        self._heart: Heartbeat | None = None
        self._timer: asyncio.TimerHandle | None = None

    def readings(self) -> Iterable[Reading]:
        """How late the loop was, for whoever collects metrics."""
        return () if self._heart is None else (("aixgo.loop.lag", self._heart.lag(), {}),)

    def start(self) -> None:
        """Watch the running loop, whose thread this is."""
        watched = threading.get_ident()
        self._heart = Heartbeat(lambda: _stack(watched), limit=self._limit, every=self._every, clock=self._clock)
        self._timer = asyncio.get_running_loop().call_later(self._every, self._beat, self._heart)
        threading.Thread(target=self._look, args=(self._heart,), name="aixgo loop watch", daemon=True).start()

    def stop(self) -> None:
        """Watch no more. Safe to call again."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self, heart: Heartbeat) -> None:
        heart.beat()
        self._timer = asyncio.get_running_loop().call_later(self._every, self._beat, heart)

    def _look(self, heart: Heartbeat) -> None:
        while not self._ended.wait(self._every):
            heart.look()


def _stack(thread: int) -> str:
    # The documented way to another thread's stack, for all its underscore.
    frame = sys._current_frames().get(thread)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return "".join(traceback.format_stack(frame)[-_FRAMES:]).rstrip() if frame is not None else "(its thread has ended)"
