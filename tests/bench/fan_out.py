"""What `call_parallel` to 100 agents of 4 other processes takes, beside raw grpc.aio, and above what the agents take.

Run as a program, this file prints the rows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from statistics import median, quantiles

import grpc.aio
from aixgo import DistributedRuntime, Message
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.codec import encode_message
from measuring import PAYLOAD, ROUNDS, cpu_of, peer

PROCESSES, EACH = 4, 25
"""How many processes, and agents in each."""
PAUSE = 0.010
"""Seconds that the agents sleep, where they do."""
WARM_UP = 5
Work = Callable[[], Awaitable[object]]


async def fan_out_costs() -> list[tuple[str, str, str]]:
    """The rows of the table."""
    raw, ours = (await _fan_outs(0.0, ROUNDS * 3))[:2]
    ratio = median(one.wall / other.wall for one, other in zip(ours, raw, strict=True))
    walls = [median(each.wall for each in taken) * 1000 for taken in (raw, ours)]
    figure = f"{ratio:.2f} x gather over raw stubs ({walls[0]:.1f} -> {walls[1]:.1f} ms)"
    rows = [("call_parallel to 100 agents in 4 processes", figure, "-")]
    aims = ("-", "-", "<= 10 ms, aim 6")
    for what, taken, aim in zip(SIDES, await _fan_outs(PAUSE, ROUNDS * 40), aims, strict=True):
        rows.append((f"100 agents that sleep 10 ms, 4 processes: {what}", _above(taken), aim))
    return rows


SIDES = ("raw grpc.aio", "plain", "session")


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one fan-out: by the clock, and of CPU, here and in all the processes called."""

    wall: float
    caller: float
    callees: float


async def _fan_outs(pause: float, rounds: int) -> list[list[Taken]]:
    """Rounds of each of SIDES, in turn."""
    with ExitStack() as peers:
        raws = [peers.enter_context(peer("raw", str(pause)))[:2] for _ in range(PROCESSES)]
        firsts = [str(first) for first in range(0, PROCESSES * EACH, EACH)]
        ours = [peers.enter_context(peer("agent", str(EACH), first, str(pause)))[:2] for first in firsts]
        homes = {f"echo{index}": ours[index // EACH][0] for index in range(PROCESSES * EACH)}
        pids = [[pid for _, pid in each] for each in (raws, ours, ours)]
        async with AsyncExitStack() as entered:
            works: list[Work] = [await _raw(entered, [address for address, _ in raws])]
            for transport in ("plain", "session"):
                runtime = DistributedRuntime(connect=homes, transport=transport)
                works.append(_ours(await entered.enter_async_context(runtime), list(homes)))
            taken = [
                [await _taken(work, each) for work, each in zip(works, pids, strict=True)]
                for _ in range(rounds + WARM_UP)
            ]
    return [list(side) for side in zip(*taken[WARM_UP:], strict=True)]


async def _raw(entered: AsyncExitStack, addresses: list[str]) -> Work:
    channels = [await entered.enter_async_context(grpc.aio.insecure_channel(address)) for address in addresses]
    stubs = [AgentServiceStub(channel) for channel in channels]
    request = pb.ExecuteRequest(agent="echo0", message=encode_message(Message(PAYLOAD)))

    async def fan_out() -> None:
        calls = (stubs[index % PROCESSES].Execute(request, timeout=30) for index in range(PROCESSES * EACH))
        await asyncio.gather(*calls)

    return fan_out


def _ours(runtime: DistributedRuntime, names: list[str]) -> Work:
    async def fan_out() -> None:
        outcomes = await runtime.call_parallel(names, Message(PAYLOAD))
        assert not outcomes.errors

    return fan_out


async def _taken(work: Work, pids: list[int]) -> Taken:
    theirs, ours, begun = sum(map(cpu_of, pids)), time.process_time(), time.perf_counter()
    await work()
    return Taken(time.perf_counter() - begun, time.process_time() - ours, sum(map(cpu_of, pids)) - theirs)


def _above(taken: list[Taken]) -> str:
    above = [(each.wall - PAUSE) * 1000 for each in taken]
    cpu = [median(each.caller for each in taken) * 1000, median(each.callees for each in taken) * 1000]
    p99 = quantiles(above, n=100)[98]
    return f"{median(above):.1f} ms above, p99 {p99:.1f} (CPU: caller {cpu[0]:.1f}, callees {cpu[1]:.1f} ms)"


def main() -> None:
    for row in asyncio.run(fan_out_costs()):
        print(*row, sep=" | ")


if __name__ == "__main__":
    main()
