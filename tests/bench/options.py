"""What is there for every call and used by few: the boundary of each RPC, queues of agents with a limit, and hedging.

By CPU time. Run as a program, this file prints the rows.
"""

from __future__ import annotations

import asyncio
import timeit
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import grpc.aio
from aixgo import Agent, CallOptions, DistributedRuntime, Message
from aixgo.call import root
from aixgo.runtime.contract import DEFAULT_OPTIONS
from aixgo.runtime.entry import run_agent
from aixgo.runtime.queueing import CallQueues
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.codec import encode_message
from measuring import PAYLOAD, ROUNDS, Cost, cost, peer

RAW_CALLS, CALLS = 3_200, 12_800
ASKED = 100_000
LIMIT = "1000"
"""Calls of the limited agent at once: more than there are, so that none waits."""
SELDOM = 20.0
"""Seconds after which calls are hedged: longer than any takes."""


@dataclass(frozen=True, slots=True)
class Side:
    """A call, and the process that it goes to."""

    call: Callable[[], Awaitable[object]]
    pid: int


async def option_costs() -> list[tuple[str, str, str]]:
    """The rows of the table."""
    return [await _boundary(), *await _queues_and_hedging()]


async def _boundary() -> tuple[str, str, str]:
    with peer("raw") as (bare, bare_pid, _), peer("guarded") as (guarded, guarded_pid, _):
        async with grpc.aio.insecure_channel(bare) as channel, grpc.aio.insecure_channel(guarded) as other:
            sides = {"without": _raw(channel, bare_pid), "with": _raw(other, guarded_pid)}
            costs = await _alternating(sides, RAW_CALLS)
    without, guarded_ = (median(each.callee for each in costs[side]) * 1e6 for side in sides)
    ratio = median(one.callee / other.callee for one, other in zip(costs["with"], costs["without"], strict=True))
    whole = median(one.both / other.both for one, other in zip(costs["with"], costs["without"], strict=True))
    figure = f"{ratio:.2f} x without, CPU of the server ({without:.0f} -> {guarded_:.0f} us); {whole:.2f} x, of both"
    return "the boundary around each RPC of a raw server", figure, "-"


def _raw(channel: grpc.aio.Channel, pid: int) -> Side:
    stub = AgentServiceStub(channel)
    request = pb.ExecuteRequest(agent="echo0", message=encode_message(Message(PAYLOAD)))

    async def call() -> None:
        await stub.Execute(request, timeout=30)

    return Side(call, pid)


async def _queues_and_hedging() -> list[tuple[str, str, str]]:
    """Over sessions, where calls cost the least."""
    message, hedged = Message(PAYLOAD), CallOptions(hedge_after=SELDOM)
    with ExitStack() as peers:
        free, free_pid, _ = peers.enter_context(peer("agent", "1"))
        limited, limited_pid, _ = peers.enter_context(peer("agent", "1", "1", "0", LIMIT))
        async with DistributedRuntime(connect={"echo0": free, "echo1": limited}, transport="session") as runtime:
            sides = {
                "off": Side(lambda: runtime.call("echo0", message), free_pid),
                "queue": Side(lambda: runtime.call("echo1", message), limited_pid),
                "hedging": Side(lambda: runtime.call("echo0", message, options=hedged), free_pid),
            }
            costs = await _alternating(sides, CALLS)
            whole, asked = median(each.both for each in costs["off"]), _cost_of_asking(runtime)
    figure = f"{asked * 1e9:.0f} ns of {whole * 1e6:.0f} us of CPU, both sides ({asked / whole:.2%})"
    rows = [("queues and hedging of a session call: off", figure, "not measurable")]
    for side, what in {"queue": "a limit nobody meets", "hedging": "hedged, none needed"}.items():
        ratio = median(one.both / other.both for one, other in zip(costs[side], costs["off"], strict=True))
        figure = f"{ratio:.2f} x off ({median(each.both for each in costs[side]) * 1e6:.0f} us)"
        rows.append((f"queues and hedging of a session call: {what}", figure, "-"))
    return rows


def _cost_of_asking(runtime: DistributedRuntime) -> float:
    """Seconds in which a call finds out that it is not to be hedged, at its caller, and has no queue, at its callee.

    Timed by itself: two processes with and without so few nanoseconds differ by more for other reasons.
    """

    class Nobody(Agent):
        name = "nobody"

        async def execute(self, message: Message) -> Message:
            return message

    nobody, message, state, queues = Nobody(), Message(""), root(1.0), CallQueues()
    hedged = _least(lambda: runtime.remote._hedged_after("nobody", DEFAULT_OPTIONS))
    queued = _least(lambda: queues.execute(nobody, message, state).close())
    straight = _least(lambda: run_agent(nobody, message, state).close())
    return hedged + max(0.0, queued - straight)


def _least(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=ASKED, repeat=ROUNDS)) / ASKED


async def _alternating(sides: Mapping[str, Side], calls: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    for measured in range(ROUNDS * 2 + 1):
        for name, side in sides.items():
            taken = await cost(side.call, calls, side.pid)
            if measured:  # the first round warms up
                costs[name].append(taken)
    return costs


def main() -> None:
    for row in asyncio.run(option_costs()):
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
