"""The SQLite file of a session store: its tables, and one short transaction for each thing that is done with them.

Everything here blocks and belongs into one thread; `sqlite.py` (above) sees to that. Times are in seconds since the
epoch and passed in.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

from aixgo.conversation import Turn
from aixgo.errors import ConfigError
from aixgo.sessions.contract import SessionKey, SessionLimits, from_first_user

_BUSY_SECONDS = 5.0
_BUSY_PAUSE = 0.01
_PRIMARY = 0xFF
"""The bits of an SQLite error code that say the kind; those above say more of it."""

MIGRATIONS = (
    (
        """CREATE TABLE sessions (
            id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, agent TEXT NOT NULL, used_at REAL NOT NULL,
            holder TEXT NOT NULL, held_until REAL NOT NULL, UNIQUE (session_id, agent)
        )""",
        """CREATE TABLE turns (
            id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
            message_id TEXT NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, name TEXT NOT NULL
        )""",
        "CREATE INDEX turns_of_session ON turns (session, id)",
        "CREATE INDEX sessions_by_use ON sessions (used_at)",
    ),
)
"""What brings the tables from each version to the next; the file's version is how many of them it has had."""


class Holder(NamedTuple):
    """One call that wants a session: an id of its own, and the message that it answers."""

    id: str
    message_id: str


class SessionFile:
    """One connection to the file at `path`, opened at the first use. A lease lasts `lease` seconds."""

    def __init__(self, path: Path, limits: SessionLimits, lease: float) -> None:
        self.path = path
        self._limits, self._lease = limits, lease
        self._connection: sqlite3.Connection | None = None

    def acquire(self, key: SessionKey, holder: Holder, now: float) -> tuple[Turn, ...] | None:
        """Lease a session and read its turns; None while another holds it."""
        with self._transaction() as database:
            self._sweep(database, now)
            row = database.execute(
                "INSERT INTO sessions (session_id, agent, used_at, holder, held_until) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (session_id, agent) DO UPDATE SET holder = excluded.holder,"
                " held_until = excluded.held_until WHERE held_until <= ? OR holder = excluded.holder RETURNING id",
                (*key, now, holder.id, now + self._lease, now),
            ).fetchone()
            return None if row is None else _turns(database, row[0], holder.message_id)

    def renew(self, key: SessionKey, holder: Holder, now: float) -> bool:
        """Keep a session for another lease; False when `holder` has lost it."""
        with self._transaction() as database:
            return self._extend(database, key, holder, now) is not None

    def add(self, key: SessionKey, holder: Holder, turns: Sequence[Turn], now: float) -> bool:
        """Write turns; False, writing nothing, when `holder` has lost the session."""
        with self._transaction() as database:
            session = self._extend(database, key, holder, now)
            if session is None:
                return False
            database.execute(
                "DELETE FROM turns WHERE session = ? AND message_id = ? AND message_id <> ''",
                (session, holder.message_id),
            )
            database.executemany(
                "INSERT INTO turns (session, message_id, role, content, name) VALUES (?, ?, ?, ?, ?)",
                [(session, holder.message_id, turn.role, turn.content, turn.name) for turn in turns],
            )
            database.execute(
                "DELETE FROM turns WHERE session = ? AND id NOT IN"
                " (SELECT id FROM turns WHERE session = ? ORDER BY id DESC LIMIT ?)",
                (session, session, self._limits.max_turns),
            )
            database.execute("UPDATE sessions SET used_at = ? WHERE id = ?", (now, session))
            return True

    def release(self, key: SessionKey, holder: Holder) -> None:
        """Give a session up; one without turns leaves no trace."""
        with self._transaction() as database:
            database.execute(
                "UPDATE sessions SET holder = '', held_until = 0 WHERE session_id = ? AND agent = ? AND holder = ?",
                (*key, holder.id),
            )
            database.execute(
                "DELETE FROM sessions WHERE session_id = ? AND agent = ? AND holder = ''"
                " AND id NOT IN (SELECT session FROM turns)",
                key,
            )

    def clear(self, session_id: str, now: float) -> int:
        """Delete the turns of a session; how many there were."""
        with self._transaction() as database:
            gone = database.execute(
                "DELETE FROM turns WHERE session IN (SELECT id FROM sessions WHERE session_id = ?)", (session_id,)
            ).rowcount
            database.execute("DELETE FROM sessions WHERE session_id = ? AND held_until <= ?", (session_id, now))
            return gone

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _extend(self, database: sqlite3.Connection, key: SessionKey, holder: Holder, now: float) -> int | None:
        row = database.execute(
            "UPDATE sessions SET held_until = ? WHERE session_id = ? AND agent = ? AND holder = ? RETURNING id",
            (now + self._lease, *key, holder.id),
        ).fetchone()
        return None if row is None else row[0]

    def _sweep(self, database: sqlite3.Connection, now: float) -> None:
        if self._limits.ttl is None:
            return
        old = "used_at <= ? AND held_until <= ?"
        database.execute(f"DELETE FROM sessions WHERE {old}", (now - self._limits.ttl, now))  # noqa: S608  # constant

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")  # at once a writer: upgrading later fails when another wrote meanwhile
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)  # conversations are nobody else's business; its WAL files get the same mode
            database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                write_ahead(database)
                database.execute("PRAGMA synchronous = NORMAL")  # with WAL a power cut loses the last turns, no more
                database.execute("PRAGMA foreign_keys = ON")
                migrate(database, self.path)
            except BaseException:
                database.close()
                raise
            self._connection = database
        return self._connection


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Bring the tables to the version of this code. Raises ConfigError for a file of a newer one."""
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("CREATE TABLE IF NOT EXISTS aixgo_sessions_version (version INTEGER NOT NULL)")
        row = database.execute("SELECT version FROM aixgo_sessions_version").fetchone()
        version = 0 if row is None else int(row[0])
        if version > len(MIGRATIONS):
            raise ConfigError(  # noqa: TRY301  # the transaction is rolled back below
                f"sessions.store: {path} has version {version} and this aixgo knows {len(MIGRATIONS)};"
                " upgrade aixgo, or name another file"
            )
        for statement in (each for step in MIGRATIONS[version:] for each in step):
            database.execute(statement)
        database.execute("DELETE FROM aixgo_sessions_version")
        database.execute("INSERT INTO aixgo_sessions_version VALUES (?)", (len(MIGRATIONS),))
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def write_ahead(database: sqlite3.Connection) -> None:
    """Turn on WAL. SQLite does not wait for a lock here as it does elsewhere, so several processes that open a new file
    at once would fail.
    """
    until = monotonic() + _BUSY_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
            sleep(_BUSY_PAUSE)
        else:
            return


def _turns(database: sqlite3.Connection, session: int, but_not: str) -> tuple[Turn, ...]:
    rows = database.execute(
        "SELECT role, content, name FROM turns WHERE session = ? AND (message_id <> ? OR message_id = '') ORDER BY id",
        (session, but_not),
    )
    return from_first_user([Turn(*row) for row in rows])
