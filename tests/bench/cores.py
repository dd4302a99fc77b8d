"""Calls per second that a core serves, with 1, 10 and 100 agents in a process, over each transport and raw grpc.aio.

By CPU time, which a busy machine changes little: a call's cost is what caller and callee, a process each, spend on it.
Run as a program, this file prints the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from itertools import cycle

import grpc.aio
from aixgo import DistributedRuntime, Message
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.codec import encode_message
from measuring import PAYLOAD, ROUNDS, Cost, cost, middle, peer

AGENTS = (1, 10, 100)
CALLS = {"raw grpc.aio": 3_200, "plain": 3_200, "session": 12_800}
"""Calls of a round."""
COLUMNS = ("agents", "transport", "calls/s", "CPU of a call: caller, callee", "calls/s per core: both", "callee alone")
Call = Callable[[], Awaitable[object]]


async def calls_per_core() -> list[tuple[str, ...]]:
    """The rows of the table, for COLUMNS."""
    with ExitStack() as peers:
        address, pid, _ = peers.enter_context(peer("raw"))
        async with AsyncExitStack() as entered:
            channel = await entered.enter_async_context(grpc.aio.insecure_channel(address))
            sides: dict[tuple[str, str], tuple[Call, int]] = {("-", "raw grpc.aio"): (_raw(channel), pid)}
            for count in AGENTS:
                address, pid, _ = peers.enter_context(peer("agent", str(count)))
                names = [f"echo{index}" for index in range(count)]
                for transport in ("plain", "session"):
                    runtime = DistributedRuntime(connect=dict.fromkeys(names, address), transport=transport)
                    call = _ours(await entered.enter_async_context(runtime), names)
                    sides[str(count), transport] = call, pid
            costs = await _alternating(sides)
    return [_row(*side, middle(each)) for side, each in costs.items()]


def _raw(channel: grpc.aio.Channel) -> Call:
    stub = AgentServiceStub(channel)
    request = pb.ExecuteRequest(agent="echo0", message=encode_message(Message(PAYLOAD)))

    async def call() -> None:
        await stub.Execute(request, timeout=30)

    return call


def _ours(runtime: DistributedRuntime, names: list[str]) -> Call:
    turns, message = cycle(names), Message(PAYLOAD)

    async def call() -> None:
        await runtime.call(next(turns), message)

    return call


async def _alternating(sides: dict[tuple[str, str], tuple[Call, int]]) -> dict[tuple[str, str], list[Cost]]:
    costs: dict[tuple[str, str], list[Cost]] = {side: [] for side in sides}
    for measured in range(ROUNDS + 1):
        for side, (call, pid) in sides.items():
            taken = await cost(call, CALLS[side[1]], pid)
            if measured:  # the first round warms up
                costs[side].append(taken)
    return costs


def _row(agents: str, transport: str, each: Cost) -> tuple[str, ...]:
    return (
        agents,
        transport,
        f"{1 / each.wall:,.0f}",
        f"{each.caller * 1e6:.0f}, {each.callee * 1e6:.0f} us",
        f"{1 / each.both:,.0f}",
        f"{1 / each.callee:,.0f}",
    )


def main() -> None:
    for row in [COLUMNS, *asyncio.run(calls_per_core())]:
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
