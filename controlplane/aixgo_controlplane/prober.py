"""The health prober: asks each instance whether it serves, and tells the registry.

Owns the channels to the instances. Below it lies `registry.py`, which knows nothing of it; `main.py` above runs it.

Leases already show who lives, so probes are rationed: a round a second asks first the suspects (those that failed their
last probe, and those whose renewal is late), then whoever was not asked for the longest. Up to 500 instances each one
is asked every 5 s; of more than that each is asked less often, and the cost stays what it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
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
"""Seconds between two probes of one instance, where there are few enough."""
ROUND = 1.0
"""Seconds between two rounds, and so between two probes of a suspect."""
BUDGET = 100
"""Probes in one round. A probe of an instance that is there costs about 1 ms of a core with its connection."""
KEPT_CHANNELS = 1_000
"""Channels that stay open between probes; as many of suspects come on top."""
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
    """An instance under probe: when the last one began (or it was listed), and how many in a row have failed."""

    address: str
    at: float
    failures: int = 0


class Prober:
    """Probes every instance of a registry that is not draining, each `interval` seconds or less often; suspects first.

    NOT_SERVING counts at once, no answer after FAILURES in a row, and the first SERVING makes an instance healthy
    again. One that serves no grpc.health.v1 at all counts as healthy: its lease shows that it lives.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        interval: float = PROBE_INTERVAL,
        timeout: float = PROBE_TIMEOUT,
        budget: int = BUDGET,
        dial: Callable[[str], grpc.aio.Channel] = open_channel,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._registry = registry
        self._interval = interval
        self._timeout = timeout
        self._budget = budget
        self._dial = dial
        self._clock = clock
        self._sleep = sleep
        self._probed: dict[str, _Probed] = {}
        self._channels: dict[str, grpc.aio.Channel] = {}

    def __len__(self) -> int:
        """How many channels are open."""
        return len(self._channels)

    async def run(self) -> None:
        """Probe until cancelled, then close the channels."""
        try:
            while True:
                await self._sleep(min(ROUND, self._interval))
                await self.sweep()
        finally:
            await self._close(list(self._channels))

    async def sweep(self) -> None:
        """One round: probe the suspects, and those that are due, as far as the budget goes."""
        targets = {i.instance_id: i for i in self._registry.list() if i.state is not InstanceState.DRAINING}
        await self._forget(targets)
        for key, instance in targets.items():
            if key not in self._probed:
                self._probed[key] = _Probed(instance.address, self._clock())
        queue = iter(self._order())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, self._budget)):
                group.create_task(self._drain(queue))

    async def _forget(self, targets: Mapping[str, Instance]) -> None:
        """Forget who is gone, drains, or has moved."""
        for key, probed in list(self._probed.items()):
            if key not in targets or targets[key].address != probed.address:
                del self._probed[key]
        await self._close([key for key in self._channels if key not in self._probed])

    def _order(self) -> Sequence[str]:
        """Whom this round asks: suspects first, but no more than half of the budget for them while others are due."""
        late = self._registry.late()
        suspects: list[str] = []
        due: list[str] = []
        until = self._clock() - self._interval
        for key, probed in self._probed.items():
            if probed.failures or key in late:
                suspects.append(key)
            elif probed.at <= until:
                due.append(key)
        for waiting in (suspects, due):
            waiting.sort(key=lambda key: self._probed[key].at)
        half = self._budget // 2
        return [*suspects[:half], *due, *suspects[half:]][: self._budget] if due else suspects[: self._budget]

    async def _close(self, keys: list[str]) -> None:
        for channel in [self._channels.pop(key) for key in keys]:
            await channel.close()

    async def _drain(self, queue: Iterator[str]) -> None:
        for instance_id in queue:
            probed = self._probed[instance_id]
            probed.at = self._clock()
            channel = self._channels.get(instance_id)
            if channel is None:
                channel = self._channels[instance_id] = self._dial(probed.address)
            stub: Any = HealthStub(channel)  # the type stubs of grpc_health do not know its methods
            await self._probe(instance_id, probed, stub.Check)
            if len(self._channels) > (2 * KEPT_CHANNELS if probed.failures else KEPT_CHANNELS):
                await self._close([instance_id])

    async def _probe(self, instance_id: str, probed: _Probed, check: HealthCheck) -> None:
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=self._timeout)
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
