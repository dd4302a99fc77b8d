"""Sessions in PostgreSQL: for replicas on many machines. Needs the extra `postgres` (psycopg 3).

Implements `contract.py`. Owns the order between processes: a session is held by an advisory lock of the connection, so
the server gives it back the moment the holder's connection ends. One connection serves a whole process: its statements
take a millisecond each, and because turns are written over the very connection that holds the lock, a holder that has
lost its lock cannot write. A pooler that hands out connections for single transactions (PgBouncer's transaction mode)
breaks that: connect to the server itself, or pool by session.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import SecretStr

from aixgo.conversation import Turn
from aixgo.errors import ConfigError
from aixgo.sessions.contract import (
    SessionKey,
    SessionLimits,
    SessionLost,
    SessionStoreUnavailable,
    key_of,
    storable,
    usable_id,
)
from aixgo.sessions.postgres_tables import SETTINGS, add, clear, lock_number, migrate, read, sweep
from aixgo.sessions.queues import Queues

if TYPE_CHECKING:
    from psycopg import AsyncConnection

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two looks at a session that another process holds; they grow, and vary so that nobody is unlucky."""
_CONNECT_SECONDS = 10
_KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 15_000}
"""Seconds (the last one milliseconds) after which a server that is gone is noticed."""


class PostgresSessions:
    """A session store in the database that `dsn` names (`postgresql://user:password@host/database`).

    It connects, and makes its tables (`aixgo_session*`, in the first schema of the search path), when it is first used.
    `clock` is in seconds since the epoch.
    """

    def __init__(
        self,
        dsn: SecretStr,
        limits: SessionLimits | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._dsn = dsn
        self.limits = limits or SessionLimits()
        self._clock, self._sleep = clock, sleep
        self._queues = Queues()
        self._connection: AsyncConnection[Any] | None = None
        self._using = asyncio.Lock()
        self._psycopg = _driver()
        self._check_dsn()

    @asynccontextmanager
    async def hold(self, session_id: str, agent: str, message_id: str = "") -> AsyncGenerator[_Held]:
        """See SessionStore."""
        key, message_id = key_of(session_id, agent), usable_id(message_id)
        async with self._queues.turn(key):
            locks: list[AsyncConnection[Any]] = []
            try:
                turns = await self._acquire(key, message_id, locks)
                yield _Held(self, _Call(locks[-1], key, message_id), turns)
            finally:
                await asyncio.shield(self._release(key, locks))

    async def clear(self, session_id: str) -> int:
        """See SessionStore."""
        return await self._run(lambda connection: clear(connection, session_id))

    async def close(self) -> None:
        """Close the connection, which gives back every session that is still held."""
        async with self._using:
            await self._disconnect()

    async def add(self, call: _Call, turns: Sequence[Turn]) -> None:
        """Remember turns of a session that a call holds."""
        new = storable(turns, self.limits)

        async def write(current: AsyncConnection[Any]) -> None:
            if current is not call.connection:
                raise SessionLost(
                    f"the connection that held the session of agent {call.key.agent!r} broke, so the turns were not"
                    " remembered"
                )
            await add(current, call.key, call.message_id, new, self.limits.max_turns, self._clock())

        await self._run(write)

    async def _acquire(self, key: SessionKey, message_id: str, locks: list[AsyncConnection[Any]]) -> tuple[Turn, ...]:
        number, pause = lock_number(key), FIRST_PAUSE

        async def attempt(connection: AsyncConnection[Any]) -> tuple[Turn, ...] | None:
            locks.append(connection)  # before: when the statement breaks off, whether it was done is not known
            row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (number,))).fetchone()
            if row is None or not row[0]:
                locks.clear()
                return None
            await sweep(connection, self.limits.ttl, self._clock())
            return await read(connection, key, message_id)

        # Looked at again and again: a statement that waits would keep the one connection from everybody else.
        while (turns := await self._run(attempt)) is None:
            await self._sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret: it spreads the looks
            pause = min(LONGEST_PAUSE, 2 * pause)
        return turns

    async def _release(self, key: SessionKey, locks: Sequence[AsyncConnection[Any]]) -> None:
        """Unlock what was locked. It waits for the connection, so an attempt that was cancelled has ended by then."""
        async with self._using:
            for connection in locks:
                if connection is not self._connection:
                    continue  # the lock went with its connection
                try:
                    await connection.execute("SELECT pg_advisory_unlock(%s)", (lock_number(key),))
                except self._psycopg.Error as error:
                    log.warning("the session of agent %s could not be released: %s", key.agent, type(error).__name__)
                    await self._disconnect()  # which releases it, and every other

    async def _run(self, work: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        """`work` with the connection, to its end even when the caller is cancelled: a statement that is broken off
        leaves open whether it was done.
        """
        return await asyncio.shield(self._exclusively(work))

    async def _exclusively(self, work: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
        async with self._using:
            try:
                return await work(await self._connected())
            except self._psycopg.Error as error:
                raise self._unavailable(error) from error

    async def _connected(self) -> AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            self._connection = None
            connection: AsyncConnection[Any] = await self._psycopg.AsyncConnection.connect(
                self._dsn.get_secret_value(),
                autocommit=True,
                prepare_threshold=None,
                **self._defaults(),
            )
            try:
                await connection.execute(SETTINGS)
                await migrate(connection)
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with suppress(self._psycopg.Error):  # it is given up in any case
                await connection.close()

    def _defaults(self) -> dict[str, Any]:
        """Parameters of the connection that the DSN leaves open."""
        given = self._psycopg.conninfo.conninfo_to_dict(self._dsn.get_secret_value())
        wanted = {"connect_timeout": _CONNECT_SECONDS, "application_name": "aixgo sessions", **_KEEPALIVE}
        return {name: value for name, value in wanted.items() if name not in given}

    def _check_dsn(self) -> None:
        try:
            self._defaults()
        except self._psycopg.Error:  # its text shows the DSN, and so the password
            raise ConfigError(
                "sessions.store: the PostgreSQL address cannot be read; write postgresql://user:password@host/database,"
                " with special characters of the password percent-encoded"
            ) from None

    def _unavailable(self, error: Exception) -> SessionStoreUnavailable:
        told = str(error).strip().partition("\n")[0]
        for secret in self._secrets():
            told = told.replace(secret, "***")
        return SessionStoreUnavailable(f"the sessions in PostgreSQL cannot be used: {type(error).__name__}: {told}")

    def _secrets(self) -> list[str]:
        given = self._psycopg.conninfo.conninfo_to_dict(self._dsn.get_secret_value())
        return [str(given[name]) for name in ("password", "sslpassword") if given.get(name)]


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that holds a session, and the connection that has its lock."""

    connection: AsyncConnection[Any]
    key: SessionKey
    message_id: str


class _Held:
    def __init__(self, store: PostgresSessions, call: _Call, turns: tuple[Turn, ...]) -> None:
        self._store, self._call = store, call
        self.turns = turns

    async def add(self, turns: Sequence[Turn]) -> None:
        await self._store.add(self._call, turns)


def _driver() -> Any:
    try:
        return importlib.import_module("psycopg")
    except ImportError as error:
        raise ConfigError(
            "sessions.store: PostgreSQL needs psycopg; install it with: pip install 'aixgo[postgres]'"
        ) from error
