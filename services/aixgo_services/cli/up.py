"""`aixgo up`: a YAML file as a fleet on this machine."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS, DURATION

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aixgo.config.schema import Config
    from aixgo.config.settings import Settings
    from aixgo.security.security import Security

    from aixgo_services.supervisor import Fleet

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow", "bright_blue")
_LOOPBACK = ("localhost", "127.0.0.1")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-i", "--input", "text", help="Make one call with this, print the reply and end; `-` reads it from stdin."
)
@click.option("--target", help="With --input: whom to call [default: the orchestration, or the only agent].")
@click.option("--stream", is_flag=True, help="With --input: show what happens while it happens.")
@click.option("--timeout", type=DURATION, help="With --input: how long the call may take [default: 5m].")
@click.option("--control-plane", type=ADDRESS, help="host:port for it [default: the file's, else 50050 or any].")
@click.option("--json", "as_json", is_flag=True, help="What the processes write, and the ready line, as JSON lines.")
@click.pass_obj
def up(verbose: bool, *, file: Path, control_plane: str | None, as_json: bool, **given: Any) -> int:
    """Run FILE as a fleet of processes on this machine, until Ctrl-C; with --input, for one call.

    Starts a control plane, a process for each agent and replica, one for each orchestration, and a model server when
    several use the embedded model. A process that ends is started again. With --input the reply is printed as
    `aixgo run` does, the control plane takes any free port, and what the processes write goes to stderr.
    """
    from aixgo.config.load import load
    from aixgo.config.settings import Settings, read_environment
    from aixgo.launch import default_target, run_async

    from aixgo_services.logs import set_up_logs
    from aixgo_services.supervisor import Fleet

    once = _once(as_json=as_json, **given)
    variables = read_environment(file.parent)
    settings = Settings.read(variables)
    set_up_logs("DEBUG" if verbose else settings.log_level, "json" if as_json else settings.log_format)
    config = load(file, variables)
    if once is not None:
        once = replace(once, target=once.target or default_target(config))
    lines = Lines(as_json=as_json, to_stderr=once is not None)
    address = control_plane or (usual_control_plane(config, settings) if once is None else None)
    fleet = Fleet(config, file, control_plane=address, on_line=lines.show, arguments=["-v"] if verbose else [])
    return run_async(_until_stopped(fleet, _work(fleet, config.names, lines, once)))


@dataclass(frozen=True, slots=True)
class Once:
    """The one call of `aixgo up --input`; `timeout` is in seconds."""

    text: str
    target: str
    stream: bool
    timeout: float | None
    as_json: bool


def _once(*, text: str | None, target: str | None, stream: bool, timeout: float | None, as_json: bool) -> Once | None:
    """The call that was asked for, if any. Raises InvalidInput for options that mean nothing without one."""
    from aixgo.errors import InvalidInput

    from aixgo_services.cli.inputs import read_text

    if text is not None:
        return Once(read_text(text), target or "", stream, timeout, as_json)
    given = {"--target": target, "--stream": stream, "--timeout": timeout}
    for option, value in given.items():
        if value:
            raise InvalidInput(f"{option} is for the call that --input makes; add --input, or leave it out")
    return None


async def _work(fleet: Fleet, names: tuple[str, ...], lines: Lines, once: Once | None) -> None:
    """Start the fleet, then make the one call, or else be there for those of others."""
    import asyncio

    await fleet.__aenter__()  # _until_stopped leaves it, also when this is cancelled halfway
    lines.ready(fleet.control_plane, len(fleet.processes), names)
    if once is None:
        await asyncio.Event().wait()
    else:
        await _call(fleet.control_plane, fleet.security, once)


async def _call(control_plane: str, security: Security, once: Once) -> None:
    from aixgo.runtime.distributed import DistributedRuntime

    from aixgo_services.cli.output import show_reply, show_stream

    async with DistributedRuntime(control_plane=(control_plane,), security=security) as runtime:
        if once.stream:
            stream = runtime.stream(once.target, once.text, timeout=once.timeout)
            await show_stream(stream, as_json=once.as_json)
        else:
            reply = await runtime.call(once.target, once.text, timeout=once.timeout)
            show_reply(reply, as_json=once.as_json)


async def _until_stopped(fleet: Fleet, work: Coroutine[Any, Any, None]) -> int:
    """Do `work` until it is done, a signal comes, or it fails; then stop the fleet."""
    import asyncio

    from aixgo_services.stopping import stop_signals

    with stop_signals() as stop:
        stopping = asyncio.create_task(stop.event.wait())
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.wait({working})
            await fleet.stop()
        return Exit.INTERRUPTED if stop.interrupted else Exit.OK


def usual_control_plane(config: Config, settings: Settings) -> str | None:
    """Where others will look for the control plane, if it is this machine and free; None for any free port."""
    from aixgo.config.settings import DEFAULT_CONTROL_PLANE

    named = (*settings.control_plane, *config.deployment.control_plane)
    for address in named or (DEFAULT_CONTROL_PLANE,):
        host, _, port = address.rpartition(":")
        if host in _LOOPBACK and (named or _is_free(int(port))):
            return f"127.0.0.1:{port}"
    return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


class Lines:
    """What the processes write: each line behind its process's name, in a colour of its own; or JSON lines.

    With `to_stderr` none of it goes to stdout, which then belongs to the reply of the one call that the fleet is for.
    """

    def __init__(self, *, as_json: bool, to_stderr: bool = False) -> None:
        self._as_json = as_json
        self._to_stderr = to_stderr
        self._colours: dict[str, str] = {}
        self._next = cycle(_COLOURS)

    def show(self, name: str, line: str) -> None:
        """Print one line of a process."""
        if self._as_json:
            self._print(json.dumps({"process": name, "line": line}))
            return
        colour = self._colours.get(name) or self._colours.setdefault(name, next(self._next))
        self._print(f"{click.style(f'{name:<14} |', fg=colour)} {line}")

    def ready(self, control_plane: str, processes: int, names: tuple[str, ...]) -> None:
        """Print that all is up."""
        if self._as_json:
            self._print(json.dumps({"ready": True, "control_plane": control_plane, "agents": list(names)}))
            return
        text = f"ready: {processes} processes serve {', '.join(names)}; control plane at {control_plane}"
        self._print(click.style(text, bold=True))
        if not self._to_stderr:
            option = "" if control_plane.endswith(":50050") else f" --control-plane {control_plane}"
            self._print(f"try: aixgo call {names[-1]} 'hello'{option}")

    def _print(self, line: str) -> None:
        click.echo(line, err=self._to_stderr)
