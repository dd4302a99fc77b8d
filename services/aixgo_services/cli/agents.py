"""`aixgo agents`: who is listed."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from aixgo_services.cli.failures import Exit
from aixgo_services.cli.options import ADDRESS, DURATION

if TYPE_CHECKING:
    from aixgo.runtime.instance import Instance
    from rich.table import Table


@click.command()
@click.option("--watch", is_flag=True, help="Go on showing changes until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array; with --watch one a line for each change.")
@click.option("--control-plane", type=ADDRESS, multiple=True, help="[default: AIXGO_CONTROL_PLANE, localhost:50050].")
@click.option("--gateway", type=ADDRESS, help="List what the gateway at this host:port serves.")
@click.option("--timeout", type=DURATION, default=5.0, show_default="5s", help="How long to wait for an answer.")
@click.pass_obj
def agents(
    verbose: bool,
    *,
    watch: bool,
    as_json: bool,
    control_plane: tuple[str, ...],
    gateway: str | None,
    timeout: float,
) -> int:
    """List the agents that a control plane knows: role, instance, address, state."""
    from aixgo.config.settings import DEFAULT_CONTROL_PLANE, Settings
    from aixgo.errors import InvalidInput
    from aixgo.launch import run_async

    from aixgo_services.logs import set_up_logs

    settings = Settings.read()
    set_up_logs("DEBUG" if verbose else "ERROR", settings.log_format)
    if gateway and (control_plane or watch):
        raise InvalidInput("--gateway tells what there is now; give it without --control-plane and --watch")
    if gateway:
        return run_async(_list_behind(gateway, timeout, as_json=as_json))
    asked = control_plane or settings.control_plane or (DEFAULT_CONTROL_PLANE,)
    return run_async(_list(asked, timeout, watch=watch, as_json=as_json))


async def _list(asked: tuple[str, ...], timeout: float, *, watch: bool, as_json: bool) -> int:
    import asyncio

    from aixgo.errors import RegistryUnavailable
    from aixgo.launch import make_security
    from aixgo.runtime.contact import open_channel
    from aixgo.runtime.discovery import Discovery

    from aixgo_services.stopping import stop_signals

    discovery = Discovery(asked, dial=partial(open_channel, security=make_security()))
    with stop_signals() as stop:
        await discovery.open()
        stopping = asyncio.create_task(stop.event.wait())
        try:
            if not await discovery.first_snapshot(timeout):
                told = ", ".join(asked)
                raise RegistryUnavailable(
                    f"no control plane answered at {told}; start one, or name it: --control-plane"
                )
            while True:
                version = discovery.directory.version
                _show(discovery.directory.all(), as_json=as_json)
                if not watch:
                    return Exit.OK
                changed = asyncio.create_task(discovery.changed(version))
                await asyncio.wait({changed, stopping}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if stop.event.is_set():
                    return Exit.INTERRUPTED if stop.interrupted else Exit.OK
        finally:
            stopping.cancel()
            await discovery.close()


async def _list_behind(gateway: str, timeout: float, *, as_json: bool) -> int:
    from aixgo.launch import make_security

    from aixgo_services.gateway import ask_gateway

    _show((await ask_gateway(gateway, timeout, make_security()),), as_json=as_json)
    return Exit.OK


def _show(instances: tuple[Instance, ...], *, as_json: bool) -> None:
    rows = rows_of(instances)
    if as_json:
        click.echo(json.dumps(rows))
        return
    from rich.console import Console

    Console().print(_table(rows) if rows else "no agents are listed")


def rows_of(instances: tuple[Instance, ...]) -> list[dict[str, Any]]:
    """One entry for each agent of each instance, by name and address."""
    rows = [
        {
            "name": agent.name,
            "role": agent.role,
            "pattern": agent.pattern,
            "members": list(agent.agents),
            "address": instance.address,
            "instance_id": instance.instance_id,
            "state": instance.state.name,
            "ready": agent.ready,
            "idempotent": agent.idempotent,
            "labels": dict(instance.labels),
        }
        for instance in instances
        for agent in instance.agents
    ]
    return sorted(rows, key=lambda row: (row["name"], row["address"]))


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    table = Table("agent", "role", "state", "address", "pid", "instance", box=None, pad_edge=False)
    for row in rows:
        state = row["state"].lower() if row["ready"] else "not ready"
        kind = f"{row['pattern']}: {', '.join(row['members'])}" if row["pattern"] else row["role"]
        table.add_row(row["name"], kind, state, row["address"], row["labels"].get("pid", ""), row["instance_id"][:8])
    return table
