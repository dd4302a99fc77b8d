"""What each pattern costs above the calls that it makes, and what fanning out costs above the wait itself.

Members are trivial agents of this process, so that what is left is the pattern's own. One entry of PATTERNS is one
pattern; which members it calls, and how often, is counted while it runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from statistics import median
from time import perf_counter, process_time
from typing import Any

import grpc.aio
from aixgo import (
    RAG,
    Agent,
    Debate,
    DistributedRuntime,
    Ensemble,
    Hierarchical,
    LocalRuntime,
    MapReduce,
    Message,
    Orchestrator,
    Parallel,
    Planning,
    Reflection,
    Router,
    Sequential,
    Supervisor,
    Swarm,
    agent,
)
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.wire.codec import encode_message
from measuring import ROUNDS, peer

BATCH_SECONDS = 0.05
"""How long one measurement of one side takes, about."""
PAUSE = 0.010
"""Seconds that the agents of the fan-out sleep: the ideal wall time."""
PROCESSES, EACH = 4, 25
"""How many processes, and agents in each."""
LEAVES = ["leaf", "leaf", "leaf", "leaf"]
CHUNKS = [{"id": "a", "text": "Tea grows in Assam.", "source": "tea.md", "score": 0.9, "metadata": {}}]

PATTERNS: Mapping[str, Callable[[str], Orchestrator]] = {
    "supervisor": lambda name: Supervisor(name, ["leaf", "other"], supervisor="chief"),
    "sequential": lambda name: Sequential(name, LEAVES),
    "parallel": lambda name: Parallel(name, LEAVES),
    "router": lambda name: Router(name, "sorter", {"a": "leaf", "b": "other"}),
    "swarm": lambda name: Swarm(name, ["greeter", "leaf"]),
    "hierarchical": lambda name: Hierarchical(name, {"one": "leaf", "two": "other"}, manager="manager"),
    "rag": lambda name: RAG(name, "shelf", "leaf"),
    "reflection": lambda name: Reflection(name, "leaf", "critic"),
    "ensemble": lambda name: Ensemble(name, LEAVES[:3]),
    "debate": lambda name: Debate(name, ["leaf", "second", "other"], structured=False, rounds=2),
    "mapreduce": lambda name: MapReduce(name, "leaf"),
    "planning": lambda name: Planning(name, ["leaf", "other"], "planner"),
}


class Counting(Agent):
    """Answers what `answer` makes of the message, and counts how often."""

    def __init__(self, name: str, answer: Callable[[Message], Message], calls: dict[str, int]) -> None:
        self.name = name
        self._answer = answer
        self._calls = calls

    async def execute(self, message: Message) -> Message:
        self._calls["calls"] += 1
        return self._answer(message)


def chief(message: Message) -> Message:
    """Supervises: two turns, then finished."""
    done = len(message.metadata.get("history", ())) >= 2
    return Message({"next": "finish" if done else "leaf", "instruction": "", "answer": ""})


def greeter(message: Message) -> Message:
    """Hands over."""
    return Message("", {"handoff_to": "leaf", "handoff_reason": ""})


def manager(message: Message) -> Message:
    """Plans for both teams, then sums up."""
    if "response_schema" not in message.metadata:
        return Message("summary")
    return Message({"assignments": [{"to": "one", "task": "t"}, {"to": "two", "task": "t"}]})


def critic(message: Message) -> Message:
    """Is content with the third draft."""
    return Message({"score": 0.3 * message.metadata["iteration"], "feedback": "f"})


def planner(message: Message) -> Message:
    """Two steps, then one that needs both."""
    steps = [
        {"id": "one", "agent": "leaf", "task": "t", "needs": []},
        {"id": "two", "agent": "other", "task": "t", "needs": []},
        {"id": "three", "agent": "leaf", "task": "{step.one} {step.two}", "needs": []},
    ]
    return Message({"steps": steps})


ANSWERS: Mapping[str, Callable[[Message], Message]] = {
    "leaf": lambda message: Message("x"),
    "second": lambda message: Message("x"),
    "other": lambda message: Message("y"),
    "chief": chief,
    "sorter": lambda message: Message("a", {"category": "a", "confidence": 1.0}),
    "greeter": greeter,
    "manager": manager,
    "shelf": lambda message: Message({"chunks": CHUNKS}),
    "critic": critic,
    "planner": planner,
}
QUESTION = Message("one\ntwo\nthree\nfour")


async def overheads() -> list[tuple[str, str, str]]:
    """For each pattern, microseconds above a bare `runtime.call` by member call, and the ratio of the two."""
    calls = {"calls": 0}
    rows: list[tuple[str, str, str]] = []

    @agent
    async def measured(message: Message) -> Message:
        for pattern in PATTERNS:
            rows.append(await _overhead(measured.runtime, pattern, calls))
        return message

    async with LocalRuntime() as runtime:
        for name, answer in ANSWERS.items():
            runtime.register(Counting(name, answer, calls))
        for pattern, make in PATTERNS.items():
            runtime.register(make(pattern))
        runtime.register(measured)
        await runtime.call("measured", "x")
    return rows


async def _overhead(runtime: Any, pattern: str, calls: dict[str, int]) -> tuple[str, str, str]:
    calls["calls"] = 0
    await runtime.call(pattern, QUESTION)
    members = calls["calls"]
    times = max(1, int(BATCH_SECONDS / await _seconds(runtime, pattern, 5)))
    rounds = []
    for _ in range(ROUNDS):
        bare = await _seconds(runtime, "leaf", times * members)
        rounds.append((bare, await _seconds(runtime, pattern, times) / members))
    bare, ours = median(pair[0] for pair in rounds), median(pair[1] for pair in rounds)
    ratio = median(pair[1] / pair[0] for pair in rounds)
    figure = (
        f"{(ours - bare) * 1e6:.0f} us added, {ratio:.1f} x ({bare * 1e6:.1f} -> {ours * 1e6:.1f}), {members} calls"
    )
    return f"{pattern}: a member's call above a bare call", figure, "-"


async def _seconds(runtime: Any, target: str, times: int) -> float:
    """Seconds of CPU that one call takes; nothing in it waits."""
    begun = process_time()
    for _ in range(times):
        await runtime.call(target, QUESTION)
    return (process_time() - begun) / times


async def fan_outs() -> list[tuple[str, str, str]]:
    """Wall time of a Parallel over agents that sleep, by that sleep; over processes beside raw gRPC doing the same."""
    rows = [await _fan_out_here(count) for count in (10, 100)]
    with ExitStack() as peers:
        firsts = range(0, EACH * PROCESSES, EACH)
        places = [peers.enter_context(peer("agent", str(EACH), str(first), str(PAUSE)))[0] for first in firsts]
        rows += [await _fan_out_there(count, places) for count in (10, 100)]
    return rows


async def _fan_out_here(count: int) -> tuple[str, str, str]:
    class Sleeper(Agent):
        def __init__(self, name: str) -> None:
            self.name = name

        async def execute(self, message: Message) -> Message:
            await asyncio.sleep(PAUSE)
            return message

    async with LocalRuntime() as runtime:
        names = [f"sleeper{index}" for index in range(count)]
        for name in names:
            runtime.register(Sleeper(name))
        runtime.register(Parallel("fan", names, require="all"))
        (seconds,) = await _alternating(lambda: runtime.call("fan", "x"))
    return f"Parallel over {count} agents that sleep, one process", _over_ideal(seconds), "-"


async def _fan_out_there(count: int, places: list[str]) -> tuple[str, str, str]:
    homes = {
        f"echo{index % PROCESSES * EACH + index // PROCESSES}": places[index % PROCESSES] for index in range(count)
    }
    async with AsyncExitStack() as open_things:
        channels = {place: grpc.aio.insecure_channel(place) for place in places}
        for channel in channels.values():
            await open_things.enter_async_context(channel)
        stubs = {place: AgentServiceStub(channel) for place, channel in channels.items()}
        runtime = await open_things.enter_async_context(DistributedRuntime(connect=homes))
        runtime.register(Parallel("fan", list(homes), require="all"))
        message = encode_message(Message("x"))

        async def raw() -> None:
            requests = {name: pb.ExecuteRequest(agent=name, message=message) for name in homes}
            await asyncio.gather(*(stubs[homes[name]].Execute(each, timeout=30) for name, each in requests.items()))

        ours, theirs = await _alternating(lambda: runtime.call("fan", "x"), raw)
    what = f"Parallel over {count} agents that sleep, {PROCESSES} processes"
    return what, f"{_over_ideal(ours)}; raw grpc.aio {theirs / PAUSE:.2f} x", "-"


async def _alternating(*works: Callable[[], Awaitable[object]]) -> list[float]:
    """The median seconds of each, in rounds of all of them; two rounds to warm up."""
    taken: list[list[float]] = []
    for _ in range(ROUNDS * 3 + 2):
        taken.append([await _timed(work) for work in works])
    return [median(seconds) for seconds in zip(*taken[2:], strict=True)]


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    begun = perf_counter()
    await work()
    return perf_counter() - begun


def _over_ideal(seconds: float) -> str:
    return f"{seconds / PAUSE:.2f} x the ideal ({PAUSE * 1000:.0f} -> {seconds * 1000:.1f} ms)"
