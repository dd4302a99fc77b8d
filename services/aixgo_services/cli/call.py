"""`aixgo call`: call an agent of a running fleet."""
# What a command needs is imported when it runs: `aixgo --help` must answer at once

from __future__ import annotations

import click

from aixgo_services.cli.options import ADDRESS, DURATION


@click.command()
@click.argument("name")
@click.argument("text")
@click.option("--stream", is_flag=True, help="Show what happens while it happens.")
@click.option("--trace", is_flag=True, help="Show the tree of calls afterwards: where, time, tokens, cost, error.")
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: the reply, or with --stream one event a line.")
@click.option("--timeout", type=DURATION, help="How long the call may take [default: 5m].")
@click.option("--control-plane", type=ADDRESS, multiple=True, help="[default: AIXGO_CONTROL_PLANE, localhost:50050].")
@click.option("--gateway", type=ADDRESS, help="Call it through the gateway at this host:port.")
@click.option("--address", type=ADDRESS, help="Call it at this host:port, without a control plane.")
@click.pass_obj
def call(
    verbose: bool,
    *,
    name: str,
    text: str,
    stream: bool,
    trace: bool,
    as_json: bool,
    timeout: float | None,
    control_plane: tuple[str, ...],
    gateway: str | None,
    address: str | None,
) -> None:
    """Call the agent NAME with TEXT (`-` reads stdin) and print its reply."""
    from aixgo.config.settings import DEFAULT_CONTROL_PLANE, Settings
    from aixgo.errors import InvalidInput
    from aixgo.launch import make_security, run_async
    from aixgo.runtime.distributed import DistributedRuntime
    from aixgo.runtime.dns import ANY_NAME

    from aixgo_services.cli.inputs import read_text
    from aixgo_services.cli.output import show_reply, show_stream
    from aixgo_services.cli.trace import show_traced
    from aixgo_services.logs import set_up_logs

    if sum(map(bool, (address, gateway, control_plane))) > 1:
        raise InvalidInput("give one of --address, --gateway and --control-plane: each says by itself where to call")
    settings = Settings.read()
    set_up_logs("DEBUG" if verbose else "ERROR", settings.log_format)
    said = read_text(text)
    asked = () if address or gateway else control_plane or settings.control_plane or (DEFAULT_CONTROL_PLANE,)

    connect = {name: address} if address else {ANY_NAME: gateway} if gateway else {}

    async def calling() -> None:
        async with DistributedRuntime(control_plane=asked, connect=connect, security=make_security()) as runtime:
            if trace:
                events = runtime.stream(name, said, timeout=timeout)
                await show_traced(name, events, streaming=stream, as_json=as_json)
            elif stream:
                await show_stream(runtime.stream(name, said, timeout=timeout), as_json=as_json)
            else:
                show_reply(await runtime.call(name, said, timeout=timeout), as_json=as_json)

    run_async(calling())
