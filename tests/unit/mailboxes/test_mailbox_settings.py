"""`mailbox:` in the YAML and AIXGO_MAILBOX: which mailboxes a runtime gets, and what is said when there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from aixgo.config.load import load, loads
from aixgo.config.schema import Config
from aixgo.config.settings import Settings
from aixgo.errors import ConfigError
from aixgo.launch import make_mailboxes, opened
from aixgo.mailboxes.contract import BACKOFF, MailboxPolicy
from aixgo.mailboxes.memory import MemoryMailboxes
from aixgo.mailboxes.nats import NatsMailboxes
from aixgo.mailboxes.places import check_mailbox
from aixgo.mailboxes.places import make_mailboxes as make
from aixgo.mailboxes.sqlite import SQLiteMailboxes
from pydantic import SecretStr

AGENT = "version: 2\nagents:\n  - {name: a, role: llm, model: test/echo}\n"
WITH_PASSWORD = "nats://anna:hunter2@broker:4222"


def test_messages_wait_in_memory_when_nobody_says_otherwise() -> None:
    mailboxes = make_mailboxes(loads(AGENT), Settings())
    assert isinstance(mailboxes, MemoryMailboxes)
    assert mailboxes.policy == MailboxPolicy(max_messages=100)


def test_the_file_names_the_place_and_the_policy() -> None:
    text = AGENT + (
        "mailbox: {url: 'nats://b', max_messages: 7, max_bytes: 99, max_deliveries: 3, backoff: [1s, 1m], ack_wait: 5s,"
        " max_dead: 11, replicas: 3}\n"
    )
    mailboxes = make_mailboxes(loads(text), Settings())
    assert isinstance(mailboxes, NatsMailboxes)
    assert mailboxes.policy == MailboxPolicy(7, 99, 3, (1.0, 60.0), 5.0, 11)


def test_the_environment_wins_over_the_file() -> None:
    config = loads(AGENT + "mailbox: {url: 'sqlite:///mail.db', max_deliveries: 2}\n")
    mailboxes = make_mailboxes(config, Settings.read({"AIXGO_MAILBOX": "nats://one:4222, tls://two:4222"}))
    assert isinstance(mailboxes, NatsMailboxes)
    assert mailboxes.policy == MailboxPolicy(10_000, None, 2, BACKOFF)


async def test_what_is_sent_in_one_run_is_received_in_the_next(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(AGENT + "mailbox: {url: 'sqlite:///mail.db'}\n")
    async with opened(load(path), variables={}) as runtime:
        await runtime.send("a", "hello")
    async with opened(load(path), variables={}) as runtime:
        async for delivery in runtime.recv("a"):
            async with delivery as message:
                assert message.payload == "hello"
            break
    assert (tmp_path / "mail.db").is_file()


@pytest.mark.parametrize(
    ("mailbox", "told"),
    [
        ("{url: redis://hunter2}", "there are no mailboxes in 'redis'"),
        ("{url: 'sqlite:///'}", "this names no mailboxes"),
        ("{url: 'nats://'}", "this names no mailboxes"),
        ("{url: 'nats://anna:hunter2@host:port'}", "this names no mailboxes"),
        ("{url: 'nats://a,http://hunter2'}", "this names no mailboxes"),
        ("{max_deliveries: 0}", "greater than or equal to 1"),
        ("{backoff: []}", "at least 1 item"),
        ("{backoff: [fast]}", "a duration is needed"),
        ("{maxdeliveries: 3}", "max_deliveries"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line_and_without_secrets(mailbox: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(f"{AGENT}mailbox: {mailbox}\n")
    assert told in caught.value.message
    assert ":4: " in caught.value.message
    assert "hunter2" not in caught.value.message


def test_a_setting_that_names_no_mailboxes_is_told_without_secrets() -> None:
    with pytest.raises(ConfigError, match="AIXGO_MAILBOX: ") as caught:
        Settings.read({"AIXGO_MAILBOX": "amqp://anna:hunter2@host"})
    assert "hunter2" not in caught.value.message


def test_a_password_is_shown_nowhere() -> None:
    config = Config.model_validate({"version": 2, "mailbox": {"url": WITH_PASSWORD}})
    settings = Settings.read({"AIXGO_MAILBOX": WITH_PASSWORD})
    assert "hunter2" not in f"{config!r} {config.model_dump_json()} {settings!r}"


@pytest.mark.parametrize(
    "text", ["memory", "sqlite:///x.db", "nats://h", "tls://u:p@h:1", "nats://[::1]:4222,nats://b"]
)
def test_every_form_of_an_address_is_taken(text: str) -> None:
    check_mailbox(text)


def test_relative_files_lie_beside_the_configuration(tmp_path: Path) -> None:
    mailboxes = make(SecretStr("sqlite:///mail.db"), MailboxPolicy(), folder=tmp_path)
    assert isinstance(mailboxes, SQLiteMailboxes)
    assert mailboxes.path == tmp_path / "mail.db"
