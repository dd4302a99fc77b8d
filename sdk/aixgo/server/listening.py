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

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Options of a server: one process for a port, bounded messages, and callers that vanish noticed within 15 s."""
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_metadata_size", MAX_METADATA),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 4_000),
        ("grpc.http2.ping_timeout_ms", 4_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]


def bind(server: grpc.aio.Server, listen: str) -> str:
    """Bind `server` to `listen` and return the host:port that it got; raises ConfigError or WrongState with the fix.

    No host (":50051") stands for all interfaces. Listening beyond loopback is logged: there is no TLS yet.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"cannot listen on {listen!r}: write host:port, like 127.0.0.1:50051, or port 0 for any")
    host = host or "0.0.0.0"  # noqa: S104  # asked for
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise WrongState(
            f"cannot listen on {listen}: the port is in use or the address is not this machine's;"
            " stop the other process, or choose another port (0: any)"
        ) from error
    if host not in LOOPBACK:
        log.warning("listening on %s:%d without TLS; whoever reaches this port can use it", host, bound)
    return f"{host}:{bound}"


def add_health_and_reflection(server: grpc.aio.Server, services: Sequence[str]) -> Any:
    """Serve grpc.health.v1 and reflection beside `services` (full names); returns the asyncio HealthServicer."""
    from grpc_health.v1 import health, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    untyped_health: Any = health  # the type stubs know nothing of the asyncio servicer
    untyped_grpc: Any = health_pb2_grpc
    checks = untyped_health.aio.HealthServicer()
    untyped_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return checks
