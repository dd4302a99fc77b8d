"""`aixgo up`: a YAML file as a fleet on this machine."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
import socket
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS

if TYPE_CHECKING:
    from aixgo.config.schema import Config
    from aixgo.config.settings import Settings

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_yellow", "bright_blue")
_LOOPBACK = ("localhost", "127.0.0.1")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--control-plane", type=ADDRESS, help="host:port for it [default: the file's, else 50050 or any].")
@click.option("--json", "as_json", is_flag=True, help="What the processes write, and the ready line, as JSON lines.")
@click.pass_obj
def up(verbose: bool, *, file: Path, control_plane: str | None, as_json: bool) -> int:
    """Run FILE as a fleet of processes on this machine, until Ctrl-C.

    Starts a control plane, a process for each agent and replica, one for each orchestration, and a model server when
    several use the embedded model. A process that ends is started again.
    """
    from aixgo.config.load import load
    from aixgo.config.settings import Settings, read_environment
    from aixgo.launch import run_async

    from aixgo_services.logs import set_up_logs

    variables = read_environment(file.parent)
    settings = Settings.read(variables)
    set_up_logs("DEBUG" if verbose else settings.log_level, "json" if as_json else settings.log_format)
    config = load(file, variables)
    address = control_plane or usual_control_plane(config, settings)
    return run_async(_up(verbose, config, file, address, Lines(as_json=as_json)))


async def _up(verbose: bool, config: Config, file: Path, address: str | None, lines: Lines) -> int:
    import asyncio

    from aixgo_services.stopping import stop_signals
    from aixgo_services.supervisor import Fleet

    fleet = Fleet(config, file, control_plane=address, on_line=lines.show, arguments=["-v"] if verbose else [])
    with stop_signals() as stop:
        stopping = asyncio.create_task(stop.event.wait())
        starting = asyncio.create_task(fleet.__aenter__())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                await starting
                lines.ready(fleet.control_plane, len(fleet.processes), config.names)
                await stopping
        finally:
            stopping.cancel()
            starting.cancel()
            await asyncio.wait({starting})
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
    """What the processes write: each line behind its process's name, in a colour of its own; or JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._colours: dict[str, str] = {}
        self._next = cycle(_COLOURS)

    def show(self, name: str, line: str) -> None:
        """Print one line of a process."""
        if self._as_json:
            click.echo(json.dumps({"process": name, "line": line}))
            return
        colour = self._colours.get(name) or self._colours.setdefault(name, next(self._next))
        click.echo(f"{click.style(f'{name:<14} |', fg=colour)} {line}")

    def ready(self, control_plane: str, processes: int, names: tuple[str, ...]) -> None:
        """Print that all is up."""
        if self._as_json:
            click.echo(json.dumps({"ready": True, "control_plane": control_plane, "agents": list(names)}))
            return
        text = f"ready: {processes} processes serve {', '.join(names)}; control plane at {control_plane}"
        click.echo(click.style(text, bold=True))
        option = "" if control_plane.endswith(":50050") else f" --control-plane {control_plane}"
        click.echo(f"try: aixgo call {names[-1]} 'hello'{option}")
