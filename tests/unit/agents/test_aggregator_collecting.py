"""The aggregator running reactively: messages of several sources are collected until there is one of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aixgo.agent import Agent
from aixgo.agents.aggregator import AggregatorAgent
from aixgo.agents.collecting import MAX_TRIES, Collector
from aixgo.config.spec import AgentSpec
from aixgo.errors import ProviderUnavailable
from aixgo.message import Message
from aixgo.runtime.local import LocalRuntime
from aixgo.testing import ScriptedModel, scripted_models
from hypothesis import given
from hypothesis import strategies as st


@dataclass
class Time:
    """A clock that moves when the test says so, and the sleeps that wait for it."""

    now: float = 0.0
    sleeping: list[tuple[float, asyncio.Event]] = field(default_factory=list)
    slept: asyncio.Event = field(default_factory=asyncio.Event)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self.sleeping.append((self.now + seconds, woken))
        self.slept.set()
        await woken.wait()

    async def pass_by(self, seconds: float) -> None:
        async with asyncio.timeout(5):
            await self.slept.wait()
        self.slept.clear()
        self.now += seconds
        for until, woken in self.sleeping:
            if until <= self.now:
                woken.set()
        self.sleeping = [each for each in self.sleeping if not each[1].is_set()]


class Sender(Agent):
    """Sends on what it is told, in its own name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def execute(self, message: Message) -> Message:
        await self.runtime.send("sum", message)
        return message


class Listener(Agent):
    name = "listener"

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            async with delivery as message:
                self.heard.put_nowait(message)

    async def execute(self, message: Message) -> Message:
        return message

    async def next(self) -> Message:
        async with asyncio.timeout(5):
            return await self.heard.get()


class Scene:
    def __init__(self, runtime: LocalRuntime, listener: Listener, time: Time, made: AggregatorAgent) -> None:
        self.runtime, self.listener, self.time, self.made = runtime, listener, time, made

    async def tell(self, source: str, payload: Any, session: str = "", **metadata: Any) -> None:
        await self.runtime.call(source, Message(payload, metadata, session_id=session))

    async def next(self) -> Message:
        return await self.listener.next()

    async def settled(self) -> None:
        """Until the mailbox of the aggregator is empty: what comes after has been told before is done."""
        await self.runtime.send("sum", ["settled"])
        assert (await self.next()).payload == "1: settled"


@asynccontextmanager
async def scene(*replies: Any, **config: Any) -> AsyncGenerator[Scene]:
    spec = AgentSpec.model_validate(
        {
            "name": "sum", "role": "aggregator", "model": "test/m", "config": config,
            "inputs": [{"source": name} for name in "abc"], "outputs": [{"target": "listener"}],
        }
    )  # fmt: skip
    time, listener, runtime = Time(), Listener(), LocalRuntime()
    models = scripted_models(m=ScriptedModel(replies))
    made = AggregatorAgent(spec, models=models, clock=time.clock, sleep=time.sleep)
    for each in (made, listener, *(Sender(name) for name in "abcd")):
        runtime.register(each)
    async with runtime:
        yield Scene(runtime, listener, time, made)


async def test_one_answer_is_made_of_one_message_of_each_source() -> None:
    async with scene() as on:
        for source, payload in (("b", "two"), ("c", {"n": 3}), ("a", b"\x01")):
            await on.tell(source, payload, "s1")
        reply = await on.next()
    assert reply.payload == 'a: AQ==\nb: two\nc: {"n":3}'
    assert reply.metadata["sources"] == ["a", "b", "c"]
    assert "missing" not in reply.metadata
    assert reply.session_id == "s1"


async def test_conversations_are_kept_apart_by_session_or_correlation_id() -> None:
    async with scene() as on:
        for source in "ab":
            await on.tell(source, f"{source}1", "s1")
            await on.tell(source, f"{source}2", correlation_id="k2")
        await on.tell("c", "c2", correlation_id="k2")
        await on.tell("c", "c1", "s1")
        first, second = await on.next(), await on.next()
    assert first.payload == "a: a2\nb: b2\nc: c2"
    assert first.metadata["correlation_id"] == "k2"
    assert second.payload == "a: a1\nb: b1\nc: c1"


async def test_a_sources_second_message_belongs_to_the_next_answer() -> None:
    async with scene() as on:
        for source, payload in (("a", "1"), ("a", "2"), ("b", "1"), ("c", "1"), ("c", "2"), ("b", "2")):
            await on.tell(source, payload)
        assert (await on.next()).payload == "a: 1\nb: 1\nc: 1"
        assert (await on.next()).payload == "a: 2\nb: 2\nc: 2"


