"""The replicas of each agent: which one is next, which ones are ejected, and how many retries an agent may have.

Owns what this process has learned of instances by calling them. Below it lie the resolver (what is listed) and the
balancer (the choice); above it `attempts.py`, which asks before each attempt and tells how it ended.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from functools import cached_property

from aixgo.runtime.balancer import Balancer, Load, RetryBudget
from aixgo.runtime.instance import Instance
from aixgo.runtime.resolver import Resolver

log = logging.getLogger(__name__)

RETRY_PAUSE = 0.05
"""Seconds before an instance that has just failed is asked again, jittered by half."""
FIRST_PROBE, LONGEST_PROBE = 0.1, 5.0
"""Seconds until an ejected instance is probed; doubled each time, jittered by half."""


class Replicas:
    """The instances that calls choose from. `healthy` asks an address whether it serves; it probes ejected ones."""

    def __init__(
        self,
        resolver: Resolver,
        healthy: Callable[[str], Awaitable[bool]],
        *,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.resolver = resolver
        self.balancer = Balancer(rng)
        self._healthy = healthy
        self._rng = rng or random.Random()  # noqa: S311  # jitter
        self._sleep = sleep
        self._retries: dict[str, RetryBudget] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}

    @cached_property
    def clock(self) -> Callable[[], float]:
        """The clock of deadlines, the event loop's; kept, because asking for the loop takes a system call."""
        return asyncio.get_running_loop().time

    def pick(self, agent: str, but: frozenset[str]) -> Instance | None:
        """An instance of `agent` that is ready, not ejected, and not among those to leave out."""
        return self.balancer.pick(agent, self.resolver.instances(agent), but)

    def load(self, instance: Instance) -> Load:
        """The load of an instance; with the first call to a new one, those that are gone are forgotten."""
        if instance.instance_id not in self.balancer.loads:
            self.balancer.forget(self.resolver.instance_ids())
        return self.balancer.load(instance.instance_id)

    def retry_budget(self, target: str) -> RetryBudget:
        """The retries of one agent."""
        budget = self._retries.get(target)
        if budget is None:
            budget = self._retries[target] = RetryBudget()
        return budget

    def failed(self, instance: Instance, *, refused: bool) -> None:
        """Note a transport failure; an instance that it ejects is probed until it is healthy again, or gone."""
        self.resolver.suspect(instance)
        if self.balancer.failed(instance.instance_id, refused=refused) and instance.instance_id not in self._probes:
            log.info("instance %s at %s is ejected", instance.instance_id, instance.address)
            probe = asyncio.get_running_loop().create_task(self._probe(instance), name=f"probe {instance.address}")
            self._probes[instance.instance_id] = probe

    async def pause(self) -> None:
        """A short, jittered pause before an instance that has just failed is asked again."""
        await self._sleep(RETRY_PAUSE * (0.5 + self._rng.random()))

    async def close(self) -> None:
        """Stop probing."""
        probes, self._probes = list(self._probes.values()), {}
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    async def _probe(self, instance: Instance) -> None:
        pause = FIRST_PROBE
        while True:
            await self._sleep(pause * (0.5 + self._rng.random()))
            pause = min(pause * 2, LONGEST_PROBE)
            known = {each.instance_id: each for each in self.resolver.all()}
            if instance.instance_id not in known:
                self.balancer.forget(set(known))
                break
            address = known[instance.instance_id].address  # it may have moved since it was ejected
            if await self._healthy(address):
                log.info("instance %s at %s is healthy again", instance.instance_id, address)
                self.balancer.readmit(instance.instance_id)
                self.resolver.touch()
                break
        self._probes.pop(instance.instance_id, None)
