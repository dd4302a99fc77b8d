"""What a control plane costs: its share of a core, memory and watch delay for 100, 1,000 and 10,000 instances.

The control plane is a process of its own. Client processes simulate the instances: each has a lease of 10 s that it
renews every third of that on a stream of its own, over a few connections a process. Where the machine cannot run so
many clients, which then lose leases, those are longer; the row says so, and its share is of fewer renewals. Nobody
listens at their addresses, so nothing is probed here (see the prober for what that costs). A watcher follows one name
while instances of it register and leave.

    python controlplane.py                              the table
    python controlplane.py plane LEASE | crowd ADDRESS FIRST COUNT LEASE      the processes
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles

import grpc.aio
from aixgo.runtime.contact import open_channel
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.v1 import registry_pb2 as pb
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.instances import instance_to_proto
from measuring import cpu_of

SIZES = tuple(int(size) for size in os.environ.get("AIXGO_BENCH_INSTANCES", "100,1000,10000").split(","))
CROWDS = 4
"""Client processes."""
CONNECTIONS = 16
"""Connections of each."""
NAMES = 100
"""Agents that the instances serve, in turn."""
LEASES = (10.0, 30.0, 90.0)
"""Seconds; the first is what instances have in a fleet."""
RENEWED = 3
"""Renewals in the time of a lease."""
WINDOW = 10.0
"""Seconds, at least, over which the control plane's CPU is taken, and at least one renewal of every lease."""
REGISTRATIONS = 200


async def plane(lease: float) -> None:
    from aixgo_controlplane.main import run_control_plane

    def ready(address: str) -> None:
        print(address, flush=True)

    await run_control_plane("127.0.0.1:0", lease=lease, probe_interval=3600, ready=ready, stop=asyncio.Event())


async def crowd(address: str, first: int, count: int, lease: float) -> None:
    """Keep instances listed; says so once all are. What fails ends it."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CONNECTIONS)
    ]
    stubs = [RegistryServiceStub(channel) for channel in channels]
    async with asyncio.TaskGroup() as group:
        for index in range(first, first + count):
            stub = stubs[index % CONNECTIONS]
            await stub.Register(pb.RegisterRequest(instance=instance_to_proto(instance(index))), timeout=30)
            group.create_task(renew(stub, index, lease / RENEWED))
        print("listed", flush=True)


async def renew(stub: RegistryServiceStub, index: int, pause: float) -> None:
    """Renew one lease on a stream of its own, as a registrar does, without what a registrar costs its own process."""
    request = pb.RenewRequest(instance_id=f"{index:032x}", seq=1)
    call = stub.Renew()
    while True:
        await asyncio.sleep(pause)
        await call.write(request)
        answer = await call.read()
        if not isinstance(answer, pb.RenewResponse) or not answer.known:
            raise RuntimeError(f"the lease of instance {index} was lost")


def instance(index: int, name: str | None = None) -> Instance:
    """An instance at an address where nobody listens."""
    agents = (AgentInfo(name or f"agent{index % NAMES}", role="llm"),)
    return Instance(f"{index:032x}", "127.0.0.1:9", 1, agents, labels={"pid": str(index), "host": "bench"})


@contextmanager
def process(*arguments: str) -> Generator[tuple[str, int]]:
    """A process of this file; yields its first line and its pid."""
    running = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    try:
        yield running.stdout.readline().strip(), running.pid
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


def resident(pid: int) -> float:
    """MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def watch_delays(address: str) -> tuple[list[float], list[float]]:
    """Seconds from the call of Register, and of Deregister, until the directory of a watcher of the name says so."""
    async with open_channel(address) as channel:
        stub, found, lost = RegistryServiceStub(channel), list[float](), list[float]()
        watching = Discovery([address], by_name=True)
        watching.follow(["watched"])
        await watching.open()
        try:
            await watching.first_snapshot(30)
            for index in range(REGISTRATIONS):
                announced = instance_to_proto(instance(10**9 + index, "watched"))
                begun, listed = time.perf_counter(), index + 1
                registering = stub.Register(pb.RegisterRequest(instance=announced))
                found.append(await _known(watching, listed) - begun)
                await registering
            for index in range(REGISTRATIONS):
                request = pb.DeregisterRequest(instance_id=f"{10**9 + index:032x}", seq=2)
                begun, listed = time.perf_counter(), REGISTRATIONS - index - 1
                ending = stub.Deregister(request)
                lost.append(await _known(watching, listed) - begun)
                await ending
        finally:
            await watching.close()
    return found, lost


