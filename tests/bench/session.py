"""What the session transport gains over raw grpc.aio, of the same messages in the same run: part of `make bench`.

A caller and a server in a process each, for raw grpc.aio, for aixgo, and for aixgo that keeps 1% of its traces and
sends them to a collector; rounds of all three alternate. Raw is bare stubs and a servicer that echoes; the others are
all of aixgo: `runtime.call` and `runtime.stream`, an AgentServer, an agent. Run as a program, this file prints the
rows, or is one of the processes: `session.py raw`, `session.py agent`, and with the address of one of those
`session.py raw-caller` and `session.py agent-caller`, which take a figure for each line that they read.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import grpc.aio
from aixgo import DistributedRuntime, Message
from aixgo.runtime.channels import channel_options
from aixgo.telemetry.spans import span
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, AgentServiceStub, add_AgentServiceServicer_to_server
from aixgo.wire.codec import encode_message
from measuring import IN_FLIGHT, PAYLOAD, ROUNDS, TOKENS
from telemetry import CALLS_OF_REQUEST, begin_telemetry, child

CALLS, RAW_CALLS = 12_800, 1_920
STREAMS, STREAMS_EACH = 50, 5
"""Streams at once, and how many of aixgo's follow one another there: its rounds are to take as long as raw ones."""
LARGE, LARGE_CALLS = 1024 * 1024, 30
MAX_BYTES = 8 * 1024 * 1024
SAMPLED = "1% sampled"
TELEMETRY = Path(__file__).with_name("telemetry.py")


async def session_costs() -> list[tuple[str, str, str]]:
    """The rows of the table."""
    with ExitStack() as stack:
        collector = stack.enter_context(child([str(TELEMETRY), "collector"], {}))
        url = f"http://{collector.stdout.readline().strip()}"
        sampled = {"AIXGO_BENCH_OTLP": url, "AIXGO_BENCH_SAMPLE": "0.01"}
        sides = [_Side(stack, "raw", {}), _Side(stack, "agent", {}), _Side(stack, "agent", sampled)]
        rounds = [[side.round() for side in sides] for _ in range(ROUNDS + 1)][1:]  # the first round warms up
    return [
        _row("session: calls/s, 1 KiB, 64 in flight", rounds, 1, "rate", "/s", ">= 10"),
        _row(f"session: calls/s, {SAMPLED}", rounds, 2, "rate", "/s", ">= 5"),
        _row("session: p50, 1 KiB, 64 in flight", rounds, 1, "p50", "ms", "<= 0.6"),
        _row(f"session: p50, {SAMPLED}", rounds, 2, "p50", "ms", "-"),
        _row("session: streamed tokens/s, 50 streams", rounds, 1, "tokens", "/s", ">= 5"),
        _row(f"session: streamed tokens/s, {SAMPLED}", rounds, 2, "tokens", "/s", ">= 3"),
        _row("session: 1 MiB payload, one at a time", rounds, 1, "large", "ms", "<= 1.1"),
    ]


class _Side:
    """A server and its caller; `given` is their environment's, beside what is there."""

    def __init__(self, stack: ExitStack, kind: str, given: dict[str, str]) -> None:
        server = stack.enter_context(child([__file__, kind], given))
        address = server.stdout.readline().strip()
        self._caller = stack.enter_context(child([__file__, f"{kind}-caller", address], given))

    def round(self) -> dict[str, float]:
        """Calls per second and their p50 in seconds, tokens per second, and the p50 of large payloads."""
        self._caller.stdin.write("go\n")
        self._caller.stdin.flush()
        figures = map(float, self._caller.stdout.readline().split())
        return dict(zip(("rate", "p50", "tokens", "large"), figures, strict=True))


