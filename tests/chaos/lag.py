"""The recorded lag of the event loop: how much of a stretch of time it could not have acted in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

TICK = 0.005
"""Seconds between two ticks; a later one is lag."""
KEPT = 120.0
"""Seconds that the record goes back."""


class LoopLag:
    """Records, while the `async with` lasts, by how much each tick of the loop came late. Times are the loop's.

    `tell` hears of each tick that was: when it came, and how late.
    """

    def __init__(self, tell: Callable[[float, float], None] = lambda _at, _late: None) -> None:
        self._late: deque[tuple[float, float]] = deque()
        self._tell = tell
        self.worst = 0.0

    def since(self, moment: float) -> float:
        """Seconds of lag from `moment` until now, a tick that is due included."""
        now = self._loop.time()
        lost = max(0.0, now - self._due)
        for at, late in reversed(self._late):
            if at < moment:
                break
            lost += min(late, at - moment)
        return lost

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._next()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def _next(self) -> None:
        self._due = self._loop.time() + TICK
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        now = self._loop.time()
        late = now - self._due
        if late > TICK / 5:
            self._late.append((now, late))
            self.worst = max(self.worst, late)
            self._tell(now, late)
        while self._late and self._late[0][0] < now - KEPT:
            self._late.popleft()
        self._next()
