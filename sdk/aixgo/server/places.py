"""The places of a server for calls, the last of which are kept for sessions that have few.

One session can open as many calls in a moment as a server takes at all, and would leave none for others: a crowd. Its
calls wait for their turn where only the kept places are free. Pure, on one event loop. Above it lies `calls.py`, which
counts the calls that run; `session.py` asks before it hands over a call of a session that has many.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

FEW = 16
"""Calls of one session that may use every place."""
KEPT_SHARE, SMALL = 8, 64
"""One of so many places is kept, of those beyond the first 64: a server with fewer keeps none."""


class Places:
    """The places of a server that takes `limit` calls at once; `running` says how many it has."""

    def __init__(self, limit: int, running: Callable[[], int]) -> None:
        self.kept = max(0, limit - SMALL) // KEPT_SHARE
        """Places for those who have few calls; so many calls of crowds may wait for one of the others."""
        self._shared = limit - self.kept
        self._running = running
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open = False

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._waiting)

    def short(self, held: int) -> bool:
        """Whether a session of which `held` calls run has to wait with the next one."""
        return held >= FEW and self._running() >= self._shared and not self._open and self.kept > 0

    async def turn(self, held: Callable[[], int]) -> None:
        """Wait, first come first served, until the session is not `short` with what it has then."""
        loop = asyncio.get_running_loop()
        first = False
        while self.short(held()):
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.appendleft(turn) if first else self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif not turn.cancelled():
                    self.freed()  # it was this call's turn: it is the next one's then
                raise
            first = True

    def freed(self) -> None:
        """Note that a call has ended: the first that waits looks again."""
        while self._waiting and self._running() < self._shared:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def open(self) -> None:
        """Keep nothing any more, and let everybody go on who waits: the server takes no calls."""
        self._open = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