def _row(
    what: str, rounds: list[list[dict[str, float]]], side: int, figure: str, unit: str, aim: str
) -> tuple[str, str, str]:
    pairs = [(sides[0][figure], sides[side][figure]) for sides in rounds]
    scale, digits = (1e3, 2) if unit == "ms" else (1, 0)
    raw, ours = (median(pair[index] for pair in pairs) * scale for index in (0, 1))
    ratio = median(ours / raw for raw, ours in pairs)
    return what, f"{ratio:.2f} x raw grpc.aio ({raw:.{digits}f} -> {ours:.{digits}f} {unit})", aim


async def raw_caller(address: str) -> None:
    small, large = encode_message(Message(PAYLOAD)), encode_message(Message("x" * LARGE))
    async with grpc.aio.insecure_channel(address, options=channel_options(MAX_BYTES)) as channel:
        stub = AgentServiceStub(channel)
        streamed = pb.ExecuteStreamRequest(agent="echo", message=small)

        async def calls(message: types_pb2.Message, count: int, latencies: list[float]) -> None:
            request = pb.ExecuteRequest(agent="echo", message=message)
            for _ in range(count):
                begun = time.perf_counter()
                await stub.Execute(request, timeout=30)
                latencies.append(time.perf_counter() - begun)

        async def stream() -> int:
            count = 0
            async for _ in stub.ExecuteStream(streamed, timeout=30):
                count += 1
            return count

        async for _ in _asked():
            rate = await _rate(lambda found: calls(small, RAW_CALLS // IN_FLIGHT, found))
            tokens = await _tokens(stream)
            big: list[float] = []
            await calls(large, LARGE_CALLS, big)
            print(*rate, tokens, median(big), flush=True)


async def agent_caller(address: str) -> None:
    begin_telemetry()
    small, large = Message(PAYLOAD), Message("x" * LARGE)
    async with DistributedRuntime(connect={"echo": address}, transport="session") as runtime:

        async def calls(message: Message, count: int, latencies: list[float]) -> None:
            for _ in range(count // CALLS_OF_REQUEST):
                with span("request"):
                    for _ in range(CALLS_OF_REQUEST):
                        begun = time.perf_counter()
                        await runtime.call("echo", message)
                        latencies.append(time.perf_counter() - begun)

        async def streams() -> int:
            count = 0
            for _ in range(STREAMS_EACH):
                with span("request"):
                    async with runtime.stream("echo", small) as events:
                        async for _ in events:
                            count += 1
            return count

        async for _ in _asked():
            rate = await _rate(lambda found: calls(small, CALLS // IN_FLIGHT, found))
            tokens = await _tokens(streams)
            big: list[float] = []
            await calls(large, LARGE_CALLS, big)
            print(*rate, tokens, median(big), flush=True)


async def _asked() -> AsyncIterator[str]:
    """Once for each line that comes in."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


async def _rate(calls: Callable[[list[float]], Awaitable[None]]) -> tuple[float, float]:
    """Calls per second, IN_FLIGHT at once, and the p50 in seconds."""
    latencies: list[float] = []
    begun = time.perf_counter()
    await asyncio.gather(*(calls(latencies) for _ in range(IN_FLIGHT)))
    return len(latencies) / (time.perf_counter() - begun), median(latencies)


async def _tokens(streams: Callable[[], Awaitable[int]]) -> float:
    """Events per second over STREAMS streams at once."""
    begun = time.perf_counter()
    counts = await asyncio.gather(*(streams() for _ in range(STREAMS)))
    return sum(counts) / (time.perf_counter() - begun)


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

    begin_telemetry()
    runtime = LocalRuntime()
    runtime.register(Echo())
    async with AgentServer(runtime) as server:
        print(server.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    kinds = {"raw": raw, "agent": agent, "raw-caller": raw_caller, "agent-caller": agent_caller}
    if sys.argv[1:]:
        asyncio.run(kinds[sys.argv[1]](*sys.argv[2:]))
    else:
        for row in asyncio.run(session_costs()):
            print(*row, sep=" | ")
