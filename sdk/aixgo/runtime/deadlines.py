"""The deadlines of many calls, watched by few timers.

Owns when work that is late is told so. A timer of the event loop for each call would be one of the dearest parts of a
call over a session, and nearly all of them are cancelled long before they are due. So a deadline is only filed under
the second that it lies in, and gets a timer of its own when that second has come. Above: the session transport and
the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)


class Deadlines(Generic[ItemT]):
    """Items and when each is due, in seconds of the loop's clock; `expired` is told of those that are there then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[ItemT], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._seconds: dict[int, tuple[dict[ItemT, float], asyncio.TimerHandle]] = {}
        self._last, self._latest = 0, dict[ItemT, float]()
        self._timers: dict[ItemT, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """How many timers there are."""
        return len(self._seconds) + len(self._timers)

    def add(self, due: float, item: ItemT) -> None:
        """Watch an item."""
        second = int(due)
        if second != self._last and not self._turn_to(second):
            self._timers[item] = self._loop.call_at(due, self._late, item)
            return
        self._latest[item] = due

    def remove(self, due: float, item: ItemT) -> None:
        """Watch an item no longer that was due then; nothing when it has expired."""
        second = int(due)
        if second == self._last:  # it is kept when it is empty, for the next call
            self._latest.pop(item, None)
            return
        filed = self._seconds.get(second)
        if filed is None:
            timer = self._timers.pop(item, None)
            if timer is not None:
                timer.cancel()
            return
        filed[0].pop(item, None)
        self._drop_if_empty(second)

    def _turn_to(self, second: int) -> bool:
        """Let what is added next lie in this second; False when it has come already."""
        filed = self._seconds.get(second)
        if filed is None:
            if second <= self._loop.time():
                return False
            filed = self._seconds[second] = {}, self._loop.call_at(second, self._begin, second)
        before, self._last, self._latest = self._last, second, filed[0]
        self._drop_if_empty(before)
        return True

    def _begin(self, second: int) -> None:
        """A second has come: what lies in it gets timers."""
        if second == self._last:
            self._last = 0
        for item, due in self._seconds.pop(second)[0].items():
            self._timers[item] = self._loop.call_at(due, self._late, item)

    def _late(self, item: ItemT) -> None:
        del self._timers[item]
        self._expired(item)

    def _drop_if_empty(self, second: int) -> None:
        filed = self._seconds.get(second)
        if filed is not None and not filed[0]:
            filed[1].cancel()
            del self._seconds[second]
