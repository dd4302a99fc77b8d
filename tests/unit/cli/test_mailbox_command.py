"""`aixgo mailbox dead`: listed, shown, replayed, dropped; what is said when there is nothing, or nowhere."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest
from aixgo import Message
from aixgo.mailboxes.contract import Letter, MailboxPolicy
from aixgo.mailboxes.sqlite import SQLiteMailboxes
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

Output = pytest.CaptureFixture[str]
FIRST = Message({"order": 1}, session_id="s", id="first")


@pytest.fixture(autouse=True)
def dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two dead letters of `writer` in mail.db, which AIXGO_MAILBOX and mesh.yaml name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIXGO_MAILBOX", "sqlite:///mail.db")
    (tmp_path / "mesh.yaml").write_text(
        "version: 2\nagents: [{name: writer, role: llm, model: test/echo}]\nmailbox: {url: 'sqlite:///mail.db'}\n"
    )
    asyncio.run(buried(tmp_path / "mail.db", FIRST, Message("two", id="second")))
    return tmp_path / "mail.db"


async def buried(path: Path, *messages: Message) -> None:
    mailboxes = SQLiteMailboxes(path, MailboxPolicy(max_deliveries=1))
    mailboxes.add("writer")
    async with aclosing(mailboxes.receive("writer")) as deliveries:
        for message in messages:
            await mailboxes.put("writer", Letter(message, ("editor",)), 5.0)
            with pytest.raises(ValueError, match="no\npaper"):
                async with await anext(deliveries):
                    raise ValueError("no\npaper")
    await mailboxes.close()


async def received(path: Path) -> list[str]:
    mailboxes = SQLiteMailboxes(path)
    mailboxes.add("writer")
    async with aclosing(mailboxes.receive("writer")) as deliveries:
        async with asyncio.timeout(20):
            async with (delivery := await anext(deliveries)):
                assert delivery.redelivered
    await mailboxes.close()
    return [delivery.message.id]


def test_dead_letters_are_listed_one_a_line(capsys: Output) -> None:
    assert execute(["mailbox", "dead", "list"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ", 1)[1] for line in lines] == [
        "writer  first  1x  ValueError: no paper",
        "writer  second  1x  ValueError: no paper",
    ]
    assert execute(["mailbox", "dead", "list", "writer", "--limit", "1"]) == Exit.OK
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_agent_without_dead_letters_has_an_empty_list(capsys: Output) -> None:
    assert execute(["mailbox", "dead", "list", "editor"]) == Exit.OK
    out, err = capsys.readouterr()
    assert (out, err) == ("", "no dead letters\n")


def test_a_dead_letter_is_shown_with_all_that_is_known(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIXGO_MAILBOX")
    assert execute(["mailbox", "dead", "show", "writer", "first", "--file", "mesh.yaml", "--json"]) == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["message"]["payload"] == {"order": 1}
    assert told["message"]["session_id"] == "s"
    assert (told["attempts"], told["reason"], told["sender"], told["replays"]) == (
        1,
        "ValueError: no paper",
        ["editor"],
        0,
    )


def test_a_replayed_letter_is_delivered_again(dead: Path, capsys: Output) -> None:
    assert execute(["mailbox", "dead", "replay", "writer", "second"]) == Exit.OK
    assert capsys.readouterr().out == "replayed second\n"
    assert asyncio.run(received(dead)) == ["second"]
    assert execute(["mailbox", "dead", "replay", "writer", "second"]) == Exit.FAILED
    assert "no dead letter 'second'" in capsys.readouterr().err


def test_all_are_dropped_at_once(capsys: Output) -> None:
    assert execute(["mailbox", "dead", "drop", "writer", "--all", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == {"dropped": ["first", "second"]}
    assert execute(["mailbox", "dead", "list", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("arguments", [["replay", "writer"], ["drop", "writer", "first", "--all"]])
def test_one_or_all_have_to_be_named(arguments: list[str], capsys: Output) -> None:
    assert execute(["mailbox", "dead", *arguments]) == Exit.USAGE
    assert "--all" in capsys.readouterr().err


def test_mailboxes_in_memory_cannot_be_looked_at_from_outside(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIXGO_MAILBOX", "memory")
    assert execute(["mailbox", "dead", "list"]) == Exit.USAGE
    assert "AIXGO_MAILBOX=nats://host:4222" in capsys.readouterr().err
