"""`aixgo chat`: a conversation with an agent, of a running fleet or of a file in this process."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import asyncio
import math
import re
import signal
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS, DURATION

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from aixgo.errors import AixgoError
    from aixgo.runtime.base import BaseRuntime
    from aixgo.runtime.contract import EventStream
    from aixgo.usage import Usage

_COMMANDS = {"/new": "begin another conversation", "/exit": "leave"}
_COMMAND = re.compile(r"/[a-z]+")


@click.command()
@click.argument("name", required=False)
@click.option("--file", type=click.Path(path_type=Path), help="Run this YAML file here, and talk to an agent of it.")
@click.option("--session", help="Continue the conversation with this id [default: a new one].")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, one event a line.")
@click.option("--timeout", type=DURATION, help="How long one answer may take [default: 5m].")
@click.option("--control-plane", type=ADDRESS, multiple=True, help="[default: AIXGO_CONTROL_PLANE, localhost:50050].")
@click.option("--gateway", type=ADDRESS, help="Call it through the gateway at this host:port.")
@click.option("--address", type=ADDRESS, help="Call it at this host:port, without a control plane.")
@click.pass_obj
def chat(verbose: bool, *, session: str | None, as_json: bool, timeout: float | None, **where: Any) -> int:
    """Talk to the agent NAME: each line is a message, the answer is shown while it comes.

    /new begins another conversation and /exit leaves, as Ctrl-D does. Ctrl-C stops the answer that is coming; where
    none is, it leaves. Lines may be piped in; then the first answer that fails ends the command.
    """
    from aixgo.launch import run_async

    place = Place(verbose=verbose, **where)
    return run_async(_chat(place, session, as_json=as_json, timeout=timeout))


@dataclass(frozen=True, slots=True)
class Place:
    """Where the agent is: in a file to run here, or in a fleet, found in one of three ways."""

    verbose: bool
    name: str | None
    file: Path | None
    control_plane: tuple[str, ...]
    gateway: str | None
    address: str | None

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[tuple[BaseRuntime, str]]:
        """A runtime that reaches the agent, and the agent's name. Raises InvalidInput, ConfigError."""
        from aixgo.errors import InvalidInput

        if sum(map(bool, (self.file, self.address, self.gateway, self.control_plane))) > 1:
            raise InvalidInput("give one of --file, --address, --gateway and --control-plane: each says where to call")
        if self.file is not None:
            async with self._in_this_process(self.file) as found:
                yield found
        elif self.name is None:
            raise InvalidInput("name the agent to talk to: `aixgo chat NAME`; `aixgo agents` lists those there are")
        else:
            async with self._in_a_fleet(self.name) as runtime:
                yield runtime, self.name

    @asynccontextmanager
    async def _in_this_process(self, file: Path) -> AsyncGenerator[tuple[BaseRuntime, str]]:
        from aixgo.config.load import load
        from aixgo.config.settings import Settings, read_environment
        from aixgo.launch import default_target, opened

        from aixgo_services.logs import set_up_logs

        variables = read_environment(file.parent)
        set_up_logs("DEBUG" if self.verbose else "ERROR", Settings.read(variables).log_format)
        config = load(file, variables)
        name = self.name or default_target(config)
        async with opened(config, variables=variables) as runtime:
            yield runtime, name

    @asynccontextmanager
    async def _in_a_fleet(self, name: str) -> AsyncGenerator[BaseRuntime]:
        from aixgo.config.settings import DEFAULT_CONTROL_PLANE, Settings
        from aixgo.launch import make_security
        from aixgo.runtime.distributed import DistributedRuntime
        from aixgo.runtime.dns import ANY_NAME

        from aixgo_services.logs import set_up_logs

        settings = Settings.read()
        set_up_logs("DEBUG" if self.verbose else "ERROR", settings.log_format)
        direct = self.address or self.gateway
        asked = () if direct else self.control_plane or settings.control_plane or (DEFAULT_CONTROL_PLANE,)
        connect = {name: self.address} if self.address else {ANY_NAME: self.gateway} if self.gateway else {}
        async with DistributedRuntime(control_plane=asked, connect=connect, security=make_security()) as runtime:
            yield runtime


async def _chat(place: Place, session: str | None, *, as_json: bool, timeout: float | None) -> int:
    import sys

    from aixgo.message import new_id

    from aixgo_services.cli.typed_lines import TypedLines

    async with place.opened() as (runtime, name):
        talk = Conversation(runtime, name, session or new_id(), as_json=as_json, timeout=timeout)
        with _interrupts() as interrupts:
            return await talk.run(TypedLines(sys.stdin.fileno()).next, interrupts, interactive=sys.stdin.isatty())


