"""`aixgo mailbox dead`: the messages that were given up, to look at, to replay, to drop."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from aixgo.mailboxes.contract import DeadLetter, Mailboxes

_MAX_LINE = 240
MOST = 10_000
"""Dead letters that one command goes through, at most."""

_file = click.option(
    "-f", "--file", type=click.Path(path_type=Path), help="A YAML file that says where [default: AIXGO_MAILBOX]."
)
_json = click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
_all = click.option("--all", "every", is_flag=True, help="All of the agent, in place of one ID.")


@click.group()
def mailbox() -> None:
    """Look after mailboxes that last, in SQLite or NATS."""


@mailbox.group()
def dead() -> None:
    """Messages that were given up after too many deliveries.

    Where the mailboxes are is said by AIXGO_MAILBOX, or by the key `mailbox` of a YAML file.
    """


@dead.command("list")
@click.argument("agent", default="")
@click.option("--limit", type=click.IntRange(1, MOST), default=100, show_default=True, help="How many at most.")
@_file
@_json
def list_dead(agent: str, *, limit: int, file: Path | None, as_json: bool) -> None:
    """List the dead letters of AGENT, or of all agents, the oldest first."""

    async def work(mailboxes: Mailboxes) -> None:
        letters = await mailboxes.dead_letters(agent, limit)
        if as_json:
            click.echo(json.dumps([_told(letter) for letter in letters], ensure_ascii=False, default=str))
            return
        for letter in letters:
            click.echo(_line(f"{_time(letter)}  {letter.agent}  {letter.id}  {letter.attempts}x  {letter.reason}"))
        if not letters:
            click.echo("no dead letters", err=True)

    _run(file, work)


@dead.command()
@click.argument("agent")
@click.argument("letter_id", metavar="ID")
@_file
@_json
def show(agent: str, letter_id: str, *, file: Path | None, as_json: bool) -> None:
    """Show a dead letter of AGENT: its message, sender, reason and time."""

    async def work(mailboxes: Mailboxes) -> None:
        told = _told(await mailboxes.dead_letter(agent, letter_id))
        click.echo(json.dumps(told, ensure_ascii=False, default=str, indent=None if as_json else 2))

    _run(file, work)


@dead.command()
@click.argument("agent")
@click.argument("letter_id", metavar="[ID]", default="")
@_all
@_file
@_json
def replay(agent: str, letter_id: str, *, every: bool, file: Path | None, as_json: bool) -> None:
    """Put dead letters of AGENT into its mailbox again, as redeliveries."""

    async def work(mailboxes: Mailboxes) -> None:
        await _each(mailboxes, mailboxes.replay, agent, letter_id, every=every, word="replayed", as_json=as_json)

    _run(file, work)


@dead.command()
@click.argument("agent")
@click.argument("letter_id", metavar="[ID]", default="")
@_all
@_file
@_json
def drop(agent: str, letter_id: str, *, every: bool, file: Path | None, as_json: bool) -> None:
    """Forget dead letters of AGENT for good."""

    async def work(mailboxes: Mailboxes) -> None:
        await _each(mailboxes, mailboxes.drop, agent, letter_id, every=every, word="dropped", as_json=as_json)

    _run(file, work)


def _run(file: Path | None, work: Callable[[Mailboxes], Awaitable[None]]) -> None:
    from aixgo.launch import run_async

    from aixgo_services.logs import set_up_logs

    async def opened() -> None:
        async with _opened(file) as mailboxes:
            await work(mailboxes)

    set_up_logs("ERROR", "text")
    run_async(opened())


@asynccontextmanager
async def _opened(file: Path | None) -> AsyncGenerator[Mailboxes]:
    """The mailboxes that the file or the environment names. Raises ConfigError for those in memory."""
    from aixgo.config.load import load
    from aixgo.config.schema import Config
    from aixgo.config.settings import Settings, read_environment
    from aixgo.errors import ConfigError
    from aixgo.launch import make_mailboxes
    from aixgo.mailboxes.memory import MemoryMailboxes

    variables = read_environment(None if file is None else file.parent)
    config = Config(version=2) if file is None else load(file, variables)
    mailboxes = make_mailboxes(config, Settings.read(variables))
    if isinstance(mailboxes, MemoryMailboxes):
        raise ConfigError(
            "mailboxes in memory end with their process, and their dead letters too; say where they are:"
            " AIXGO_MAILBOX=nats://host:4222, or --file with a key `mailbox`"
        )
    try:
        yield mailboxes
    finally:
        await mailboxes.close()


async def _each(
    mailboxes: Mailboxes,
    work: Callable[[str, str], Awaitable[None]],
    agent: str,
    letter_id: str,
    *,
    every: bool,
    word: str,
    as_json: bool,
) -> None:
    """Do something with one dead letter, or with each of an agent."""
    from aixgo.errors import InvalidInput

    if bool(letter_id) == every:
        raise InvalidInput("name one dead letter by its ID, or take --all")
    ids = [letter.id for letter in await mailboxes.dead_letters(agent, MOST)] if every else [letter_id]
    for each in ids:
        await work(agent, each)
        if not as_json:
            click.echo(_line(f"{word} {each}"))
    if as_json:
        click.echo(json.dumps({word: ids}))


def _told(dead_letter: DeadLetter) -> dict[str, Any]:
    from aixgo_services.cli.output import message_json

    letter = dead_letter.letter
    return {
        "agent": dead_letter.agent,
        "id": dead_letter.id,
        "attempts": dead_letter.attempts,
        "reason": dead_letter.reason,
        "at": _time(dead_letter),
        "sender": list(letter.sender),
        "replays": letter.replays,
        "message": message_json(letter.message),
    }


def _time(dead_letter: DeadLetter) -> str:
    return datetime.fromtimestamp(dead_letter.at, UTC).isoformat(timespec="seconds")


def _line(text: str) -> str:
    """A text as one line that a terminal may print: ids and reasons are other people's."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= _MAX_LINE else f"{line[: _MAX_LINE - 3]}..."
