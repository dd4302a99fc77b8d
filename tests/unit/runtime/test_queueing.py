"""The queue of an agent that takes so many calls at once: order, room, and what cannot be in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aixgo import Agent, Delta, Event, LocalRuntime, Message, Result
from aixgo.call import CallState
from aixgo.errors import DeadlineExceeded, InstanceDraining, InvalidInput, Overloaded
from aixgo.runtime.queueing import UNKNOWN_WAIT, CallQueue
from aixgo.usage import Ledger
from hypothesis import given
from hypothesis import strategies as st


class Gated(Agent):
    """Lets calls end when it is told to, and knows in which order they began."""

    name = "gated"

    def __init__(self, most: int = 1, room: int = 100) -> None:
        self.max_concurrent_calls, self.max_queue = most, room
        self.began: list[str] = []
        self.running = self.most = 0
        self.go = asyncio.Semaphore(0)

    async def execute(self, message: Message) -> Message:
        self.began.append(message.text)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.acquire()
        finally:
            self.running -= 1
        return message

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        reply = await self.execute(message)
        yield Delta("d")
        yield Result(reply)


def local(agent: Agent) -> LocalRuntime:
    runtime = LocalRuntime()
    runtime.register(agent)
    return runtime


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def streamed(runtime: LocalRuntime, text: str) -> Message:
    async with runtime.stream("gated", text) as events:
        async for event in events:
            if isinstance(event, Result):
                return event.message
    raise AssertionError("no Result")


async def test_calls_and_streams_wait_for_their_turn_in_order() -> None:
    agent = Gated(most=2)
    runtime = local(agent)
    work: list[asyncio.Task[Message]] = []
    for number in range(6):
        made = streamed(runtime, str(number)) if number % 2 else runtime.call("gated", str(number))
        work.append(asyncio.create_task(made))
        await settle()
    assert agent.began == ["0", "1"]
    for _ in range(6):
        agent.go.release()
    assert [reply.payload for reply in await asyncio.gather(*work)] == list("012345")
    assert (agent.began, agent.most) == (list("012345"), 2)


async def test_a_call_too_many_is_refused_at_once_and_was_not_accepted() -> None:
    agent = Gated(room=1)
    runtime = local(agent)
    work = [asyncio.create_task(runtime.call("gated", str(number))) for number in range(2)]
    await settle()
    with pytest.raises(Overloaded, match=r"1 wait, as many as may \(max_queue\)") as caught:
        await runtime.call("gated", "2")
    assert not caught.value.accepted
    assert caught.value.fields == {"limit": 1, "queue": 1, "waiting": 1}
    assert caught.value.retry_after == UNKNOWN_WAIT  # without a word callers would not leave this instance alone
    assert caught.value.agent_path == ("gated",)
    agent.go.release()
    agent.go.release()
    await asyncio.gather(*work)
    agent.go.release()
    assert (await runtime.call("gated", "3")).payload == "3"


async def test_a_call_that_is_cancelled_or_too_late_leaves_the_queue() -> None:
    agent = Gated(room=2)
    runtime = local(agent)
    first = asyncio.create_task(runtime.call("gated", "first"))
    await settle()
    cancelled = asyncio.create_task(runtime.call("gated", "cancelled"))
    late = asyncio.create_task(runtime.call("gated", "late", timeout=0.02))
    await settle()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(DeadlineExceeded):
        await late
    last = asyncio.create_task(runtime.call("gated", "last"))
    agent.go.release()
    agent.go.release()
    await asyncio.gather(first, last)
    assert agent.began == ["first", "last"]


async def test_a_turn_that_comes_to_a_call_as_it_is_cancelled_goes_to_the_next() -> None:
    agent = Gated()
    runtime = local(agent)
    first, second, third = (asyncio.create_task(runtime.call("gated", str(n))) for n in range(3))
    await settle()
    agent.go.release()
    await first  # the second's turn, which it has not taken yet
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    agent.go.release()
    assert (await third).payload == "2"


async def test_an_agent_that_calls_itself_does_not_wait_for_itself() -> None:
    class Again(Agent):
        name = "again"
        max_concurrent_calls = 1

        async def execute(self, message: Message) -> Message:
            return await self.runtime.call("again", "x")

    with pytest.raises(Overloaded, match="from inside another one") as caught:
        await local(Again()).call("again", "x", timeout=5)
    assert caught.value.accepted  # the outer call was


@pytest.mark.parametrize(("most", "room", "field"), [(0, 1, "max_concurrent_calls"), (1, -1, "max_queue")])
def test_limits_that_cannot_be_kept_are_refused_by_name(most: int, room: int, field: str) -> None:
    with pytest.raises(InvalidInput, match=field):
        local(Gated(most, room))


class Clocked:
    """A queue whose calls take as long as the loop's clock, which is set, says."""

    def __init__(self, most: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue = CallQueue("a", most, room)
        self.now = 0.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    def state(self, left: float) -> CallState:
        return CallState(self.now + left, 1, ("a",), "", Ledger())

    async def takes(self, seconds: float) -> None:
        async with self.queue.turn(self.state(60)):
            self.now += seconds


async def test_what_cannot_be_in_time_is_refused_with_the_time_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(2, 100, monkeypatch)
    await clocked.takes(4)
    await clocked.takes(4)
    queue = clocked.queue
    async with queue.turn(clocked.state(60)), queue.turn(clocked.state(60)):
        assert queue.estimate() == 2  # the next of two places becomes free
        with pytest.raises(Overloaded, match="5 s would not suffice") as caught:
            async with queue.turn(clocked.state(5)):
                pytest.fail("it had no turn")
        assert caught.value.retry_after == 2
        waiting = asyncio.create_task(queue.turn(clocked.state(7)).__aenter__())
        await settle()
        assert (queue.waiting, queue.estimate()) == (1, 4)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert queue.waiting == 0


async def test_the_mean_follows_what_calls_take_now(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(1, 1, monkeypatch)
    for seconds in [10.0] + [1.0] * 10:
        await clocked.takes(seconds)
    assert 1 < clocked.queue.estimate() < 2


async def outside(clocked: Clocked, left: float = 60) -> asyncio.Task[None]:
    """A call from another process that waits for its turn, and then takes no time."""

    async def call() -> None:
        async with clocked.queue.turn(clocked.state(left), outside=True):
            pass

    task = asyncio.create_task(call())
    await settle()
    return task


async def test_calls_of_others_that_wait_are_refused_when_the_process_ends_its_own_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocked = Clocked(1, 100, monkeypatch)
    await clocked.takes(4)
    queue = clocked.queue
    async with queue.turn(clocked.state(60)):
        own = asyncio.create_task(queue.turn(clocked.state(60)).__aenter__())
        await settle()
        soon, late = await outside(clocked), await outside(clocked)
        queue.refuse_waiting(12.5)  # the second of three waits 8 s, and takes 4
        await settle()
        assert (own.done(), soon.done(), late.done(), queue.waiting) == (False, False, True, 2)
        queue.refuse_waiting(0)
        await settle()
        assert (own.done(), soon.done(), queue.waiting) == (False, True, 1)
        for refused in (soon, late):
            with pytest.raises(InstanceDraining, match="waited for its turn") as caught:
                await refused
            assert (caught.value.accepted, caught.value.agent_path) == (False, ("a",))
    await own
    assert queue.running == 1


async def test_a_refusal_that_meets_a_cancellation_gives_no_turn_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(1, 100, monkeypatch)
    async with clocked.queue.turn(clocked.state(60)):
        waiting = await outside(clocked)
        clocked.queue.refuse_waiting(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (clocked.queue.running, clocked.queue.waiting) == (1, 0)


@given(st.integers(1, 3), st.integers(0, 3), st.lists(st.sampled_from(["call", "end", "cancel"]), max_size=40))
def test_whatever_happens_the_limits_hold_and_every_turn_is_given_back(most: int, room: int, steps: list[str]) -> None:
    async def scenario() -> None:
        agent = Gated(most, room)
        runtime = local(agent)
        work: list[asyncio.Task[Message]] = []
        for step in steps:
            if step == "call":
                work.append(asyncio.create_task(runtime.call("gated", str(len(work)))))
            elif step == "end":
                agent.go.release()
            elif work:
                work[len(work) // 2].cancel()
            await settle()
            assert agent.running <= most
            assert sum(not task.done() for task in work) <= most + room
        for _ in work:
            agent.go.release()
        for ended in await asyncio.gather(*work, return_exceptions=True):
            assert isinstance(ended, (Message, asyncio.CancelledError, Overloaded))
        queue = runtime.queues._by_name["gated"]
        assert (queue.running, queue.waiting) == (0, 0)

    asyncio.run(scenario())
