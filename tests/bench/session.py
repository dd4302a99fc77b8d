"""What the session transport gains over raw grpc.aio, of the same messages in the same run: part of `make bench`.

A caller here and a server in a process of its own, for each side; rounds of both alternate. Raw is bare stubs and a
servicer that echoes; the other side is all of aixgo: `runtime.call` and `runtime.stream`, an AgentServer, an agent. Run
as a program, this file prints the rows, or is one of the servers: `session.py raw`, `session.py agent`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from statistics import median

import grpc.aio
from aixgo import DistributedRuntime, Message
from aixgo.runtime.channels import channel_options
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, AgentServiceStub, add_AgentServiceServicer_to_server
from aixgo.wire.codec import encode_message
from measuring import ROUNDS

CALLS, IN_FLIGHT = 12_800, 64
STREAMS, TOKENS = 50, 200
LARGE, LARGE_CALLS = 1024 * 1024, 30
MAX_BYTES = 8 * 1024 * 1024
Pair = tuple[float, float]
"""A figure of raw grpc.aio, and aixgo's."""


async def session_costs() -> list[tuple[str, str, str]]:
    """The rows of the table."""
    small, large = Message("x" * 1024), Message("x" * LARGE)
    rates: list[Pair] = []
    latencies: list[Pair] = []
    tokens: list[Pair] = []
    seconds: list[Pair] = []
    with _server("raw") as raw_address, _server("agent") as address:
        async with (
            grpc.aio.insecure_channel(raw_address, options=channel_options(MAX_BYTES)) as channel,
            DistributedRuntime(connect={"echo": address}, transport="session") as runtime,
        ):
            stub = AgentServiceStub(channel)
            raw = Raw(stub, small)
            for measured in range(ROUNDS + 1):
                calls = await _rate(raw.call, CALLS // 8), await _rate(lambda: runtime.call("echo", small), CALLS)
                streams = await _tokens(raw.stream), await _tokens(lambda: _streamed(runtime, small))
                big = await _seconds(Raw(stub, large).call), await _seconds(lambda: runtime.call("echo", large))
                if measured:  # the first round warms up
                    rates.append((calls[0][0], calls[1][0]))
                    latencies.append((calls[0][1], calls[1][1]))
                    tokens.append(streams)
                    seconds.append(big)
    return [
        _row("session: calls/s, 1 KiB, 64 in flight", rates, 1, "/s", ">= 10"),
        _row("session: p50, 1 KiB, 64 in flight", latencies, 1e3, "ms", "<= 0.6"),
        _row("session: streamed tokens/s, 50 streams", tokens, 1, "/s", ">= 5"),
        _row("session: 1 MiB payload, one at a time", seconds, 1e3, "ms", "<= 1.1"),
    ]


class Raw:
    """Calls and streams with bare stubs."""

    def __init__(self, stub: AgentServiceStub, message: Message) -> None:
        self._stub = stub
        self._call = pb.ExecuteRequest(agent="echo", message=encode_message(message))
        self._stream = pb.ExecuteStreamRequest(agent="echo", message=encode_message(message))

    async def call(self) -> object:
        return await self._stub.Execute(self._call, timeout=30)

    async def stream(self) -> int:
        count = 0
        async for _ in self._stub.ExecuteStream(self._stream, timeout=30):
            count += 1
        return count


async def _streamed(runtime: DistributedRuntime, message: Message) -> int:
    count = 0
    async with runtime.stream("echo", message) as events:
        async for _ in events:
            count += 1
    return count


async def _rate(call: Callable[[], Awaitable[object]], calls: int) -> Pair:
    """Calls per second, and the p50 in seconds."""
    latencies: list[float] = []

    async def caller() -> None:
        for _ in range(calls // IN_FLIGHT):
            begun = time.perf_counter()
            await call()
            latencies.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return len(latencies) / (time.perf_counter() - begun), median(latencies)


async def _tokens(stream: Callable[[], Awaitable[int]]) -> float:
    """Events per second over STREAMS streams at once."""
    begun = time.perf_counter()
    counts = await asyncio.gather(*(stream() for _ in range(STREAMS)))
    return sum(counts) / (time.perf_counter() - begun)


async def _seconds(call: Callable[[], Awaitable[object]]) -> float:
    """The p50 of calls one after the other, in seconds."""
    latencies: list[float] = []
    for _ in range(LARGE_CALLS):
        begun = time.perf_counter()
        await call()
        latencies.append(time.perf_counter() - begun)
    return median(latencies)


def _row(what: str, pairs: list[Pair], scale: float, unit: str, aim: str) -> tuple[str, str, str]:
    raw, ours = median(pair[0] for pair in pairs) * scale, median(pair[1] for pair in pairs) * scale
    ratio = median(pair[1] / pair[0] for pair in pairs)
    digits = 2 if unit == "ms" else 0
    return what, f"{ratio:.2f} x raw grpc.aio ({raw:.{digits}f} -> {ours:.{digits}f} {unit})", aim


@contextmanager
def _server(kind: str) -> Generator[str]:
    process = subprocess.Popen([sys.executable, __file__, kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class RawServer(AgentServiceServicer):
    """Echoes, and streams the same tokens as the agent below, with nothing between grpc.aio and that."""

    async def Execute(self, request, context):  # noqa: N802  # gRPC names it
        return pb.ExecuteResponse(message=request.message)

    async def ExecuteStream(self, request, context):  # noqa: N802  # gRPC names it
        for number in range(TOKENS):
            event = types_pb2.Event(agent_path=["echo"], delta=types_pb2.Delta(text=f"token {number}"))
            yield pb.ExecuteStreamResponse(event=event)
        yield pb.ExecuteStreamResponse(event=types_pb2.Event(result=types_pb2.Result(message=request.message)))


async def raw() -> None:
    server = grpc.aio.server(options=channel_options(MAX_BYTES))
    add_AgentServiceServicer_to_server(RawServer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


async def agent() -> None:
    from aixgo import Agent, AgentServer, Delta, Event, LocalRuntime, Result

    class Echo(Agent):
        name = "echo"

        async def execute(self, message: Message) -> Message:
            return message

        async def stream(self, message: Message) -> AsyncIterator[Event]:
            for number in range(TOKENS):
                yield Delta(f"token {number}")
            yield Result(message)

    runtime = LocalRuntime()
    runtime.register(Echo())
    async with AgentServer(runtime) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    kinds = {"raw": raw, "agent": agent}
    if sys.argv[1:]:
        asyncio.run(kinds[sys.argv[1]]())
    else:
        for row in asyncio.run(session_costs()):
            print(*row, sep=" | ")
