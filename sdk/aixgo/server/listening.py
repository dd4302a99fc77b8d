"""What every gRPC server of aixgo has: its options, its port, health and reflection.

Below it lies grpc.aio; above it AgentServer and the control plane.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import grpc.aio

from aixgo.errors import ConfigError, WrongState
from aixgo.runtime.channels import MAX_METADATA
from aixgo.security.security import Security, is_loopback
from aixgo.server.boundary import GuardedServer

log = logging.getLogger(__name__)

MAX_HEALTH_BYTES = 4096
"""Bytes of a health check."""
MAX_HEALTH_CHECKS = 100
"""Health checks at the same time, watches among them."""
MAX_RPCS = 10_000
"""RPCs of one port at the same time, streams that wait among them; gRPC refuses more with RESOURCE_EXHAUSTED."""
HANDSHAKE_MS = 10_000
"""Milliseconds that a connection may take to say what it is, TLS included; gRPC's own bound is two minutes."""


def new_server(
    max_message_bytes: int, *, max_answer_bytes: int | None = None, max_rpcs: int = MAX_RPCS
) -> grpc.aio.Server:
    """A server that listens nowhere yet: its messages, RPCs and handshakes are bounded, and its errors typed.

    What it sends has `max_answer_bytes`; None: as many as what it takes.
    """
    options = server_options(max_message_bytes, max_answer_bytes or max_message_bytes)
    return GuardedServer(grpc.aio.server(options=options, maximum_concurrent_rpcs=max_rpcs))


def server_options(max_message_bytes: int, max_answer_bytes: int) -> list[tuple[str, int]]:
    """Options of a server: one process for a port, bounded messages, and callers that vanish noticed within 15 s."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_answer_bytes),
        ("grpc.max_metadata_size", MAX_METADATA),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 4_000),
        ("grpc.http2.ping_timeout_ms", 4_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ]


def bind(server: grpc.aio.Server, listen: str, security: Security | None = None) -> str:
    """Bind `server` to `listen` and return the host:port that it got; raises ConfigError or WrongState with the fix.

    No host (":50051") stands for all interfaces. `security` gives the certificates, or says that listening beyond this
    machine without TLS is meant, which is logged then; else it is refused.
    """
    security = security or Security()
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"cannot listen on {listen!r}: write host:port, like 127.0.0.1:50051, or port 0 for any")
    host = host or "0.0.0.0"  # noqa: S104  # asked for
    try:
        bound = security.add_port(server, f"{host}:{port}")
    except RuntimeError as error:
        raise WrongState(
            f"cannot listen on {listen}: the port is in use or the address is not this machine's;"
            " stop the other process, or choose another port (0: any)"
        ) from error
    if not security.settings.tls and not is_loopback(host):
        log.warning("listening on %s:%d without TLS; whoever reaches this port can use it", host, bound)
    return f"{host}:{bound}"


def add_health_and_reflection(
    server: grpc.aio.Server, services: Sequence[str], security: Security | None = None
) -> Any:
    """Serve grpc.health.v1 and reflection beside `services` (full names); returns the asyncio HealthServicer.

    Health is for everybody who gets a connection. Reflection is not served where a token is what tells callers apart:
    it would answer those without one.
    """
    from grpc_health.v1 import health, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    untyped_health: Any = health  # the type stubs know nothing of the asyncio servicer
    untyped_grpc: Any = health_pb2_grpc
    checks = untyped_health.aio.HealthServicer()
    untyped_grpc.add_HealthServicer_to_server(checks, server)
    if security is None or not security.authenticates or security.asks_for_certificates:
        reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return checks


async def open_health_port(checks: Any, address: str, security: Security) -> grpc.aio.Server | None:
    """A started server without TLS for `checks` alone, on `health_port` of the host of `address`; None: none is asked.

    It tells whoever reaches it which agents serve, and takes nothing: probes of Kubernetes know no TLS. Raises
    WrongState when the port is taken.
    """
    from grpc_health.v1 import health_pb2_grpc

    port = security.settings.health_port
    if port is None:
        return None
    server = new_server(MAX_HEALTH_BYTES, max_rpcs=MAX_HEALTH_CHECKS)
    untyped: Any = health_pb2_grpc  # its type stubs do not know its functions
    untyped.add_HealthServicer_to_server(checks, server)
    host = address.rpartition(":")[0]
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise WrongState(f"port {port} for health checks is in use; choose another AIXGO_HEALTH_PORT") from error
    await server.start()
    log.info("health checks at %s:%d", host, bound)
    return server
