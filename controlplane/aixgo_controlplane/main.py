"""The control plane as a process: builds registry, prober and server, and runs them until told to stop.

The only place of this package that builds concrete objects. Above it lies the command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from aixgo.config.settings import read_environment
from aixgo.launch import telemetry_settings
from aixgo.runtime.contact import MAX_UPDATE_BYTES
from aixgo.security.security import Security
from aixgo.server.listening import add_health_and_reflection, bind, new_server, open_health_port
from aixgo.telemetry import metrics
from aixgo.telemetry.setup import set_up
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server

from aixgo_controlplane.gauges import RegistryGauges
from aixgo_controlplane.prober import PROBE_INTERVAL, Prober, open_channel
from aixgo_controlplane.registry import DEFAULT_LEASE, Registry
from aixgo_controlplane.service import RegistryService

SWEEP_INTERVAL = 0.25
"""Seconds between two looks for expired leases."""
STALL = 1.0
"""A sweep that is so many seconds late means that the process stood still and heard no renewals."""
STOP_GRACE = 0.5
"""Seconds that running RPCs get when the control plane stops."""
MAX_RPCS = 50_000
"""RPCs at the same time. Each process holds two, its renewals and its watch."""
MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Bytes of the largest announcement."""

_log = logging.getLogger(__name__)


async def run_control_plane(
    listen: str,
    *,
    lease: float = DEFAULT_LEASE,
    probe_interval: float = PROBE_INTERVAL,
    security: Security | None = None,
    variables: Mapping[str, str] | None = None,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event,
) -> None:
    """Serve the registry on `listen` (host:port, port 0 for a free one) until `stop` is set, then drain.

    `lease` and `probe_interval` are in seconds; `security` says who may register and watch (default: everybody, in
    plain text, on this machine); `ready` is called once with the address that is served. `variables` say
    where its telemetry goes (default: those of the process). Raises ConfigError for an address that is none, and
    WrongState when the port is taken.
    """
    given = read_environment() if variables is None else variables
    async with set_up(telemetry_settings(None, given, ["control-plane"])):
        security = security or Security()
        registry = Registry(os.urandom(8).hex(), monotonic, lease=lease)
        service = RegistryService(registry, security)
        gauges = RegistryGauges(registry, service)  # kept, because its last values are asked for at the very end
        metrics.observe(gauges)
        prober = Prober(registry, interval=probe_interval, dial=partial(open_channel, security=security))
        await _serve(registry, service, listen, prober, security, ready, stop)


async def _serve(
    registry: Registry,
    service: RegistryService,
    listen: str,
    prober: Prober,
    security: Security,
    ready: Callable[[str], None] | None,
    stop: asyncio.Event,
) -> None:
    server = new_server(MAX_REQUEST_BYTES, max_answer_bytes=MAX_UPDATE_BYTES, max_rpcs=MAX_RPCS)
    add_RegistryServiceServicer_to_server(service, server)
    name = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
    checks = add_health_and_reflection(server, [name], security)
    address = bind(server, listen, security)
    await server.start()
    health_port = await open_health_port(checks, address, security)
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(stop.wait(), name="stop"),
        asyncio.create_task(sweep(registry), name="lease sweep"),
        asyncio.create_task(prober.run(), name="health prober"),
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
        if health_port is not None:
            await health_port.stop(None)
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
