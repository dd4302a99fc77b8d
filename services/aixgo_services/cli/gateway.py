"""`aixgo gateway`: one port for callers outside the mesh, until SIGTERM or Ctrl-C."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS, CONNECTION

if TYPE_CHECKING:
    from aixgo.server.server import AgentServer

    from aixgo_services.stopping import Stop


@click.command()
@click.option("--listen", type=ADDRESS, help="host:port to bind [default: AIXGO_LISTEN, else 127.0.0.1:50051].")
@click.option("--control-plane", type=ADDRESS, multiple=True, help="[default: AIXGO_CONTROL_PLANE, localhost:50050].")
@click.option(
    "--connect",
    type=CONNECTION,
    multiple=True,
    help="Reach AGENT at host:port, or at every address of a host name: dns:///host:port. * is every other name, and"
    " {name} in its host stands for the name. Without --control-plane none is needed then.",
)
@click.option("--max-calls", type=click.IntRange(1), default=1000, show_default=True, help="Calls at once.")
@click.option("--json", "as_json", is_flag=True, help="The ready line as JSON.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when stdin ends.")
@click.pass_obj
def gateway(
    verbose: bool,
    *,
    listen: str | None,
    control_plane: tuple[str, ...],
    connect: tuple[tuple[str, str], ...],
    max_calls: int,
    as_json: bool,
    with_parent: bool,
) -> int:
    """Run a gateway: it passes calls on to any agent that the control planes list.

    Callers outside the mesh need no resolving and no balancing of their own: they call every agent by its name at this
    one address. It is healthy once a control plane was heard.
    """
    from aixgo.config.settings import DEFAULT_CONTROL_PLANE, Settings
    from aixgo.launch import run_async
    from aixgo.server.server import ServerLimits

    from aixgo_services.gateway import DEFAULT_LISTEN, serve_gateway
    from aixgo_services.logs import set_up_logs
    from aixgo_services.stopping import stop_signals

    settings = Settings.read()
    set_up_logs("DEBUG" if verbose else settings.log_level, settings.log_format)
    # Its clients look for it at a known port, so that "any free one" is no useful default here.
    bound = listen or (settings.listen if "listen" in settings.model_fields_set else DEFAULT_LISTEN)
    asked = control_plane or settings.control_plane or (() if connect else (DEFAULT_CONTROL_PLANE,))
    limits = ServerLimits(max_concurrent_calls=max_calls)

    def ready(server: AgentServer) -> None:
        told = {"gateway": server.address, "instance_id": server.instance_id, "control_plane": list(asked)}
        click.echo(json.dumps(told) if as_json else f"gateway at {server.address}")

    async def process() -> Stop:
        with stop_signals(with_parent=with_parent) as stop:
            await serve_gateway(
                bound, control_plane=asked, connect=dict(connect), limits=limits, ready=ready, stop=stop.event
            )
            return stop

    return Exit.INTERRUPTED if run_async(process()).interrupted else Exit.OK
