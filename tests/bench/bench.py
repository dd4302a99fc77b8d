"""What aixgo costs above what it stands on, as ratios taken in one run: `make bench`.

Each comparison alternates rounds of both sides and takes medians, so that a busy machine slows both. Nothing is
asserted: the aims are printed beside the figures.

    python bench.py                                         all tables
    python bench.py fan-out cores                           some, by the names in SECTIONS
    python bench.py --page docs/PERFORMANCE.md [NAME ...]   and write each into the page, where it names the table
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

import grpc.aio
from aixgo import DistributedRuntime, LocalRuntime, Message, agent
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.codec import encode_message
from cores import COLUMNS as CORES
from cores import calls_per_core
from fan_out import fan_out_costs
from growth import IN_FLIGHTS, PAYLOADS, TOKEN_RATES, growth
from measuring import IN_FLIGHT, PAYLOAD, ROUNDS, TOKENS, UVLOOP, cost, peer
from options import option_costs
from page import Page
from patterns import fan_outs, overheads
from rich.console import Console
from rich.table import Table
from session import session_costs
from telemetry import telemetry_costs

from controlplane import COLUMNS, control_planes

Printed = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A table: its title, the names of its columns, its rows."""
COSTS = ("what", "figure", "aim")


async def rate(call: Callable[[], Awaitable[object]], calls: int, in_flight: int) -> tuple[float, float]:
    """p50 latency in seconds and calls per second, with `in_flight` callers."""
    latencies: list[float] = []

    async def caller() -> None:
        for _ in range(calls // in_flight):
            begun = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return median(latencies), len(latencies) / (time.perf_counter() - begun)


async def local_call() -> tuple[str, str, str]:
    @agent
    async def nothing(message: Message) -> Message:
        return message

    rows = []

    @agent
    async def measured(message: Message) -> Message:
        target, execute, runtime = "nothing", nothing.execute, measured.runtime
        for _ in range(ROUNDS):
            begun = time.process_time()
            for _ in range(10_000):
                await execute(message)
            bare = time.process_time() - begun
            begun = time.process_time()
            for _ in range(10_000):
                await runtime.call(target, message)
            rows.append((bare / 10_000, (time.process_time() - begun) / 10_000))
        return message

    async with LocalRuntime() as runtime:
        runtime.register(nothing)
        runtime.register(measured)
        await runtime.call("measured", "x")
    bare, called = median(row[0] for row in rows), median(row[1] for row in rows)
    added = (called - bare) * 1e6
    return (
        "LocalRuntime.call above a bare await",
        f"{added:.1f} us added ({bare * 1e6:.1f} -> {called * 1e6:.1f})",
        "<= 5 us",
    )


async def remote_call() -> list[tuple[str, str, str]]:
    with peer("raw") as (raw_address, raw_pid, _), peer("agent", "1") as (address, pid, _):
        message = Message(PAYLOAD)
        request = pb.ExecuteRequest(agent="echo0", message=encode_message(message))
        async with (
            grpc.aio.insecure_channel(raw_address) as channel,
            DistributedRuntime(connect={"echo0": address}, transport="plain") as runtime,
        ):
            stub = AgentServiceStub(channel)

            async def raw() -> None:
                await stub.Execute(request, timeout=30)

            async def ours() -> None:
                await runtime.call("echo0", message)

            await rate(raw, 2_000, IN_FLIGHT)
            await rate(ours, 2_000, IN_FLIGHT)
            busy, alone, spent = [], [], []
            for _ in range(ROUNDS):
                busy.append((await rate(raw, 4_000, IN_FLIGHT), await rate(ours, 4_000, IN_FLIGHT)))
                alone.append((await rate(raw, 500, 1), await rate(ours, 500, 1)))
                spent.append([((await cost(work, 2_000, to)).both,) for work, to in ((raw, raw_pid), (ours, pid))])
    return [
        _ratio("plain call, 64 in flight: p50", busy, 0, "ms", "<= 1.25"),
        _ratio("plain call, 64 in flight: calls/s", busy, 1, "/s", ">= 0.80"),
        _ratio("plain call, 64 in flight: CPU of both sides", spent, 0, "ms", "-"),
        _ratio("plain call, one at a time: p50", alone, 0, "ms", "-"),
    ]


def _ratio(what: str, rounds: list, index: int, unit: str, aim: str) -> tuple[str, str, str]:
    raw, ours = median(pair[0][index] for pair in rounds), median(pair[1][index] for pair in rounds)
    ratio = median(pair[1][index] / pair[0][index] for pair in rounds)
    scale = 1000 if unit == "ms" else 1
    digits = 2 if unit == "ms" else 0
    return what, f"{ratio:.2f} x raw grpc.aio ({raw * scale:.{digits}f} -> {ours * scale:.{digits}f} {unit})", aim


def memory() -> list[tuple[str, str, str]]:
    with peer("raw") as (_, raw_pid, raw_start), peer("agent", "1") as (_, pid, start):
        raw, ours = _resident(raw_pid), _resident(pid)
    return [
        (
            "memory of one agent process",
            f"{ours / raw:.2f} x a raw grpc.aio server ({raw:.0f} -> {ours:.0f} MiB)",
            "<= 1.3",
        ),
        ("process start to serving", f"{start:.2f} s (raw {raw_start:.2f} s)", "-"),
    ]


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS; the bench needs Linux")


def import_time() -> tuple[str, str, str]:
    code = "import time; t = time.perf_counter(); import aixgo; print(time.perf_counter() - t)"
    seconds = median(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(ROUNDS)
    )
    return "import aixgo", f"{seconds:.3f} s", "< 0.3 s"


async def calls() -> list[Printed]:
    rows = [await local_call(), *await remote_call(), *memory(), import_time()]
    return [("aixgo, above what it stands on", COSTS, rows)]


async def session() -> list[Printed]:
    return [("the session transport", COSTS, await session_costs())]


async def fan_out() -> list[Printed]:
    return [("fanning out", COSTS, [*await fan_out_costs(), *await fan_outs()])]


async def patterns() -> list[Printed]:
    return [("patterns", COSTS, await overheads())]


async def options() -> list[Printed]:
    return [("what is there for every call", COSTS, [*telemetry_costs(), *await option_costs()])]


async def cores() -> list[Printed]:
    return [("what a core serves: 1 KiB, 64 in flight", CORES, await calls_per_core())]


async def grown() -> list[Printed]:
    in_flight, payloads, streams = await growth()
    return [
        ("what calls cost, of both sides: 1 KiB", IN_FLIGHTS, in_flight),
        ("what payloads cost, of both sides: 16 in flight", PAYLOADS, payloads),
        (f"what streams cost, of both sides: {TOKENS} tokens each", TOKEN_RATES, streams),
    ]


async def planes() -> list[Printed]:
    return [("what a control plane costs, with the number of instances", COLUMNS, await control_planes())]


SECTIONS: Mapping[str, Callable[[], Awaitable[list[Printed]]]] = {
    "calls": calls,
    "session": session,
    "fan-out": fan_out,
    "patterns": patterns,
    "options": options,
    "cores": cores,
    "growth": grown,
    "control-planes": planes,
}


def versions() -> str:
    """What the figures are of."""
    loop = f"uvloop {version('uvloop')}" if UVLOOP else "asyncio's event loop"
    libraries = f"grpcio {version('grpcio')}, protobuf {version('protobuf')}"
    return f"Python {platform.python_version()}, {libraries}, {loop}; {os.cpu_count()} cores"


async def main() -> None:
    asked = argparse.ArgumentParser(description="What aixgo costs above what it stands on.")
    asked.add_argument("sections", nargs="*", metavar="NAME", help=f"tables, of {', '.join(SECTIONS)}; default: all")
    asked.add_argument("--page", type=Path, help="a page to write the tables into")
    given = asked.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        asked.error(f"there is no {', '.join(sorted(unknown))}; choose from {', '.join(SECTIONS)}")
    console = Console(width=150)
    console.print(f"{versions()}. Tables come one by one; all of them take some ten minutes on an idle machine.")
    for name in given.sections or SECTIONS:
        busy = os.getloadavg()[0]
        for title, columns, rows in await SECTIONS[name]():
            table = Table(*columns, title=title)
            for row in rows:
                table.add_row(*row)
            console.print(table)
            circumstances = f"{versions()}, {busy:.1f} processes busy when it began"
            if given.page is not None and not Page(given.page).put(title, columns, rows, circumstances):
                console.print(f"{given.page} has no place for this table: <!-- bench: {title} --> and <!-- end -->")


if __name__ == "__main__":
    asyncio.run(main())