class Interrupts:
    """What Ctrl-C stops: the work that is being waited for, one piece at a time."""

    def __init__(self) -> None:
        self._task: asyncio.Future[Any] | None = None

    def __call__(self) -> None:
        """Ctrl-C was pressed."""
        if self._task is not None:
            self._task.cancel()

    async def stopped(self, work: Awaitable[Any]) -> bool:
        """Wait for `work`; whether Ctrl-C stopped it. Raises what it raises."""
        self._task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if not self._task.cancelled():
            self._task.result()
        return self._task.cancelled()


@dataclass(slots=True)
class Conversation:
    """One person and one agent. `timeout` is in seconds and of one answer."""

    runtime: BaseRuntime
    name: str
    session: str
    as_json: bool
    timeout: float | None
    usage: Usage = field(init=False)

    def __post_init__(self) -> None:
        from aixgo.usage import NO_USAGE

        self.usage = NO_USAGE

    async def run(
        self, next_line: Callable[[], Awaitable[str | None]], interrupts: Interrupts, *, interactive: bool
    ) -> int:
        """Answer line after line until there are no more; the exit code. Raises the error of an answer, unless the
        conversation is interactive and goes on after it.
        """
        self._begin()
        try:
            while True:
                if interactive and not self.as_json:
                    click.echo(click.style("> ", bold=True), nl=False, err=True)
                line = asyncio.ensure_future(next_line())
                if await interrupts.stopped(line):
                    return Exit.INTERRUPTED
                said = line.result()
                if said is None or said.strip() == "/exit":
                    return Exit.OK
                if self._is_message(said) and not await self._answered(said, interrupts, interactive=interactive):
                    return Exit.INTERRUPTED
        finally:
            self._end()

    def _is_message(self, line: str) -> bool:
        """Whether a line is for the agent; what is for us is done."""
        from aixgo.message import new_id
        from aixgo.names import nearest

        word = line.strip()
        if word == "/new":
            self.session = new_id()
            self._begin()
        elif _COMMAND.fullmatch(word):
            click.echo(f"there is no command {word}; {nearest(word, _COMMANDS)}", err=True)
        else:
            return bool(word)
        return False

    async def _answered(self, said: str, interrupts: Interrupts, *, interactive: bool) -> bool:
        """Get and show the answer; whether the conversation goes on."""
        from aixgo.errors import AixgoError

        try:
            if await interrupts.stopped(self._answer(said)):
                click.echo("\nstopped", err=True)
                return interactive
        except AixgoError as error:
            if not interactive:
                raise
            self._tell_failure(error)
        return True

    async def _answer(self, said: str) -> None:
        from aixgo.call import DEFAULT_TIMEOUT, entered, root
        from aixgo.message import Message

        # A call of our own above the agent's counts what is spent, also by an answer that fails or is stopped.
        above = root(math.inf, self.session)
        try:
            with entered(above):
                message = Message(said, session_id=self.session)
                timeout = DEFAULT_TIMEOUT if self.timeout is None else self.timeout
                async with self.runtime.stream(self.name, message, timeout=timeout) as events:
                    await self._show(events)
        finally:
            self.usage += above.ledger.usage

    async def _show(self, events: EventStream) -> None:
        from aixgo_services.cli.output import Lines, event_json

        shown = Lines()
        async for event in events:
            if self.as_json:
                _print_json(event_json(event))
            else:
                shown.show(event)

    def _begin(self) -> None:
        if self.as_json:
            _print_json({"event": "Session", "agent": self.name, "session_id": self.session})
            return
        commands = ", ".join(f"{command}: {what}" for command, what in _COMMANDS.items())
        click.echo(click.style(f"session {self.session} with {self.name} ({commands})", dim=True), err=True)

    def _end(self) -> None:
        from aixgo_services.cli.output import show_cost, usage_json

        if self.as_json:
            _print_json({"event": "End", "session_id": self.session, "usage": usage_json(self.usage)})
            return
        click.echo(click.style(f"\nto continue: --session {self.session}", dim=True), err=True)
        show_cost(self.usage)

    def _tell_failure(self, error: AixgoError) -> None:
        from aixgo_services.cli.failures import failure_json

        click.echo(failure_json(error) if self.as_json else f"\naixgo: {error}", err=True)


@contextmanager
def _interrupts() -> Generator[Interrupts]:
    """Ctrl-C goes to the Interrupts while the block runs."""
    interrupts, loop = Interrupts(), asyncio.get_running_loop()
    with suppress(NotImplementedError):  # Windows' loops have no signal handlers; there KeyboardInterrupt leaves
        loop.add_signal_handler(signal.SIGINT, interrupts)
    try:
        yield interrupts
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)


def _print_json(value: dict[str, Any]) -> None:
    import json

    click.echo(json.dumps(value, ensure_ascii=False, default=str))
