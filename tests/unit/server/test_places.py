"""A session with many calls leaves the last places of a server to those who have few, and waits for its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from aixgo import AgentServer, DistributedRuntime, LocalRuntime, Message, agent
from aixgo.server.places import FEW, Places
from aixgo.server.server import ServerLimits
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceStub

from tests.support import eventually

LIMIT = 200
KEPT = 17
"""An eighth of what is beyond 64."""


class Crowd:
    """Calls that run or wait, as a server counts them."""

    def __init__(self) -> None:
        self.running = 0
        self.places = Places(LIMIT, lambda: self.running)
        self.order: list[str] = []

    async def call(self, name: str, held: int = FEW) -> None:
        await self.places.turn(lambda: held)
        self.running += 1
        self.order.append(name)

    def end(self) -> None:
        self.running -= 1
        self.places.freed()


@pytest.fixture
def crowd() -> Crowd:
    made = Crowd()
    made.running = LIMIT - KEPT
    return made


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("limit", "kept"), [(1, 0), (64, 0), (71, 0), (72, 1), (LIMIT, KEPT), (1_000, 117)])
def test_a_small_server_keeps_no_place(limit: int, kept: int) -> None:
    places = Places(limit, lambda: limit)
    assert places.kept == kept
    assert places.short(FEW) == (kept > 0)


def test_who_has_few_calls_may_use_every_place(crowd: Crowd) -> None:
    assert not crowd.places.short(FEW - 1)
    assert crowd.places.short(FEW)
    crowd.running -= 1
    assert not crowd.places.short(LIMIT)


async def test_calls_of_a_crowd_wait_and_go_first_come_first_served(crowd: Crowd) -> None:
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b", "c"):
            group.create_task(crowd.call(name))
            await turns()
        assert (crowd.order, crowd.places.waiting) == ([], 3)
        await crowd.call("few", held=0)
        crowd.end()
        crowd.end()
        await turns()
        assert crowd.order == ["few", "a"]
        crowd.end()
        crowd.end()
        await turns()
        assert crowd.order == ["few", "a", "b", "c"]


async def test_a_turn_that_somebody_else_takes_comes_again_before_those_behind(crowd: Crowd) -> None:
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b"):
            group.create_task(crowd.call(name))
            await turns()
        crowd.end()
        crowd.running += 1  # taken before "a" could
        await turns()
        assert (crowd.order, crowd.places.waiting) == ([], 2)
        crowd.end()
        await turns()
        assert crowd.order == ["a"]
        crowd.end()


@pytest.mark.parametrize("called", [False, True], ids=["while it waits", "when it is its turn"])
async def test_a_turn_of_a_call_that_is_cancelled_is_the_next_ones(crowd: Crowd, called: bool) -> None:
    first, second = asyncio.create_task(crowd.call("a")), asyncio.create_task(crowd.call("b"))
    await turns()
    if called:
        crowd.end()
        first.cancel()
    else:
        first.cancel()
        await turns()
        crowd.end()
    await second
    assert (first.cancelled(), crowd.order, crowd.places.waiting) == (True, ["b"], 0)


async def test_nobody_waits_for_a_server_that_takes_no_calls(crowd: Crowd) -> None:
    waits = asyncio.create_task(crowd.call("a"))
    await turns()
    crowd.places.open()
    await waits
    assert not crowd.places.short(FEW)


class Gate:
    """An agent whose calls wait until it is opened."""

    def __init__(self) -> None:
        self.running = 0
        self.open = asyncio.Event()

    async def wait(self) -> None:
        self.running += 1
        await self.open.wait()
        self.running -= 1


@pytest.fixture
async def served() -> AsyncIterator[tuple[AgentServer, Gate]]:
    gate = Gate()

    @agent
    async def waits(message: Message) -> Message:
        await gate.wait()
        return message

    @agent
    async def echo(message: Message) -> Message:
        return message

    async with LocalRuntime() as runtime:
        runtime.register(waits)
        runtime.register(echo)
        async with AgentServer(runtime, limits=ServerLimits(max_concurrent_calls=LIMIT)) as server:
            yield server, gate
            gate.open.set()


def opens(number: int, timeout_ms: int = 60_000) -> pb.Frame:
    context = types_pb2.CallContext(timeout_ms=timeout_ms)
    opening = pb.OpenFrame(agent="waits", message=types_pb2.Message(text=str(number)), context=context)
    return pb.Frame(call=number, open=opening)


@pytest.mark.parametrize("transport", ["plain", "session"])
async def test_a_session_that_opens_more_calls_than_there_are_places_keeps_nobody_out(
    served: tuple[AgentServer, Gate], transport: str
) -> None:
    server, gate = served
    async with (
        grpc.aio.insecure_channel(server.address) as channel,
        DistributedRuntime(connect={"echo": server.address}, transport=transport) as runtime,
    ):
        stream: Any = AgentServiceStub(channel).Session()
        await stream.write(pb.SessionRequest(frames=[opens(number) for number in range(1, 301)]))
        answers: dict[int, pb.Frame] = {}
        while len(answers) < 100:
            answers |= {frame.call: frame for frame in (await stream.read()).frames if frame.call}
        assert {frame.error.error_class for frame in answers.values()} == {"Overloaded"}
        assert all(frame.error.not_accepted for frame in answers.values())
        assert gate.running == LIMIT - KEPT
        assert (await runtime.call("echo", "let me in", timeout=30)).text == "let me in"
        gate.open.set()
        while len(answers) < 300:
            answers |= {frame.call: frame for frame in (await stream.read()).frames if frame.call}
        assert sum(frame.HasField("result") for frame in answers.values()) == LIMIT
        stream.cancel()


async def test_a_call_that_waits_for_its_turn_until_its_deadline_was_never_accepted(
    served: tuple[AgentServer, Gate],
) -> None:
    server, gate = served
    async with grpc.aio.insecure_channel(server.address) as channel:
        stream: Any = AgentServiceStub(channel).Session()
        await stream.write(pb.SessionRequest(frames=[opens(number) for number in range(1, LIMIT - KEPT + 1)]))
        await eventually(lambda: gate.running == LIMIT - KEPT)
        await stream.write(pb.SessionRequest(frames=[opens(LIMIT, timeout_ms=50)]))
        frame = None
        while frame is None:
            frame = next((frame for frame in (await stream.read()).frames if frame.call == LIMIT), None)
        assert (frame.error.error_class, frame.error.not_accepted) == ("Overloaded", True)
        stream.cancel()
