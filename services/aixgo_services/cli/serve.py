"""`aixgo serve` and `aixgo controlplane`: one process of a fleet each, until SIGTERM or Ctrl-C."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS, DURATION

if TYPE_CHECKING:
    from aixgo.config.settings import Settings
    from aixgo.server.server import AgentServer

    from aixgo_services.stopping import Stop

_WITH_PARENT = click.option("--with-parent", is_flag=True, hidden=True, help="Stop when stdin ends.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--agent", "names", multiple=True, required=True, help="Whom to serve; an orchestration too. Repeatable.")
@click.option("--listen", type=ADDRESS, help="host:port to bind [default: AIXGO_LISTEN, else 127.0.0.1:0].")
@click.option("--advertise", type=ADDRESS, help="host:port that others are told [default: AIXGO_ADVERTISE_ADDRESS].")
@click.option("--control-plane", type=ADDRESS, multiple=True, help="Who lists it [default: as the file says].")
@click.option("--json", "as_json", is_flag=True, help="The ready line as JSON.")
@_WITH_PARENT
@click.pass_obj
def serve(
    verbose: bool,
    *,
    file: Path,
    names: tuple[str, ...],
    listen: str | None,
    advertise: str | None,
    control_plane: tuple[str, ...],
    as_json: bool,
    with_parent: bool,
) -> int:
    """Serve agents of FILE to other processes, until SIGTERM or Ctrl-C; then finish what runs.

    Once it listens it prints one line with its address.
    """
    from aixgo.config.load import load
    from aixgo.config.settings import Settings, read_environment
    from aixgo.launch import run_async

    from aixgo_services.agent import Place, serve_agents
    from aixgo_services.stopping import stop_signals

    variables = read_environment(file.parent)
    settings = Settings.read(variables)
    _logs(verbose, settings)
    config = load(file, variables)
    listed = control_plane or settings.control_plane or config.deployment.control_plane
    place = Place(listen or settings.listen, advertise or settings.advertise_address, listed)

    def ready(server: AgentServer) -> None:
        told = {"serving": list(names), "address": server.address, "instance_id": server.instance_id}
        click.echo(json.dumps(told) if as_json else f"serving {', '.join(names)} at {server.address}")

    async def process() -> Stop:
        with stop_signals(with_parent=with_parent) as stop:
            await serve_agents(config, names, place, variables=variables, stop=stop.event, ready=ready)
            return stop

    return _code(run_async(process()))


@click.command()
@click.option("--listen", type=ADDRESS, help="host:port to bind [default: AIXGO_LISTEN, else 127.0.0.1:50050].")
@click.option("--lease", type=DURATION, default=10.0, show_default="10s", help="How long an instance is believed.")
@click.option("--json", "as_json", is_flag=True, help="The ready line as JSON.")
@_WITH_PARENT
@click.pass_obj
def controlplane(verbose: bool, *, listen: str | None, lease: float, as_json: bool, with_parent: bool) -> int:
    """Run a control plane: it lists the instances of agents. It is never on the data path."""
    from aixgo.config.settings import Settings, read_environment
    from aixgo.launch import make_security, run_async
    from aixgo_controlplane.main import run_control_plane

    from aixgo_services.stopping import stop_signals

    variables = read_environment()
    settings = Settings.read(variables)
    _logs(verbose, settings)
    # Its clients look for it at a known port, so that "any free one" is no useful default here.
    bound = listen or (settings.listen if "listen" in settings.model_fields_set else "127.0.0.1:50050")

    def ready(address: str) -> None:
        click.echo(json.dumps({"control_plane": address}) if as_json else f"control plane at {address}")

    async def process() -> Stop:
        with stop_signals(with_parent=with_parent) as stop:
            await run_control_plane(
                bound,
                lease=lease,
                security=make_security(variables),
                variables=variables,
                ready=ready,
                stop=stop.event,
            )
            return stop

    return _code(run_async(process()))


def _logs(verbose: bool, settings: Settings) -> None:
    from aixgo_services.logs import set_up_logs

    set_up_logs("DEBUG" if verbose else settings.log_level, settings.log_format)


def _code(stop: Stop) -> int:
    return Exit.INTERRUPTED if stop.interrupted else Exit.OK
