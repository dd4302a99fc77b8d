"""How the cost of calls depends on how many there are at once and on their payload; that of streams on their number.

By CPU time of both sides: a caller here and a server in a process of its own, for each side; rounds of all alternate.
Run as a program, this file prints the tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack

import grpc.aio
from aixgo import DistributedRuntime, Message
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.codec import encode_message
from measuring import PAYLOAD, ROUNDS, TOKENS, Cost, cost, middle, peer

AT_ONCE: Mapping[int, int] = {1: 640, 8: 1_600, 64: 3_200, 512: 4_096}
"""Calls in flight, and calls of a round."""
SIZES: Mapping[int, int] = {1: 3_200, 16: 3_200, 64: 1_280, 256: 320, 1_024: 96}
"""KiB of a payload, and calls of a round."""
CALLERS = 16
STREAMS: Mapping[int, int] = {1: 4, 10: 10, 50: 50, 200: 200}
"""Streams at once, and streams of a round."""
SIDES = ("raw grpc.aio", "plain", "session")
IN_FLIGHTS = ("calls in flight", *(f"{side}: CPU of a call, calls/s" for side in SIDES))
PAYLOADS = ("payload", *(f"{side}: CPU of a call, calls/s" for side in SIDES))
TOKEN_RATES = ("streams at once", *(f"{side}: CPU of a token, tokens/s" for side in SIDES))


class Side:
    """One way to the server: process `pid`."""

    def __init__(self, pid: int, call: Callable[[Message], Awaitable[object]], stream: Callable[[Message], Awaitable]):
        self.pid, self.call, self.stream = pid, call, stream


async def growth() -> tuple[list[tuple[str, ...]], ...]:
    """The rows of three tables, for IN_FLIGHTS, PAYLOADS and TOKEN_RATES."""
    with ExitStack() as peers:
        raw_address, raw_pid, _ = peers.enter_context(peer("raw"))
        address, pid, _ = peers.enter_context(peer("agent", "1"))
        async with AsyncExitStack() as entered:
            channel = await entered.enter_async_context(grpc.aio.insecure_channel(raw_address))
            sides = [_raw(AgentServiceStub(channel), raw_pid)]
            for transport in ("plain", "session"):
                runtime = DistributedRuntime(connect={"echo0": address}, transport=transport)
                sides.append(_ours(await entered.enter_async_context(runtime), pid))
            calls = [await _with_calls(sides, at_once, count) for at_once, count in AT_ONCE.items()]
            payloads = [await _with_payload(sides, kib, count) for kib, count in SIZES.items()]
            streams = [await _with_streams(sides, at_once, count) for at_once, count in STREAMS.items()]
    return calls, payloads, streams


def _raw(stub: AgentServiceStub, pid: int) -> Side:
    async def call(message: Message) -> None:
        await stub.Execute(pb.ExecuteRequest(agent="echo0", message=encode_message(message)), timeout=30)

    async def stream(message: Message) -> None:
        request = pb.ExecuteStreamRequest(agent="echo0", message=encode_message(message))
        async for _ in stub.ExecuteStream(request, timeout=30):
            pass

    return Side(pid, call, stream)


def _ours(runtime: DistributedRuntime, pid: int) -> Side:
    async def call(message: Message) -> None:
        await runtime.call("echo0", message)

    async def stream(message: Message) -> None:
        async with runtime.stream("echo0", message) as events:
            async for _ in events:
                pass

    return Side(pid, call, stream)


async def _with_calls(sides: list[Side], at_once: int, count: int) -> tuple[str, ...]:
    return (str(at_once), *await _calls(sides, Message(PAYLOAD), count, at_once))


async def _with_payload(sides: list[Side], kib: int, count: int) -> tuple[str, ...]:
    return (f"{kib:,} KiB", *await _calls(sides, Message("x" * kib * 1024), count, CALLERS))


async def _calls(sides: list[Side], message: Message, count: int, at_once: int) -> list[str]:
    costs = await _alternating([lambda side=side: side.call(message) for side in sides], sides, count, at_once)
    return [f"{each.both * 1e6:,.0f} us, {1 / each.wall:,.0f}" for each in costs]


async def _with_streams(sides: list[Side], at_once: int, count: int) -> tuple[str, ...]:
    message = Message("x")
    costs = await _alternating([lambda side=side: side.stream(message) for side in sides], sides, count, at_once)
    return (str(at_once), *(f"{each.both / TOKENS * 1e6:.1f} us, {TOKENS / each.wall:,.0f}" for each in costs))


async def _alternating(
    works: list[Callable[[], Awaitable[object]]], sides: list[Side], count: int, callers: int
) -> list[Cost]:
    rounds: list[list[Cost]] = []
    for _ in range(ROUNDS + 1):
        pairs = zip(works, sides, strict=True)
        rounds.append([await cost(work, count, side.pid, callers) for work, side in pairs])
    return [middle(costs) for costs in zip(*rounds[1:], strict=True)]  # the first round warms up


def main() -> None:
    for columns, rows in zip((IN_FLIGHTS, PAYLOADS, TOKEN_RATES), asyncio.run(growth()), strict=True):
        for row in (columns, *rows):
            print(*row, sep=" | ")


if __name__ == "__main__":
    main()
