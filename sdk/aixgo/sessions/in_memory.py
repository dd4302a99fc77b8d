"""Sessions in the memory of one process: the default, bounded, gone with the process.

Implements `contract.py`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aixgo.conversation import Turn
from aixgo.sessions.contract import SessionKey, SessionLimits, from_first_user, key_of, storable, usable_id
from aixgo.sessions.queues import Queues


@dataclass(frozen=True, slots=True)
class _History:
    turns: tuple[tuple[str, Turn], ...] = ()
    """Each with the id of the message that it belongs to."""
    used_at: float = 0.0

    def without(self, message_id: str) -> list[tuple[str, Turn]]:
        return [each for each in self.turns if not message_id or each[0] != message_id]


class InMemorySessions:
    """A session store in memory. `clock` is in seconds, and only its differences count."""

    def __init__(self, limits: SessionLimits | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or SessionLimits()
        self._clock = clock
        self._queues = Queues()
        self._histories: OrderedDict[SessionKey, _History] = OrderedDict()
        """In the order of their last use, so that those to forget come first."""

    def __len__(self) -> int:
        return len(self._histories)

    @asynccontextmanager
    async def hold(self, session_id: str, agent: str, message_id: str = "") -> AsyncGenerator[_Held]:
        """See SessionStore."""
        key, message_id = key_of(session_id, agent), usable_id(message_id)
        async with self._queues.turn(key):
            self._expire()
            before = self._histories.get(key, _History()).without(message_id)
            yield _Held(self, key, message_id, from_first_user([turn for _, turn in before]))

    async def clear(self, session_id: str) -> int:
        """See SessionStore."""
        keys = [key for key in self._histories if key.session_id == session_id]
        return sum(len(self._histories.pop(key).turns) for key in keys)

    async def close(self) -> None:
        """Forget everything."""
        self._histories.clear()

    def add(self, key: SessionKey, message_id: str, turns: Sequence[Turn]) -> None:
        """Remember turns of a session that is held."""
        new = [(message_id, turn) for turn in storable(turns, self.limits)]
        kept = self._histories.get(key, _History()).without(message_id) + new
        self._histories[key] = _History(tuple(kept[-self.limits.max_turns :]), self._clock())
        self._histories.move_to_end(key)
        self._evict()

    def _expire(self) -> None:
        if self.limits.ttl is None:
            return
        oldest = self._clock() - self.limits.ttl
        while self._histories and next(iter(self._histories.values())).used_at <= oldest:
            self._histories.popitem(last=False)

    def _evict(self) -> None:
        while len(self._histories) > self.limits.max_sessions:
            # A held session stays: it is in use, and only as many are held as calls are running.
            idle = next((key for key in self._histories if key not in self._queues), None)
            if idle is None:
                return
            del self._histories[idle]


class _Held:
    def __init__(self, store: InMemorySessions, key: SessionKey, message_id: str, turns: tuple[Turn, ...]) -> None:
        self._store, self._key, self._message_id = store, key, message_id
        self.turns = turns

    async def add(self, turns: Sequence[Turn]) -> None:
        self._store.add(self._key, self._message_id, turns)