async def test_after_the_wait_the_answer_is_made_of_what_came() -> None:
    async with scene(wait="30s") as on:
        await on.tell("b", "only")
        await on.time.pass_by(30)
        reply = await on.next()
    assert reply.payload == "b: only"
    assert reply.metadata["missing"] == ["a", "c"]


async def test_wait_for_answers_early_and_drops_what_comes_late_for_it() -> None:
    async with scene(wait_for=2) as on:
        for source, payload in (("a", "1"), ("b", "1"), ("c", "1"), ("c", "2"), ("a", "2")):
            await on.tell(source, payload, "s")
        first, second = await on.next(), await on.next()
    assert (first.payload, first.metadata["missing"]) == ("a: 1\nb: 1", ["c"])
    assert (second.payload, second.metadata["missing"]) == ("a: 2\nc: 2", ["b"])


async def test_a_message_of_no_agent_holds_all_answers_and_other_agents_are_not_heard() -> None:
    async with scene() as on:
        await on.tell("d", "not for you")
        await on.runtime.send("sum", {"x": "yes", "y": "no"})
        assert (await on.next()).payload == "x: yes\ny: no"


async def test_when_too_many_are_open_the_oldest_is_answered() -> None:
    async with scene(max_open=2) as on:
        for session in ("s1", "s2", "s3"):
            await on.tell("a", session, session)
        reply = await on.next()
    assert (reply.payload, reply.metadata["missing"]) == ("a: s1", ["b", "c"])


async def test_an_answer_that_fails_is_tried_again_when_its_last_message_comes_back() -> None:
    async with scene(ProviderUnavailable("later"), "fine", strategy="llm") as on:
        for source in "abc":
            await on.tell(source, source)
        reply = await on.next()
    assert reply.payload == "fine"
    assert reply.metadata["sources"] == ["a", "b", "c"]


async def test_an_answer_that_is_due_and_fails_is_tried_again_after_another_wait() -> None:
    async with scene(ProviderUnavailable("later"), "fine", strategy="llm", wait=10) as on:
        await on.tell("a", "x")
        await on.time.pass_by(10)
        await on.time.pass_by(10)
        assert (await on.next()).payload == "fine"


async def test_what_keeps_failing_is_dropped_and_the_next_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    failing = [ProviderUnavailable("down")] * MAX_TRIES
    async with scene(*failing, "fine", strategy="llm", wait=10) as on:
        await on.tell("a", "x", "s1")
        for _ in failing:
            await on.time.pass_by(10)
        while "its messages are dropped" not in caplog.text:  # noqa: ASYNC110  # a log entry sets no event
            await asyncio.sleep(0)
        for source in "abc":
            await on.tell(source, "y", "s2")
        assert (await on.next()).session_id == "s2"


async def test_stopping_leaves_no_task_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as on:
        await on.tell("a", "x")
        await on.settled()
    assert "stops with 1 conversations not aggregated" in caplog.text
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()


# the groups by themselves

STEPS = st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("abc")), max_size=40)


@given(STEPS)
def test_every_message_is_in_one_group_and_each_source_stays_in_order(steps: list[tuple[str, str]]) -> None:
    collector = Collector("abc", wait_for=3, wait=10, max_open=1000, clock=lambda: 0.0)
    given, complete = {}, {}
    for number, (key, source) in enumerate(steps):
        given.setdefault((key, source), []).append(number)
        assert not collector.late(key, source)
        if (group := collector.add(key, source, Message(number))) is not None:
            for name, message in collector.ordered(group).items():
                complete.setdefault((key, name), []).append(message.payload)
    for key in "xy":
        rounds = min(len(given.get((key, source), [])) for source in "abc")
        for source in "abc":
            assert complete.get((key, source), []) == given.get((key, source), [])[:rounds]


def test_late_messages_are_forgotten_when_their_group_would_have_been_due() -> None:
    now = 0.0
    collector = Collector("ab", wait_for=1, wait=10, max_open=10, clock=lambda: now)
    assert collector.add("k", "a", Message("x")) is not None
    now = 9.9
    assert collector.late("k", "b")
    assert not collector.late("k", "b")
    assert collector.add("k", "a", Message("y")) is not None
    now = 20.0
    assert not collector.late("k", "b")
