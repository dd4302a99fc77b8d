"""The control plane as a process: builds registry, prober and server, and runs them until told to stop.

The only place of this package that builds concrete objects. Above it lies the command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import grpc.aio
from aixgo.errors import InvalidInput, WrongState
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from aixgo_controlplane.prober import PROBE_INTERVAL, Prober
from aixgo_controlplane.registry import DEFAULT_LEASE, Registry
from aixgo_controlplane.service import RegistryService

SWEEP_INTERVAL = 0.25
"""Seconds between two looks for expired leases."""
STALL = 1.0
"""A sweep that is so many seconds late means that the process stood still and heard no renewals."""
STOP_GRACE = 0.5
"""Seconds that running RPCs get when the control plane stops."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Bytes of the largest announcement."""

_log = logging.getLogger(__name__)

OPTIONS: list[tuple[str, int]] = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]


async def run_control_plane(
    listen: str,
    *,
    lease: float = DEFAULT_LEASE,
    probe_interval: float = PROBE_INTERVAL,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event,
) -> None:
    """Serve the registry on `listen` (host:port, port 0 for a free one) until `stop` is set, then drain.

    `lease` and `probe_interval` are in seconds; `ready` is called once with the address that is served. Raises
    InvalidInput for an address that is none, and WrongState when the port is taken.
    """
    registry = Registry(os.urandom(8).hex(), monotonic, lease=lease)
    untyped: Any = health  # its type stubs know nothing of the asyncio servicer
    checks = untyped.aio.HealthServicer()
    server = _server(RegistryService(registry), checks)
    address = _bind(server, listen)
    await server.start()
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(stop.wait(), name="stop"),
        asyncio.create_task(sweep(registry), name="lease sweep"),
        asyncio.create_task(Prober(registry, interval=probe_interval).run(), name="health prober"),
    ]
    try:
        if ready is not None:
            ready(address)
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()  # a registry that expires nothing must not go on: the defect ends the process
        await checks.enter_graceful_shutdown()
    finally:
        registry.close()
        await server.stop(STOP_GRACE)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def sweep(
    registry: Registry,
    clock: Callable[[], float] = monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Expire leases until cancelled. When the process itself stood still, every lease is prolonged by that time."""
    while True:
        before = clock()
        await sleep(SWEEP_INTERVAL)
        late = clock() - before - SWEEP_INTERVAL
        if late > STALL:
            _log.warning("the control plane stood still for %.1f s; all leases are prolonged by that time", late)
            registry.forgive(late)
        for instance in registry.expire():
            _log.info("instance %s at %s has expired", instance.instance_id, instance.address)


def _server(service: RegistryService, checks: Any) -> grpc.aio.Server:
    server = grpc.aio.server(options=OPTIONS)
    add_RegistryServiceServicer_to_server(service, server)
    untyped: Any = health_pb2_grpc
    untyped.add_HealthServicer_to_server(checks, server)
    names = [
        registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
    ]
    reflection.enable_server_reflection(names, server)
    return server


def _bind(server: grpc.aio.Server, listen: str) -> str:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65_535:
        raise InvalidInput(f"the control plane cannot listen on {listen!r}; write host:port, like 0.0.0.0:50050")
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise WrongState(
            f"the control plane cannot listen on {listen}: the port is in use, or the host is not one of this machine;"
            " stop what listens there, or choose another with --listen host:port"
        ) from error
    return f"{host}:{bound}"
