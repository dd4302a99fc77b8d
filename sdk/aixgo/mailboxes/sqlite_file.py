"""The SQLite file of mailboxes: its tables, and one short transaction for each thing that is done with them.

Everything here blocks and belongs into one thread; `sqlite.py` (above) sees to that. Times are in seconds since the
epoch and passed in. Whoever takes a letter holds it by a lease, so that one whose receiver died comes again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aixgo.errors import ConfigError, InvalidMessage
from aixgo.mailboxes.contract import (
    DUPLICATE_WINDOW,
    DeadLetter,
    Letter,
    LetterNotFound,
    MailboxPolicy,
    full,
    unsettled,
)
from aixgo.mailboxes.letters import decode_letter, encode_letter, unreadable
from aixgo.sessions.sqlite_file import write_ahead

_BUSY_SECONDS = 5.0
_VERSION = 1
_TABLES = (
    "CREATE TABLE mailboxes (agent TEXT PRIMARY KEY)",
    """CREATE TABLE letters (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, session TEXT NOT NULL, data BLOB NOT NULL,
        replays INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL,
        holder TEXT NOT NULL DEFAULT ''
    )""",
    "CREATE INDEX letters_by_session ON letters (agent, session, seq)",
    "CREATE TABLE ids (agent TEXT NOT NULL, id TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (agent, id))",
    "CREATE INDEX ids_by_age ON ids (at)",
    """CREATE TABLE dead_letters (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, id TEXT NOT NULL, data BLOB NOT NULL,
        replays INTEGER NOT NULL, attempts INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL, UNIQUE (agent, id)
    )""",
)
_NEXT = """SELECT seq, data, replays, attempts FROM letters AS letter WHERE agent = ? AND due <= ?
    AND (session = '' OR NOT EXISTS (SELECT 1 FROM letters AS earlier WHERE earlier.agent = letter.agent
        AND earlier.session = letter.session AND earlier.seq < letter.seq))
    ORDER BY seq LIMIT 1"""
"""The next letter: of a session only the first. `due` is when a pause, or the lease of a holder, is over."""


class Taken(NamedTuple):
    """A letter that is held, and how many others wait."""

    seq: int
    letter: Letter
    attempt: int
    waiting: int


class MailboxFile:
    """One connection to the file at `path`, opened at the first use."""

    def __init__(self, path: Path, policy: MailboxPolicy) -> None:
        self.path = path
        self._policy = policy
        self._connection: sqlite3.Connection | None = None

    def make(self, agent: str) -> None:
        """Make a mailbox, unless there is one."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO mailboxes VALUES (?)", (agent,))

    def put(self, agent: str, letter: Letter, now: float) -> bool:
        """Keep a letter, unless its id is known; False when there is no such mailbox. Raises MailboxFull."""
        data = encode_letter(agent, letter)
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM mailboxes WHERE agent = ?", (agent,)).fetchone() is None:
                return False
            database.execute("DELETE FROM ids WHERE at <= ?", (now - DUPLICATE_WINDOW,))
            known = database.execute("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", (agent, letter.message.id, now))
            if known.rowcount:
                self._add(database, agent, letter, data, now)
            return True

    def take(self, agent: str, holder: str, now: float) -> Taken | None:
        """Lease the next letter; None when none is due. Those whose last lease ran out unsettled die here."""
        with self._transaction() as database:
            while (row := database.execute(_NEXT, (agent, now)).fetchone()) is not None:
                seq, data, replays, attempts = row
                if attempts >= self._policy.max_deliveries:
                    self._bury(database, seq, unsettled(attempts), now)
                    continue
                try:
                    letter = decode_letter(data, replays)
                except InvalidMessage as error:
                    self._bury(database, seq, str(error), now)
                    continue
                database.execute(
                    "UPDATE letters SET attempts = attempts + 1, holder = ?, due = ? WHERE seq = ?",
                    (holder, now + self._policy.ack_wait, seq),
                )
                return Taken(seq, letter, attempts + 1, _count(database, agent) - 1)
        return None

    def renew(self, seqs: Iterable[int], holder: str, now: float) -> None:
        """Keep letters for another lease."""
        until = now + self._policy.ack_wait
        with self._transaction() as database:
            database.executemany(
                "UPDATE letters SET due = ? WHERE seq = ? AND holder = ?", [(until, seq, holder) for seq in seqs]
            )

    def done(self, seq: int, holder: str) -> None:
        """Forget a letter, unless another has it by now."""
        with self._transaction() as database:
            database.execute("DELETE FROM letters WHERE seq = ? AND holder = ?", (seq, holder))

    def again(self, seq: int, holder: str, due: float, *, uncounted: bool = False) -> None:
        """Bring a letter again, at `due` at the earliest; `uncounted`: as if it had not been out."""
        with self._transaction() as database:
            database.execute(
                "UPDATE letters SET holder = '', due = ?, attempts = attempts - ? WHERE seq = ? AND holder = ?",
                (due, int(uncounted), seq, holder),
            )

    def bury(self, seq: int, holder: str, reason: str, now: float) -> bool:
        """Make a letter a dead one; False when another has it by now, or there is no room for one more."""
        with self._transaction() as database:
            mine = database.execute("SELECT 1 FROM letters WHERE seq = ? AND holder = ?", (seq, holder)).fetchone()
            return mine is not None and self._bury(database, seq, reason, now)

    def dead_letters(self, agent: str, limit: int) -> list[DeadLetter]:
        """The oldest dead letters, of one agent or (no name) of all."""
        with self._transaction() as database:
            rows = database.execute(
                "SELECT agent, id, data, replays, attempts, reason, at FROM dead_letters"
                " WHERE agent = ? OR ? = '' ORDER BY seq LIMIT ?",
                (agent, agent, limit),
            )
            return [_dead(*row) for row in rows]

    def dead_letter(self, agent: str, message_id: str) -> DeadLetter:
        """One dead letter. Raises LetterNotFound."""
        with self._transaction() as database:
            return self._find(database, agent, message_id)

    def replay(self, agent: str, message_id: str, now: float) -> None:
        """Put a dead letter into its mailbox again. Raises LetterNotFound, MailboxFull."""
        with self._transaction() as database:
            letter = self._find(database, agent, message_id).letter
            again = Letter(letter.message, letter.sender, letter.traceparent, letter.replays + 1)
            self._add(database, agent, again, encode_letter(agent, again), now)
            database.execute("DELETE FROM dead_letters WHERE agent = ? AND id = ?", (agent, message_id))

    def drop(self, agent: str, message_id: str) -> None:
        """Forget a dead letter. Raises LetterNotFound."""
        with self._transaction() as database:
            self._find(database, agent, message_id)
            database.execute("DELETE FROM dead_letters WHERE agent = ? AND id = ?", (agent, message_id))

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _add(self, database: sqlite3.Connection, agent: str, letter: Letter, data: bytes, now: float) -> None:
        if _count(database, agent) >= self._policy.max_messages:
            raise full(agent, self._policy.max_messages)
        database.execute(
            "INSERT INTO letters (agent, session, data, replays, due) VALUES (?, ?, ?, ?, ?)",
            (agent, letter.message.session_id, data, letter.replays, now),
        )

    def _bury(self, database: sqlite3.Connection, seq: int, reason: str, now: float) -> bool:
        """Make a letter a dead one; without room it stays, and is looked at again much later."""
        if database.execute("SELECT count(*) FROM dead_letters").fetchone()[0] >= self._policy.max_dead:
            due = now + max(*self._policy.backoff, self._policy.ack_wait)
            database.execute("UPDATE letters SET holder = '', due = ? WHERE seq = ?", (due, seq))
            return False
        agent, data, replays, attempts = database.execute(
            "SELECT agent, data, replays, attempts FROM letters WHERE seq = ?", (seq,)
        ).fetchone()
        try:
            message_id = decode_letter(data).message.id
        except InvalidMessage:
            message_id = f"={seq}"
        database.execute(
            "INSERT OR REPLACE INTO dead_letters (agent, id, data, replays, attempts, reason, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (agent, message_id, data, replays, attempts, reason, now),
        )
        database.execute("DELETE FROM letters WHERE seq = ?", (seq,))
        return True

    def _find(self, database: sqlite3.Connection, agent: str, message_id: str) -> DeadLetter:
        row = database.execute(
            "SELECT agent, id, data, replays, attempts, reason, at FROM dead_letters WHERE agent = ? AND id = ?",
            (agent, message_id),
        ).fetchone()
        if row is None:
            raise LetterNotFound(f"{agent!r} has no dead letter {message_id!r}")
        return _dead(*row)

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
            self.path.touch(mode=0o600)  # messages are nobody else's business; its WAL files get the same mode
            database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            try:
                write_ahead(database)
                database.execute("PRAGMA synchronous = FULL")  # what was accepted outlives a power cut, too
                _make_tables(database, self.path)
            except BaseException:
                database.close()
                raise
            self._connection = database
        return self._connection


