"""What is done to a mesh under load: each fault is injected, lasts for a while, and is healed.

Owns the faults, and what it means that a mesh is whole again. Below: `mesh.py`; above: `report.py`, which runs them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import grpc.aio
from aixgo import DistributedRuntime
from aixgo.runtime.instance import InstanceState
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub

from tests.chaos.load import Load
from tests.chaos.mesh import INSTANCES, Mesh

WHOLE = 40.0
"""Seconds within which a mesh is whole again after a fault was healed."""
BRIEF, UNHEARD, LEASES = (0.3, 1.5), (11.0, 14.0), (4.0, 7.0)
"""Seconds, from and to: a moment; longer than the keepalive, 10 s; longer than a lease of the mesh, 3 s."""
LOOK = 0.1

Inject = Callable[[Mesh, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A fault. `inject` returns when it is healed; `needs_networks` says that instances need networks of their own."""

    name: str
    inject: Inject
    needs_networks: bool = False


async def kill_one(mesh: Mesh, rng: random.Random) -> None:
    """SIGKILL an instance, and after a moment start another in its place."""
    victim, lasts = rng.randrange(INSTANCES), rng.uniform(*BRIEF)
    await asyncio.to_thread(mesh.hosts[victim].kill)
    await asyncio.sleep(lasts)
    await asyncio.to_thread(mesh.start_host, victim)


async def freeze_one(mesh: Mesh, rng: random.Random) -> None:
    """SIGSTOP an instance for longer than the keepalive, then SIGCONT: it goes on as if nothing had been."""
    victim, lasts = mesh.hosts[rng.randrange(INSTANCES)], rng.uniform(*UNHEARD)
    victim.freeze()
    await asyncio.sleep(lasts)
    victim.thaw()


async def restart_all(mesh: Mesh, rng: random.Random) -> None:
    """A rolling restart: drain each instance in turn, and start another in its place."""
    for victim in rng.sample(range(INSTANCES), INSTANCES):
        await asyncio.to_thread(mesh.drain, victim)
        await asyncio.to_thread(mesh.start_host, victim)


async def kill_control_plane(mesh: Mesh, rng: random.Random) -> None:
    """SIGKILL a control plane, and after a moment start it again: it knows nobody."""
    victim, lasts = rng.randrange(len(mesh.control_planes)), rng.uniform(*BRIEF)
    await asyncio.to_thread(mesh.control_planes[victim].kill)
    await asyncio.sleep(lasts)
    await asyncio.to_thread(mesh.start_control_plane, victim)


async def kill_control_planes(mesh: Mesh, rng: random.Random) -> None:
    """SIGKILL all control planes, and start them again after longer than a lease."""
    lasts = rng.uniform(*LEASES)
    for number in range(len(mesh.control_planes)):
        await asyncio.to_thread(mesh.control_planes[number].kill)
    await asyncio.sleep(lasts)
    for number in range(len(mesh.control_planes)):
        await asyncio.to_thread(mesh.start_control_plane, number)


async def cut_one_off(mesh: Mesh, rng: random.Random) -> None:
    """Cut the network of an instance for longer than the keepalive, then heal it."""
    victim, lasts = mesh.networks[rng.randrange(INSTANCES)], rng.uniform(*UNHEARD)
    await asyncio.to_thread(victim.cut)
    try:
        await asyncio.sleep(lasts)
    finally:
        await asyncio.to_thread(victim.heal)


FAULTS = (
    Fault("SIGKILL one", kill_one),
    Fault("SIGSTOP one", freeze_one),
    Fault("rolling restart", restart_all),
    Fault("control plane SIGKILL", kill_control_plane),
    Fault("both control planes down", kill_control_planes),
    Fault("network cut", cut_one_off, needs_networks=True),
)


async def until_whole(mesh: Mesh, runtime: DistributedRuntime, load: Load) -> str:
    """Wait until every control plane and the caller know every instance, and each has answered.

    Returns "" then, and what is missing when that takes too long.
    """
    since = asyncio.get_running_loop().time()
    everybody = {host.instance_id for host in mesh.hosts}

    async def missing() -> str:
        for number, address in enumerate(mesh.addresses):
            if (listed := await _listed(address)) != everybody:
                return f"control plane {number} lists {len(listed)} ready instances"
        known = {instance.instance_id for instance in runtime.instances() if instance.state is InstanceState.READY}
        if known != everybody:
            return f"the caller knows {len(known)} ready instances"
        silent = sum(load.answered.get(host.pid, 0.0) <= since for host in mesh.hosts)
        return f"{silent} ready instances have no calls" if silent else ""

    last = ""
    try:
        async with asyncio.timeout(WHOLE):
            while last := await missing():  # noqa: ASYNC110  # of processes nobody sets an event
                await asyncio.sleep(LOOK)
    except TimeoutError:
        return last
    return ""


async def _listed(control_plane: str) -> set[str]:
    """The ids of the instances that a control plane lists as ready."""
    async with grpc.aio.insecure_channel(control_plane) as channel:
        try:
            listed = await RegistryServiceStub(channel).List(registry_pb2.ListRequest(), timeout=2.0)
        except grpc.aio.AioRpcError:
            return set()
    ready = registry_pb2.INSTANCE_STATE_READY
    return {instance.instance_id for instance in listed.instances if instance.state == ready}
