"""Sessions in one SQLite file: they outlive the process, and several processes of one machine may share them.

Implements `contract.py` over the standard library. Owns the order between processes: a session is held by a lease, a
row that its holder renews, so a process that dies gives its sessions back when the lease runs out. The statements are
in `sqlite_file.py` and run in one thread of their own, so that a slow disk never holds up the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from aixgo.conversation import Turn
from aixgo.message import new_id
from aixgo.sessions.contract import (
    SessionKey,
    SessionLimits,
    SessionLost,
    SessionStoreUnavailable,
    key_of,
    storable,
    usable_id,
)
from aixgo.sessions.queues import Queues
from aixgo.sessions.sqlite_file import Holder, SessionFile

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE = 15.0
"""Seconds after which a session whose holder has died is free again; a living holder renews three times as often."""
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two looks at a session that another process holds; they grow, and vary so that nobody is unlucky."""


class SQLiteSessions:
    """A session store in the file at `path`, which is made when it is first used.

    `clock` is in seconds since the epoch, because processes compare their times; `lease` is in seconds.
    """

    def __init__(
        self,
        path: str | Path,
        limits: SessionLimits | None = None,
        *,
        lease: float = LEASE,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.limits = limits or SessionLimits()
        self._file = SessionFile(Path(path), self.limits, lease)
        self._lease, self._clock, self._sleep = lease, clock, sleep
        self._queues = Queues()
        self._thread: ThreadPoolExecutor | None = None

    @asynccontextmanager
    async def hold(self, session_id: str, agent: str, message_id: str = "") -> AsyncGenerator[_Held]:
        """See SessionStore."""
        key, holder = key_of(session_id, agent), Holder(new_id(), usable_id(message_id))
        async with self._queues.turn(key):
            try:
                turns = await self._acquire(key, holder)
                renewal = asyncio.create_task(self._renew(key, holder), name=f"renew the session of {agent}")
                try:
                    yield _Held(self, key, holder, turns)
                finally:
                    renewal.cancel()
                    await asyncio.wait({renewal})
            finally:
                # Also when acquiring was cancelled: the thread works in order, so what it still did is undone here.
                await self._release(key, holder)

    async def clear(self, session_id: str) -> int:
        """See SessionStore."""
        return await self._run(self._file.clear, session_id, self._clock())

    async def close(self) -> None:
        """Close the file."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.wrap_future(thread.submit(self._file.close))
            thread.shutdown(wait=False)

    async def add(self, key: SessionKey, holder: Holder, turns: Sequence[Turn]) -> None:
        """Remember turns of a session that `holder` holds."""
        new = storable(turns, self.limits)
        # Shielded: a transaction that has begun ends whole, and its caller's cancellation comes after it.
        if not await asyncio.shield(self._run(self._file.add, key, holder, new, self._clock())):
            raise SessionLost(
                f"agent {key.agent!r} did not keep its session within the lease of {self._lease:g} s, so the turns were"
                " not remembered; something blocks the event loop"
            )

    async def _acquire(self, key: SessionKey, holder: Holder) -> tuple[Turn, ...]:
        pause = FIRST_PAUSE
        while (turns := await self._run(self._file.acquire, key, holder, self._clock())) is None:
            await self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret: it spreads the looks
            pause = min(LONGEST_PAUSE, 2 * pause)
        return turns

    async def _renew(self, key: SessionKey, holder: Holder) -> None:
        held = True
        while held:
            await self._sleep(self._lease / 3)
            try:
                held = await self._run(self._file.renew, key, holder, self._clock())
            except SessionStoreUnavailable as error:
                log.warning("the session of agent %s could not be renewed: %s", key.agent, error)

    async def _release(self, key: SessionKey, holder: Holder) -> None:
        try:
            await asyncio.shield(self._run(self._file.release, key, holder))
        except SessionStoreUnavailable as error:  # the call is over; the lease gives the session back
            log.warning("the session of agent %s could not be released: %s", key.agent, error)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aixgo-sessions")
        try:
            return await asyncio.wrap_future(self._thread.submit(work, *arguments))
        except (sqlite3.Error, OSError) as error:
            raise SessionStoreUnavailable(f"the sessions in {self._file.path} cannot be used: {error}") from error


class _Held:
    def __init__(self, store: SQLiteSessions, key: SessionKey, holder: Holder, turns: tuple[Turn, ...]) -> None:
        self._store, self._key, self._holder = store, key, holder
        self.turns = turns

    async def add(self, turns: Sequence[Turn]) -> None:
        await self._store.add(self._key, self._holder, turns)
