"""`aixgo health`: whether a server of a fleet serves, for the health checks of containers.

Below it is only gRPC: it runs every few seconds in every container, so it loads nothing else.
"""

from __future__ import annotations

from typing import Any

import click

from aixgo_services.cli.failures import Exit

_ANY_HOST = ("", "0.0.0.0", "[::]")  # noqa: S104  # compared, not bound
_TIMEOUT = 3.0


@click.command()
@click.argument("address", envvar="AIXGO_LISTEN", default="127.0.0.1:50051")
@click.option("--health-port", type=int, envvar="AIXGO_HEALTH_PORT", hidden=True)
@click.option("--service", default="", help="An agent's name; without it, the whole server.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=_TIMEOUT, show_default=True)
@click.pass_context
def health(ctx: click.Context, address: str, health_port: int | None, service: str, timeout: float) -> int:
    """Ask the server at ADDRESS for its health: exit code 0 when it serves, 3 when it does not.

    ADDRESS is host:port [default: AIXGO_LISTEN, what this container's server binds, at AIXGO_HEALTH_PORT where there
    is one]. TIMEOUT is in seconds. It is asked without TLS.
    """
    if health_port and ctx.get_parameter_source("address") is not click.core.ParameterSource.COMMANDLINE:
        address = f"{address.rpartition(':')[0]}:{health_port}"
    if not address.rpartition(":")[2].isdigit():
        raise click.BadParameter(f"{address!r} has no port; write host:port", param_hint="ADDRESS")
    state = check(address, service, timeout)
    click.echo(state)
    return Exit.OK if state == "SERVING" else Exit.UNAVAILABLE


def check(address: str, service: str, timeout: float) -> str:
    """What `grpc.health.v1` answers (`SERVING`, `NOT_SERVING`), else the name of the gRPC code that came instead."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    untyped: Any = health_pb2_grpc  # its type stubs know nothing of the methods
    host, _, port = address.rpartition(":")
    target = f"127.0.0.1:{port}" if host in _ANY_HOST else address
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = untyped.HealthStub(channel).Check(request, timeout=timeout)
        except grpc.RpcError as error:
            return error.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