def _make_tables(database: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file. Raises ConfigError for a file of a newer version."""
    database.execute("BEGIN IMMEDIATE")
    try:
        database.execute("CREATE TABLE IF NOT EXISTS aixgo_mailboxes_version (version INTEGER NOT NULL)")
        row = database.execute("SELECT version FROM aixgo_mailboxes_version").fetchone()
        if row is not None and row[0] > _VERSION:
            raise ConfigError(  # noqa: TRY301  # the transaction is rolled back below
                f"mailbox.url: {path} has version {row[0]} and this aixgo knows {_VERSION}; upgrade aixgo, or name"
                " another file"
            )
        if row is None:
            for statement in _TABLES:
                database.execute(statement)
            database.execute("INSERT INTO aixgo_mailboxes_version VALUES (?)", (_VERSION,))
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _count(database: sqlite3.Connection, agent: str) -> int:
    return int(database.execute("SELECT count(*) FROM letters WHERE agent = ?", (agent,)).fetchone()[0])


def _dead(agent: str, message_id: str, data: bytes, replays: int, attempts: int, reason: str, at: float) -> DeadLetter:
    try:
        letter = decode_letter(data, replays)
    except InvalidMessage:
        letter = unreadable(data, message_id)
    return DeadLetter(agent, letter, attempts, reason, at)