async def _known(watching: Discovery, count: int) -> float:
    """When a directory has come to so many instances."""
    version = watching.directory.version
    while len(watching.directory.instances("watched")) != count:
        await watching.changed(version)
        version = watching.directory.version
    return time.perf_counter()


async def snapshot_time(address: str, *, by_name: bool) -> float:
    """Seconds until a new watcher of all, or of one name, knows what there is."""
    watching = Discovery([address], by_name=by_name)
    watching.follow(["agent0"])
    begun = time.perf_counter()
    await watching.open()
    try:
        await watching.first_snapshot(60)
        return time.perf_counter() - begun
    finally:
        await watching.close()


class Crowds:
    """The client processes of one measurement: started all at once, killed with `processes`."""

    def __init__(self, processes: ExitStack, address: str, count: int, lease: float) -> None:
        each = count // CROWDS
        self._started = list[subprocess.Popen[str]]()
        for first in range(0, each * CROWDS, each):
            arguments = (sys.executable, __file__, "crowd", address, str(first), str(each), str(lease))
            started = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            processes.callback(started.wait)
            processes.callback(started.kill)
            self._started.append(started)

    def listed(self) -> bool:
        """Wait until they have listed their instances; False when one ended before, having lost a lease."""
        return all(started.stdout is not None and started.stdout.readline() for started in self._started)

    def alive(self) -> bool:
        """Whether no lease has been lost."""
        return all(started.poll() is None for started in self._started)


async def measure(count: int) -> tuple[str, ...]:
    """One row of the table."""
    for lease in LEASES:
        row = await _measured(count, lease)
        if row is not None:
            return (f"{count:,}" if lease == LEASES[0] else f"{count:,}, leases of {lease:.0f} s", *row)
    return (f"{count:,}", "the clients lost their leases", *[""] * (len(COLUMNS) - 2))


async def _measured(count: int, lease: float) -> tuple[str, ...] | None:
    """A row without its first column; None when clients lost leases, having too little of the machine."""
    with ExitStack() as processes:
        address, pid = processes.enter_context(process("plane", str(lease)))
        crowds = Crowds(processes, address, count, lease)
        if not crowds.listed():
            return None
        await asyncio.sleep(lease / RENEWED)
        cpu, begun = cpu_of(pid), time.perf_counter()
        await asyncio.sleep(max(WINDOW, lease / RENEWED))
        share = (cpu_of(pid) - cpu) / (time.perf_counter() - begun)
        memory = resident(pid)
        found, lost = (quantiles(delays, n=100) for delays in await watch_delays(address))
        one = await snapshot_time(address, by_name=True)
        everything = await snapshot_time(address, by_name=False)
        if not crowds.alive():
            return None
        return (
            f"{share:.1%}",
            f"{memory:.0f} MiB",
            f"{found[49] * 1000:.1f} / {found[98] * 1000:.1f} ms",
            f"{lost[49] * 1000:.1f} / {lost[98] * 1000:.1f} ms",
            f"{one * 1000:.0f} ms",
            f"{everything * 1000:.0f} ms",
        )


COLUMNS = (
    "instances",
    "of one core",
    "memory",
    "registered to known: p50 / p99",
    "lost to known: p50 / p99",
    "snapshot of one name",
    "snapshot of all",
)


async def control_planes() -> list[tuple[str, ...]]:
    """The rows of the table, for COLUMNS."""
    return [await measure(count) for count in SIZES]


def main() -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS, title="a control plane")
    for row in asyncio.run(control_planes()):
        table.add_row(*row)
    Console(width=140).print(table)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["plane", lease]:
            asyncio.run(plane(float(lease)))
        case ["crowd", address, first, count, lease]:
            asyncio.run(crowd(address, int(first), int(count), float(lease)))
        case _:
            main()
