"""The SQLite file of mailboxes: leases between processes, and what is refused."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from aixgo import Message
from aixgo.errors import ConfigError
from aixgo.mailboxes.contract import Letter, MailboxPolicy
from aixgo.mailboxes.sqlite_file import MailboxFile

NOW = 1_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "mail.db"


def filled(path: Path, *texts: str, **policy: int) -> MailboxFile:
    file = MailboxFile(path, MailboxPolicy(**policy))  # type: ignore[arg-type]
    file.make("box")
    for text in texts:
        assert file.put("box", Letter(Message(text, session_id="s")), NOW)
    return file


def test_a_lease_that_is_renewed_keeps_a_letter(path: Path) -> None:
    file = filled(path, "x")
    taken = file.take("box", "me", NOW)
    assert taken is not None
    assert file.take("box", "you", NOW + 29) is None
    file.renew([taken.seq], "me", NOW + 29)
    assert file.take("box", "you", NOW + 58) is None
    again = file.take("box", "you", NOW + 60)
    assert again is not None
    assert again.attempt == 2
    file.close()


def test_who_has_lost_a_letter_settles_it_no_more(path: Path) -> None:
    file = filled(path, "x")
    taken = file.take("box", "late", NOW)
    assert taken is not None
    again = file.take("box", "new", NOW + 31)
    assert again is not None
    file.done(taken.seq, "late")
    file.again(taken.seq, "late", NOW)
    assert not file.bury(taken.seq, "late", "no", NOW)
    assert file.take("box", "other", NOW + 32) is None  # still the new one's
    file.done(again.seq, "new")
    assert file.take("box", "other", NOW + 1000) is None
    file.close()


def test_a_dead_letter_without_room_stays_in_its_mailbox(path: Path) -> None:
    file = filled(path, "a", "b", max_deliveries=1, max_dead=1)
    first = file.take("box", "me", NOW)
    assert first is not None
    assert file.bury(first.seq, "me", "no", NOW)
    second = file.take("box", "me", NOW)
    assert second is not None
    assert not file.bury(second.seq, "me", "no", NOW)
    assert file.take("box", "me", NOW + 1) is None
    file.drop("box", file.dead_letters("box", 10)[0].id)
    assert file.take("box", "me", NOW + 31) is None
    assert [dead.letter.message.payload for dead in file.dead_letters("", 10)] == ["b"]
    file.close()


def test_what_cannot_be_read_is_a_dead_letter_and_can_be_looked_at(path: Path) -> None:
    file = filled(path, "x")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE letters SET data = x'ff00'")
    database.close()
    assert file.take("box", "me", NOW) is None
    (dead,) = file.dead_letters("box", 10)
    assert dead.letter.message.payload == b"\xff\x00"
    assert "DeliverRequest" in dead.reason
    file.close()


def test_the_file_is_its_owners_alone(path: Path) -> None:
    filled(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    filled(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE aixgo_mailboxes_version SET version = 99")
    database.close()
    with pytest.raises(ConfigError, match="version 99"):
        MailboxFile(path, MailboxPolicy()).make("box")
