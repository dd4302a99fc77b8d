"""The health prober: asks each instance whether it serves, and tells the registry.

Owns the channels to the instances, one for each, closed when the instance is gone. Below it lies `registry.py`, which
knows nothing of it; `main.py` above runs it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import grpc.aio
from aixgo.runtime.channels import channel_options
from aixgo.runtime.instance import Instance, InstanceState
from aixgo.security.security import Security
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from aixgo_controlplane.registry import Registry

PROBE_INTERVAL = 5.0
"""Seconds between two probes of one instance."""
PROBE_TIMEOUT = 2.0
"""Seconds that an instance may take to answer."""
FAILURES = 2
"""Probes in a row that may find nobody before the instance counts as unhealthy."""
CONCURRENCY = 64
"""Probes at once."""
MAX_ANSWER_BYTES = 4096
"""Bytes of an answer; a health check's is two."""

HealthCheck: TypeAlias = Callable[..., Awaitable[health_pb2.HealthCheckResponse]]

_log = logging.getLogger(__name__)


def open_channel(address: str, security: Security | None = None) -> grpc.aio.Channel:
    """A channel for probes."""
    return (security or Security()).dial(address, channel_options(MAX_ANSWER_BYTES))


@dataclass(slots=True)
class _Probed:
    """An instance under probe: its channel, and how many probes in a row have failed."""

    address: str
    channel: grpc.aio.Channel
    check: HealthCheck
    failures: int = 0


class Prober:
    """Probes every instance of a registry that is not draining, each `interval` seconds; suspects first.

    NOT_SERVING counts at once, no answer after FAILURES in a row, and the first SERVING makes an instance healthy
    again. One that serves no grpc.health.v1 at all counts as healthy: its lease shows that it lives.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        interval: float = PROBE_INTERVAL,
        timeout: float = PROBE_TIMEOUT,
        dial: Callable[[str], grpc.aio.Channel] = open_channel,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._interval = interval
        self._timeout = timeout
        self._dial = dial
        self._sleep = sleep
        self._probed: dict[str, _Probed] = {}

    def __len__(self) -> int:
        """How many channels are open."""
        return len(self._probed)

    async def run(self) -> None:
        """Probe until cancelled, then close the channels."""
        try:
            while True:
                await self._sleep(self._interval)
                await self.sweep()
        finally:
            await self._close(list(self._probed))

    async def sweep(self) -> None:
        """Probe each instance once."""
        targets = {i.instance_id: i for i in self._registry.list() if i.state is not InstanceState.DRAINING}
        stale = [
            key for key, probed in self._probed.items() if key not in targets or targets[key].address != probed.address
        ]
        await self._close(stale)
        for key, instance in targets.items():
            if key not in self._probed:
                self._probed[key] = self._open(instance)
        order = sorted(
            targets, key=lambda key: (not self._probed[key].failures, targets[key].state is InstanceState.READY)
        )
        queue = iter(order)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(order))):
                group.create_task(self._drain(queue))

    def _open(self, instance: Instance) -> _Probed:
        channel = self._dial(instance.address)
        stub: Any = HealthStub(channel)  # the type stubs of grpc_health do not know its methods
        return _Probed(instance.address, channel, stub.Check)

    async def _close(self, keys: list[str]) -> None:
        for probed in [self._probed.pop(key) for key in keys]:
            await probed.channel.close()

    async def _drain(self, queue: Iterator[str]) -> None:
        for instance_id in queue:
            await self._probe(instance_id, self._probed[instance_id])

    async def _probe(self, instance_id: str, probed: _Probed) -> None:
        try:
            answer = await probed.check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
            serving = answer.status == health_pb2.HealthCheckResponse.SERVING
            reason = "it answers that it does not serve"
        except grpc.aio.AioRpcError as error:
            serving = error.code() is grpc.StatusCode.UNIMPLEMENTED
            reason = "" if serving else f"{error.code().name}: {error.details()}"
            if not serving and probed.failures + 1 < FAILURES:
                probed.failures += 1
                return
        probed.failures = 0 if serving else probed.failures + 1
        if self._registry.set_health(instance_id, probed.address, serving):
            verdict = "healthy" if serving else f"not ready ({reason})"
            _log.info("instance %s at %s is %s", instance_id, probed.address, verdict)
