"""How the cost of calls grows with their payload, and that of streams with their number, by CPU time of both sides.

A caller here and a server in a process of its own, for each side; rounds of all alternate. Run as a program, this file
prints the tables.
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
from measuring import ROUNDS, TOKENS, Cost, cost, middle, peer

SIZES: Mapping[int, int] = {1: 3_200, 16: 3_200, 64: 1_280, 256: 320, 1_024: 96}
"""KiB of a payload, and calls of a round."""
CALLERS = 16
STREAMS: Mapping[int, int] = {1: 4, 10: 10, 50: 50, 200: 200}
"""Streams at once, and streams of a round."""
SIDES = ("raw grpc.aio", "plain", "session")
PAYLOADS = ("payload", *(f"{side}: CPU of a call, calls/s" for side in SIDES))
TOKEN_RATES = ("streams at once", *(f"{side}: CPU of a token, tokens/s" for side in SIDES))


class Side:
    """One way to the server: process `pid`."""

    def __init__(self, pid: int, call: Callable[[Message], Awaitable[object]], stream: Callable[[Message], Awaitable]):
        self.pid, self.call, self.stream = pid, call, stream


async def growth() -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """The rows of two tables, for PAYLOADS and TOKEN_RATES."""
    with ExitStack() as peers:
        raw_address, raw_pid, _ = peers.enter_context(peer("raw"))
        address, pid, _ = peers.enter_context(peer("agent", "1"))
        async with AsyncExitStack() as entered:
            channel = await entered.enter_async_context(grpc.aio.insecure_channel(raw_address))
            sides = [_raw(AgentServiceStub(channel), raw_pid)]
            for transport in ("plain", "session"):
                runtime = DistributedRuntime(connect={"echo0": address}, transport=transport)
                sides.append(_ours(await entered.enter_async_context(runtime), pid))
            payloads = [await _with_payload(sides, kib, calls) for kib, calls in SIZES.items()]
            streams = [await _with_streams(sides, at_once, count) for at_once, count in STREAMS.items()]
    return payloads, streams


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


async def _with_payload(sides: list[Side], kib: int, calls: int) -> tuple[str, ...]:
    message = Message("x" * kib * 1024)
    costs = await _alternating([lambda side=side: side.call(message) for side in sides], sides, calls, CALLERS)
    return (f"{kib:,} KiB", *(f"{each.both * 1e6:,.0f} us, {1 / each.wall:,.0f}" for each in costs))


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
    payloads, streams = asyncio.run(growth())
    for row in [PAYLOADS, *payloads, TOKEN_RATES, *streams]:
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
