"""Where sessions are kept and messages wait, and what of their address is known afterwards."""

from __future__ import annotations

import pytest
from aixgo.config.load import loads
from aixgo.config.settings import Settings
from aixgo_services.needs.keeping import (
    MailboxKind,
    MailboxPlace,
    SessionPlace,
    Sessions,
    mailbox_place,
    session_place,
)

AGENT = "version: 2\nagents: [{name: a, role: llm, model: test/echo}]\n"


@pytest.mark.parametrize(
    ("store", "place"),
    [
        ("memory", SessionPlace(Sessions.MEMORY)),
        ("sqlite:///kept/sessions.db", SessionPlace(Sessions.SQLITE, "kept/sessions.db")),
        ("sqlite:////var/sessions.db", SessionPlace(Sessions.SQLITE, "/var/sessions.db")),
        ("postgres://u:secret@db/x", SessionPlace(Sessions.POSTGRES, addresses=("db:5432",))),
        ("postgresql://u:p@a:1,b/x", SessionPlace(Sessions.POSTGRES, addresses=("a:1", "b:5432"))),
        ("postgresql:///x?host=/run", SessionPlace(Sessions.POSTGRES)),
    ],
)
def test_a_store_is_known_by_who_reaches_it_and_never_by_its_password(store: str, place: SessionPlace):
    assert session_place(loads(f"{AGENT}sessions: {{store: '{store}'}}"), Settings()) == place
    assert session_place(loads(AGENT), Settings.read({"AIXGO_SESSION_STORE": store})) == place
    assert "secret" not in repr(place)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("memory", MailboxPlace()),
        ("sqlite:///kept/mail.db", MailboxPlace(MailboxKind.SQLITE, "kept/mail.db")),
        ("nats://mq", MailboxPlace(MailboxKind.NATS, addresses=("mq:4222",), url="nats://mq")),
        ("nats://u:secret@a:1, tls://u:secret@b", MailboxPlace(MailboxKind.NATS, addresses=("a:1", "b:4222"))),
    ],
)
def test_mailboxes_are_known_by_who_reaches_them_and_never_by_their_password(url: str, place: MailboxPlace):
    assert mailbox_place(loads(f"{AGENT}mailbox: {{url: '{url}'}}"), Settings()) == place
    assert "secret" not in repr(place)


def test_what_the_environment_says_of_mailboxes_wins_and_is_not_told_on():
    place = mailbox_place(
        loads(f"{AGENT}mailbox: {{url: 'sqlite:///m.db'}}"), Settings.read({"AIXGO_MAILBOX": "nats://mq"})
    )
    assert place == MailboxPlace(MailboxKind.NATS, addresses=("mq:4222",))
