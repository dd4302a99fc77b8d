"""What telemetry costs per remote call: off, with 1% of the traces, with all of them.

A caller and an agent in a process each, and a collector that takes what they send; the CPU time of caller and agent
together, exporting included, is what is compared. Run as a program this file is one of those processes:
`telemetry.py collector`, or `telemetry.py caller ADDRESS`, which makes CALLS calls for each line that it reads.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import timeit
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

import grpc
from measuring import PEERS, ROUNDS, cpu_of

CALLS, IN_FLIGHT = 3_840, 64
ASKED = 20_000
CALLS_OF_REQUEST = 10
"""Calls inside one span of the caller's, as in a tree of agents."""
SHARES = {"off": "", "1% sampled": "0.01", "all": "1"}
AIMS = {"1% sampled": "<= 1.10 x off", "all": "<= 1.40 x off"}


def telemetry_costs() -> list[tuple[str, str, str]]:
    """A row for each share of traces: CPU time of a call, both sides, and its ratio to that without telemetry."""
    with ExitStack() as stack:
        collector = stack.enter_context(child([__file__, "collector"], {}))
        url = f"http://{collector.stdout.readline().strip()}"
        pairs = {what: _Pair(stack, url, share) for what, share in SHARES.items()}
        for pair in pairs.values():
            pair.round()  # warms up
        costs = {what: [] for what in SHARES}
        for _ in range(ROUNDS):
            for what, pair in pairs.items():
                costs[what].append(pair.round())
    whole, asked = median(costs["off"]), _cost_of_asking()
    figure = f"{asked * 1e6:.1f} of {whole * 1e6:.0f} us of CPU, both sides ({asked / whole:.2%})"
    rows = [("telemetry of a plain call: off", figure, "not measurable")]
    for what, aim in AIMS.items():
        ratio = median(cost / off for cost, off in zip(costs[what], costs["off"], strict=True))
        figure = f"{ratio:.2f} x off ({median(costs[what]) * 1e6:.0f} us)"
        rows.append((f"telemetry of a plain call: {what}", figure, aim))
    return rows


def _cost_of_asking() -> float:
    """Seconds that a remote call takes to find out, wherever it asks, that there is no telemetry.

    Timed by itself: two processes with and without so few nanoseconds differ by more for other reasons. OpenTelemetry
    is imported, as a vendor's SDK may have done, which makes it dearer.
    """
    import opentelemetry.metrics
    import opentelemetry.trace  # noqa: F401  # see above
    from aixgo.telemetry import metrics, spans
    from aixgo.telemetry.invocations import watched

    def asked() -> None:
        spans.inject()  # the caller: its trace, and its count of attempts
        metrics.attempt_ended("echo0", None)
        spans.enabled()  # the server: whether to read the caller's trace, and whether to record its agent's call
        watched()

    return min(timeit.repeat(asked, number=ASKED, repeat=ROUNDS)) / ASKED


class _Pair:
    """A caller and an agent that keep the same share of traces."""

    def __init__(self, stack: ExitStack, url: str, share: str) -> None:
        given = {"AIXGO_BENCH_OTLP": url, "AIXGO_BENCH_SAMPLE": share} if share else {}
        self._agent = stack.enter_context(child([str(PEERS), "agent", "1"], given))
        address = self._agent.stdout.readline().strip()
        self._caller = stack.enter_context(child([__file__, "caller", address], given))

    def round(self) -> float:
        """CPU seconds of one call, of both processes together."""
        before = self._cpu()
        self._caller.stdin.write("go\n")
        self._caller.stdin.flush()
        self._caller.stdout.readline()
        return (self._cpu() - before) / CALLS

    def _cpu(self) -> float:
        return sum(cpu_of(process.pid) for process in (self._agent, self._caller))


@contextmanager
def child(arguments: list[str], given: dict[str, str]) -> Generator[Any]:
    """A process of this bench, with its input and output; `given` is its environment, beside what is there."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **given},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def begin_telemetry() -> None:
    """Set telemetry up as the bench asks for it: in the callers here, and in the agents of `peers.py`."""
    url = os.environ.get("AIXGO_BENCH_OTLP")
    if url:
        from aixgo.telemetry.settings import TelemetrySettings
        from aixgo.telemetry.setup import set_up

        set_up(TelemetrySettings(otlp=url, protocol="grpc", sample=float(os.environ["AIXGO_BENCH_SAMPLE"])))


async def caller(address: str) -> None:
    from aixgo import DistributedRuntime, Message
    from aixgo.telemetry.spans import span

    begin_telemetry()
    message = Message("x" * 1024)

    async def calls() -> None:
        for _ in range(CALLS // IN_FLIGHT // CALLS_OF_REQUEST):
            with span("request"):
                for _ in range(CALLS_OF_REQUEST):
                    await runtime.call("echo0", message)

    async with DistributedRuntime(connect={"echo0": address}, transport="plain") as runtime:
        while await asyncio.to_thread(sys.stdin.readline):
            begun = time.perf_counter()
            await asyncio.gather(*(calls() for _ in range(IN_FLIGHT)))
            print(time.perf_counter() - begun, flush=True)


def collector() -> None:
    """Take whatever is exported, and look at none of it."""

    class Anything(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")

    server = grpc.server(ThreadPoolExecutor(4), handlers=[Anything()])
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1:2] == ["collector"]:
        collector()
    elif sys.argv[1:2] == ["caller"]:
        asyncio.run(caller(sys.argv[2]))
    else:
        for row in telemetry_costs():
            print(*row, sep=" | ")
