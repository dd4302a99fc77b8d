"""First come, first served, by key: the order of the calls of one session within a process.

Owns nothing but who waits for what. Above: the session stores, which add the order between processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    members: int = 0


class Queues:
    """One queue for each key, for as long as somebody waits in it or holds it."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, _Queue] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._queues

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncGenerator[None]:
        """Hold `key` for the `async with` block, after all who came before have left theirs."""
        queue = self._queues.setdefault(key, _Queue())
        queue.members += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.members -= 1
            if not queue.members:
                del self._queues[key]
