"""Streams: bounded, in order, ended once, closed when they are left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar

import pytest
from aixgo import Agent, Delta, Message, Result
from aixgo import call as ambient
from aixgo.call import CallState
from aixgo.errors import AixgoError, CallCancelled, DeadlineExceeded, InternalError, StreamBroken, WrongState
from aixgo.events import Event
from aixgo.runtime import entry
from aixgo.runtime.entry import agent_events, bounded, run_agent
from aixgo.runtime.pump import BUFFER, ROOM, PumpedStream

Source = Callable[[], AsyncIterator[Event]]
LEAK: ContextVar[str] = ContextVar("leak", default="outside")


def state(timeout: float = 60.0) -> CallState:
    return ambient.root(timeout).child("a")


class Ended(list[bool]):
    def __call__(self, ok: bool) -> None:
        self.append(ok)


def pumped(source: Source, *, timeout: float = 60.0, timed: bool = False) -> tuple[PumpedStream, Ended]:
    ended = Ended()
    return PumpedStream(source, state(timeout), timed=timed, ended=ended), ended


async def two() -> AsyncIterator[Event]:
    yield Delta("a")
    yield Result(Message("ab"))


async def test_events_come_in_order_and_the_result_is_kept() -> None:
    stream, ended = pumped(two)
    async with stream as events:
        assert events.result is None
        seen = [event async for event in events]
        assert [type(event) for event in seen] == [Delta, Result]
        assert events.result is not None
        assert events.result.payload == "ab"
        assert [event async for event in events] == []
    assert ended == [True]


async def test_nothing_after_the_result_is_seen() -> None:
    async def more() -> AsyncIterator[Event]:
        yield Result(Message("1"))
        yield Result(Message("2"))

    stream, _ = pumped(more)
    async with stream as events:
        assert len([event async for event in events]) == 1


async def test_a_slow_reader_makes_the_agent_wait() -> None:
    made = 0

    async def many() -> AsyncIterator[Event]:
        nonlocal made
        for number in range(BUFFER * 3):
            made += 1
            yield Delta(str(number))
        yield Result(Message("x"))

    stream, _ = pumped(many)
    async with stream as events:
        await anext(events)
        for _ in range(BUFFER * 4):
            await asyncio.sleep(0)
        assert made <= BUFFER + 2
        texts = [event.text async for event in events if isinstance(event, Delta)]
    assert texts == [str(number) for number in range(1, BUFFER * 3)]


async def test_a_source_that_was_ahead_goes_on_when_half_of_its_events_are_read_and_not_for_each() -> None:
    made = 0

    async def many() -> AsyncIterator[Event]:
        nonlocal made
        while True:
            made += 1
            yield Delta(str(made))

    async def made_after(read: int) -> int:
        for _ in range(read):
            await anext(stream)
        for _ in range(BUFFER):
            await asyncio.sleep(0)
        return made

    stream, _ = pumped(many)
    async with stream:
        full = await made_after(0)
        assert await made_after(BUFFER - ROOM - 1) == full
        assert await made_after(1) == full + BUFFER - ROOM


async def test_an_error_comes_after_the_events_before_it() -> None:
    async def fails() -> AsyncIterator[Event]:
        yield Delta("a")
        raise WrongState("no")

    stream, ended = pumped(fails)
    async with stream as events:
        assert isinstance(await anext(events), Delta)
        for _ in range(2):
            with pytest.raises(WrongState, match="no"):
                await anext(events)
    assert ended == [False]


async def test_a_source_without_a_result_is_a_broken_stream() -> None:
    async def stops() -> AsyncIterator[Event]:
        yield Delta("a")

    stream, ended = pumped(stops)
    with pytest.raises(StreamBroken) as caught:  # noqa: PT012  # what is iterated may raise anywhere
        async with stream as events:
            async for _ in events:
                pass
    assert caught.value.agent_path == ("a",)
    assert ended == [False]


async def test_a_defect_of_ours_is_an_internal_error_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> AsyncIterator[Event]:
        raise KeyError("bug")
        yield

    stream, _ = pumped(broken)
    with pytest.raises(InternalError, match="KeyError"):
        async with stream as events:
            await anext(events)
    assert "failed in aixgo" in caplog.text


async def test_leaving_early_cancels_the_work_and_closes_the_generator() -> None:
    closed: list[str] = []

    async def endless() -> AsyncIterator[Event]:
        try:
            yield Delta("a")
            await asyncio.Event().wait()
        finally:
            closed.append("closed")
        yield Result(Message("never"))

    stream, ended = pumped(endless)
    async with stream as events:
        await anext(events)
    assert closed == ["closed"]
    assert ended == [False]


async def test_leaving_while_the_buffer_is_full_closes_the_generator_too() -> None:
    closed: list[str] = []

    async def endless() -> AsyncIterator[Event]:
        try:
            while True:
                yield Delta("a")
        finally:
            closed.append("closed")

    stream, ended = pumped(endless)
    async with stream as events:
        await anext(events)
        for _ in range(BUFFER * 2):
            await asyncio.sleep(0)
    assert (closed, ended) == (["closed"], [False])


async def test_leaving_before_anything_ran_counts_as_one_failed_call() -> None:
    stream, ended = pumped(two)
    async with stream:
        pass
    assert ended == [False]


@pytest.mark.parametrize("timeout", [0.01, -1.0])
async def test_the_deadline_ends_a_stream_typed_even_when_it_has_passed_already(timeout: float) -> None:
    closed: list[str] = []

    async def slow() -> AsyncIterator[Event]:
        try:
            await asyncio.Event().wait()
        finally:
            closed.append("closed")
        yield Delta("never")

    stream, ended = pumped(slow, timeout=timeout, timed=True)
    with pytest.raises(DeadlineExceeded) as caught:
        async with stream as events:
            await anext(events)
    assert caught.value.agent_path == ("a",)
    assert ended == [False]
    assert closed in ([], ["closed"])  # one that was never begun has nothing to close


async def test_events_before_the_deadline_are_still_read() -> None:
    async def slow() -> AsyncIterator[Event]:
        yield Delta("a")
        await asyncio.Event().wait()

    stream, ended = pumped(slow, timeout=0.01, timed=True)
    async with stream as events:
        await asyncio.wait_for(wait_until(lambda: bool(ended)), 5)
        assert isinstance(await anext(events), Delta)
        with pytest.raises(DeadlineExceeded):
            await anext(events)


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # nothing announces it
        await asyncio.sleep(0.001)


async def test_an_agent_that_ignores_its_end_does_not_hold_up_the_reader(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entry, "CANCEL_GRACE", 0.01)
    release = asyncio.Event()

    async def stubborn() -> AsyncIterator[Event]:
        yield Delta("a")
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        yield Result(Message("late"))

    stream, ended = pumped(stubborn)
    async with asyncio.timeout(5):
        async with stream as events:
            await anext(events)
    assert "a did not stop within" in caplog.text
    assert ended == [False]
    release.set()


async def test_the_current_call_and_context_variables_stay_inside() -> None:
    seen: list[tuple[str, ...]] = []

    async def sets() -> AsyncIterator[Event]:
        LEAK.set("inside")
        seen.append(ambient.current_path())
        yield Delta("a")
        seen.append(ambient.current_path())
        assert LEAK.get() == "inside"
        yield Result(Message("x"))

    stream, _ = pumped(sets)
    async with stream as events:
        async for _ in events:
            assert LEAK.get() == "outside"
            assert ambient.current() is None
    assert seen == [("a",), ("a",)]


async def test_cancelling_the_reader_cancels_the_agent() -> None:
    ended_by: list[str] = []
    begun = asyncio.Event()

    async def waits() -> AsyncIterator[Event]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended_by.append("cancelled")
            raise
        yield Delta("never")

    async def read() -> None:
        stream, _ = pumped(waits)
        async with stream as events:
            await anext(events)

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert ended_by == ["cancelled"]


class Scripted(Agent):
    """An agent that streams what it is given; an exception is raised."""

    name = "a"

    def __init__(self, *script: object) -> None:
        self.script = script
        self.closed = False

    async def execute(self, message: Message) -> Message:
        for item in self.script:
            if isinstance(item, BaseException):
                raise item
        return self.script[-1]  # pyright: ignore[reportReturnType]

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        try:
            for item in self.script:
                if isinstance(item, BaseException):
                    raise item
                yield item  # pyright: ignore[reportReturnType]
        finally:
            self.closed = True


async def events_of(agent: Agent) -> list[Event]:
    return [event async for event in agent_events(agent, Message("x"), state())]


async def test_paths_are_filled_in_and_the_current_call_is_the_agents() -> None:
    agent = Scripted(Delta("a"), Delta("b", ("a", "z")), Result(Message("r")))
    assert [event.path for event in await asyncio.create_task(events_of(agent))] == [("a",), ("a", "z"), ("a",)]
    assert agent.closed


async def test_the_agent_of_a_stream_sees_its_own_call() -> None:
    class Looks(Scripted):
        async def stream(self, message: Message) -> AsyncIterator[Event]:
            yield Result(Message(list(ambient.current_path())))

    events = await asyncio.create_task(events_of(Looks()))
    assert isinstance(events[-1], Result)
    assert events[-1].message.payload == ["a"]


@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        ((Delta("a"),), "StreamBroken", "ended without a Result"),
        (("text",), "InvalidReply", "yielded a str; yield Events"),
        ((Result("text"),), "InvalidReply", "returned a str; return a Message"),  # pyright: ignore[reportArgumentType]
        ((ValueError("no"),), "AgentFailed", "agent 'a' raised ValueError: no"),
        ((WrongState("no"),), "WrongState", "no"),
        ((asyncio.CancelledError(),), "CallCancelled", "awaited something that was cancelled"),
    ],
)
async def test_whatever_a_stream_does_wrong_is_typed(script: tuple[object, ...], kind: str, text: str) -> None:
    agent = Scripted(*script)
    with pytest.raises(AixgoError, match=text) as caught:
        await asyncio.create_task(events_of(agent))
    assert type(caught.value).__name__ == kind
    assert caught.value.agent_path == ("a",)
    assert agent.closed


@pytest.mark.parametrize(
    ("script", "kind", "text"),
    [
        (("text",), "InvalidReply", "agent 'a' returned a str; return a Message"),
        ((None,), "InvalidReply", "returned a NoneType"),
        ((ValueError("no"),), "AgentFailed", "agent 'a' raised ValueError: no"),
        ((asyncio.CancelledError(),), "CallCancelled", "awaited something that was cancelled"),
    ],
)
async def test_whatever_execute_does_wrong_is_typed(script: tuple[object, ...], kind: str, text: str) -> None:
    with pytest.raises(AixgoError, match=text) as caught:
        await run_agent(Scripted(*script), Message("x"), state())
    assert type(caught.value).__name__ == kind
    assert ambient.current() is None


async def test_an_agent_that_failed_below_is_not_taken_for_one_that_refused() -> None:
    refused = WrongState("the callee of the agent refused")
    refused.accepted = False
    with pytest.raises(WrongState) as caught:
        await run_agent(Scripted(refused), Message("x"), state())
    assert caught.value.accepted
    refused.accepted = False
    with pytest.raises(WrongState) as caught:
        await asyncio.create_task(events_of(Scripted(refused)))
    assert caught.value.accepted


async def test_bounded_work_returns_raises_and_ends_with_its_deadline() -> None:
    async def returns() -> str:
        return "x"

    async def fails() -> str:
        raise WrongState("no")

    async def hangs() -> str:
        await asyncio.Event().wait()
        return "never"

    assert await bounded(returns(), state()) == "x"
    with pytest.raises(WrongState):
        await bounded(fails(), state())
    for timeout in (0.01, 0.0, -5.0):
        with pytest.raises(DeadlineExceeded) as caught:
            await bounded(hangs(), state(timeout))
        assert caught.value.agent_path == ("a",)


async def test_work_that_ignores_its_cancellation_does_not_hold_up_the_caller(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entry, "CANCEL_GRACE", 0.01)
    release = asyncio.Event()

    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("nobody hears this, and nothing warns of it")

    with caplog.at_level(logging.WARNING), pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(bounded(stubborn(), state(0.01)), 5)
    assert "did not stop within" in caplog.text
    release.set()
    await asyncio.sleep(0.01)


async def test_cancelling_the_caller_of_bounded_work_ends_the_work_first() -> None:
    order: list[str] = []
    begun = asyncio.Event()

    async def works() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            order.append("work")

    async def calls() -> None:
        try:
            await bounded(works(), state())
        finally:
            order.append("caller")

    caller = asyncio.create_task(calls())
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert order == ["work", "caller"]


async def test_work_that_was_cancelled_by_itself_is_a_typed_error() -> None:
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(CallCancelled):
        await bounded(cancels_itself(), state())
