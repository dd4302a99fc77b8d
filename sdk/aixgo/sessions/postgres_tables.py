"""The tables of a session store in PostgreSQL, and one short transaction for each thing that is done with them.

Knows nothing of locks and connections; `postgres.py` (above) has them. Times are in seconds since the epoch, by the
processes' clocks, and passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, LiteralString

from aixgo.conversation import Turn
from aixgo.errors import ConfigError
from aixgo.sessions.contract import SessionKey, from_first_user

if TYPE_CHECKING:
    from psycopg import AsyncConnection

SETTINGS = (
    "SET statement_timeout = '10s'; SET tcp_keepalives_idle = 5;"
    " SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)
"""Of a new connection. The keepalives let the server notice within seconds that a holder's machine is gone."""

_MIGRATION_LOCK = 0x61_69_78_67_6F  # "aixgo"
MIGRATIONS: tuple[tuple[LiteralString, ...], ...] = (
    (
        """CREATE TABLE aixgo_sessions (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, session_id text NOT NULL, agent text NOT NULL,
            used_at double precision NOT NULL, UNIQUE (session_id, agent)
        )""",
        """CREATE TABLE aixgo_session_turns (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            session bigint NOT NULL REFERENCES aixgo_sessions ON DELETE CASCADE,
            message_id text NOT NULL, role text NOT NULL, content text NOT NULL, name text NOT NULL
        )""",
        "CREATE INDEX aixgo_session_turns_of_session ON aixgo_session_turns (session, id)",
        "CREATE INDEX aixgo_sessions_by_use ON aixgo_sessions (used_at)",
    ),
)
"""What brings the tables from each version to the next; the version is how many of them a database has had."""


def lock_number(key: SessionKey) -> int:
    """The advisory lock of a session: 64 bits of a hash. Two sessions of one number only wait for each other."""
    text = f"{key.session_id}\0{key.agent}".encode()
    return int.from_bytes(blake2b(text, digest_size=8, person=b"aixgo").digest(), signed=True)


async def migrate(connection: AsyncConnection[Any]) -> None:
    """Bring the tables to the version of this code. Raises ConfigError for tables of a newer one."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        version = await _version(connection)
        if version > len(MIGRATIONS):
            raise ConfigError(
                f"sessions.store: the tables have version {version} and this aixgo knows {len(MIGRATIONS)};"
                " upgrade aixgo, or name another database"
            )
        for step in MIGRATIONS[version:]:
            for statement in step:
                await connection.execute(statement)
        if version < len(MIGRATIONS):
            await connection.execute("DELETE FROM aixgo_session_version")
            await connection.execute("INSERT INTO aixgo_session_version VALUES (%s)", (len(MIGRATIONS),))


async def read(connection: AsyncConnection[Any], key: SessionKey, but_not: str) -> tuple[Turn, ...]:
    """The turns of a session, oldest first, but not those of the message `but_not`."""
    rows = await connection.execute(
        "SELECT role, content, name FROM aixgo_session_turns WHERE session ="
        " (SELECT id FROM aixgo_sessions WHERE session_id = %s AND agent = %s)"
        " AND (message_id <> %s OR message_id = '') ORDER BY id",
        (*key, but_not),
    )
    return from_first_user([Turn(*row) for row in await rows.fetchall()])


async def add(
    connection: AsyncConnection[Any],
    key: SessionKey,
    message_id: str,
    turns: Sequence[Turn],
    max_turns: int,
    now: float,
) -> None:
    """Write turns in place of those that the message has left before, and delete the oldest over `max_turns`."""
    async with connection.transaction():
        found = await connection.execute(
            "INSERT INTO aixgo_sessions (session_id, agent, used_at) VALUES (%s, %s, %s)"
            " ON CONFLICT (session_id, agent) DO UPDATE SET used_at = excluded.used_at RETURNING id",
            (*key, now),
        )
        row = await found.fetchone()
        assert row is not None
        session = row[0]
        await connection.execute(
            "DELETE FROM aixgo_session_turns WHERE session = %s AND message_id = %s AND message_id <> ''",
            (session, message_id),
        )
        for turn in turns:
            await connection.execute(
                "INSERT INTO aixgo_session_turns (session, message_id, role, content, name)"
                " VALUES (%s, %s, %s, %s, %s)",
                (session, message_id, turn.role, turn.content, turn.name),
            )
        await connection.execute(
            "DELETE FROM aixgo_session_turns WHERE session = %s AND id NOT IN"
            " (SELECT id FROM aixgo_session_turns WHERE session = %s ORDER BY id DESC LIMIT %s)",
            (session, session, max_turns),
        )


async def sweep(connection: AsyncConnection[Any], ttl: float | None, now: float) -> None:
    """Delete the sessions whose last turn is older than `ttl` seconds."""
    if ttl is not None:
        await connection.execute("DELETE FROM aixgo_sessions WHERE used_at <= %s", (now - ttl,))


async def clear(connection: AsyncConnection[Any], session_id: str) -> int:
    """Delete a session of all agents; how many turns it had."""
    async with connection.transaction():
        gone = await connection.execute(
            "DELETE FROM aixgo_session_turns WHERE session IN (SELECT id FROM aixgo_sessions WHERE session_id = %s)",
            (session_id,),
        )
        await connection.execute("DELETE FROM aixgo_sessions WHERE session_id = %s", (session_id,))
        return gone.rowcount


async def _version(connection: AsyncConnection[Any]) -> int:
    # Asked for first: IF NOT EXISTS wants the right to create tables even where there is nothing to create.
    found = await (await connection.execute("SELECT to_regclass('aixgo_session_version')")).fetchone()
    if found is None or found[0] is None:
        await connection.execute("CREATE TABLE aixgo_session_version (version integer NOT NULL)")
    row = await (await connection.execute("SELECT version FROM aixgo_session_version")).fetchone()
    return 0 if row is None else int(row[0])
