"""What only LocalRuntime does, and what both runtimes do before a call leaves them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from aixgo import Agent, CallOptions, LocalRuntime, Message, Runtime, Usage, agent
from aixgo import call as ambient
from aixgo.errors import (
    AgentNotFound,
    AgentUnavailable,
    AlreadyRegistered,
    DeadlineExceeded,
    DepthExceeded,
    InvalidInput,
    InvalidMessage,
    MessageTooLarge,
    NotSupported,
    WrongState,
)
from aixgo.runtime import entry


@agent
async def echo(message: Message) -> Message:
    return message


@agent
async def state(message: Message) -> dict[str, object]:
    now = ambient.current()
    assert now is not None
    left = now.budget.left() if now.budget is not None else (None, None)
    return {
        "path": list(now.path), "depth": now.depth, "session": now.session_id,
        "tokens": left[0], "usd": None if left[1] is None else str(left[1]),
    }  # fmt: skip


@pytest.fixture
def runtime() -> LocalRuntime:
    made = LocalRuntime(max_message_bytes=10)
    for each in (echo, state):
        made.register(each.renamed(each.name))
    return made


def test_it_is_a_runtime(runtime: LocalRuntime) -> None:
    assert isinstance(runtime, Runtime)


async def test_a_message_is_passed_as_it_is(runtime: LocalRuntime) -> None:
    message = Message({"deep": [1]}, {"a": 1})
    assert await runtime.call("echo", message) is message


async def test_what_lies_beyond_the_process_is_not_supported(runtime: LocalRuntime) -> None:
    with pytest.raises(NotSupported, match=r"b at box:1.*use DistributedRuntime"):
        await runtime.connect("b", "box:1")
    with pytest.raises(NotSupported, match="use DistributedRuntime"):
        await runtime.disconnect("b")


async def test_a_name_that_is_not_registered_is_not_found_in_every_way(runtime: LocalRuntime) -> None:
    async def streamed() -> None:
        async with runtime.stream("b", "x") as events:
            async for _ in events:
                pass

    async def received() -> None:
        async for _ in runtime.recv("b"):
            pass

    for attempt in (runtime.call("b", "x"), streamed(), runtime.send("b", "x"), received(), runtime.unregister("b")):
        with pytest.raises(AgentNotFound, match="no agent named 'b'"):
            await attempt
    with pytest.raises(AgentNotFound, match="known: echo, state"):
        runtime.get_agent("b")


async def test_names_are_unique_and_free_again_after_unregistering(runtime: LocalRuntime) -> None:
    with pytest.raises(AlreadyRegistered, match="an agent named 'echo' is registered already"):
        runtime.register(echo.renamed("echo"))
    old = runtime.get_agent("echo")
    await runtime.unregister("echo")
    with pytest.raises(WrongState):
        _ = old.runtime
    runtime.register(echo.renamed("echo"))
    assert runtime.list_agents() == ["echo", "state"]


def test_only_agents_with_usable_names_are_registered(runtime: LocalRuntime) -> None:
    async def bare(message: Message) -> str:
        return "x"

    with pytest.raises(InvalidInput, match=r"a function is no Agent; subclass aixgo.Agent, or use @agent"):
        runtime.register(bare)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInput, match="agent name 'no name'"):
        runtime.register(echo.renamed("no name"))


@pytest.mark.parametrize("payload", ["x" * 11, b"x" * 11, "é" * 6])
async def test_a_payload_over_the_limit_is_measured_in_bytes(runtime: LocalRuntime, payload: str | bytes) -> None:
    with pytest.raises(MessageTooLarge, match="and 10 are allowed; send less, or raise max_message_bytes") as caught:
        await runtime.call("echo", payload)
    assert caught.value.fields == {"limit": 10}
    with pytest.raises(MessageTooLarge):
        runtime.stream("echo", payload)
    with pytest.raises(MessageTooLarge):
        await runtime.send("echo", payload)


@pytest.mark.parametrize("payload", ["x" * 10, "é" * 5, b"x" * 10])
async def test_a_payload_at_the_limit_passes(runtime: LocalRuntime, payload: str | bytes) -> None:
    assert (await runtime.call("echo", payload)).payload == payload


async def test_a_payload_that_is_none_is_refused(runtime: LocalRuntime) -> None:
    with pytest.raises(InvalidMessage, match="payload is a set"):
        await runtime.call("echo", {1})  # pyright: ignore[reportArgumentType]


async def test_callers_cannot_write_usage(runtime: LocalRuntime) -> None:
    reply = await runtime.call("echo", Message("x", usage=Usage(1000, llm_calls=1)))
    assert reply.usage == Usage()


async def test_options_narrow_what_a_call_may_do(runtime: LocalRuntime) -> None:
    options = CallOptions(session_id="s", max_tokens=50, max_cost_usd=0.1)
    reply = await runtime.call("state", "x", options=options)
    assert reply.payload == {"path": ["state"], "depth": 1, "session": "s", "tokens": 50, "usd": "0.1"}
    with ambient.entered(ambient.root(60, "outer").child("parent")):
        inner = await runtime.call("state", "x", options=CallOptions(max_cost_usd=Decimal("0.3")))
    assert inner.payload == {"path": ["parent", "state"], "depth": 2, "session": "outer", "tokens": None, "usd": "0.3"}


async def test_the_session_of_a_message_wins_over_the_inherited_one(runtime: LocalRuntime) -> None:
    with ambient.entered(ambient.root(60, "outer").child("parent")):
        reply = await runtime.call("state", Message("x", session_id="own"))
    assert isinstance(reply.payload, dict)
    assert reply.payload["session"] == "own"


async def test_a_message_sent_inside_a_call_keeps_its_session(runtime: LocalRuntime) -> None:
    with ambient.entered(ambient.root(60, "talk").child("parent")):
        await runtime.send("echo", "x")
        await runtime.send("echo", Message("y", session_id="own"))
    received = aiter(runtime.recv("echo"))
    sessions: list[tuple[str, tuple[str, ...]]] = []
    for _ in range(2):
        delivery = await anext(received)
        sessions.append((delivery.message.session_id, delivery.sender))
    assert sessions == [("talk", ("parent",)), ("own", ("parent",))]


async def test_receiving_outside_of_an_agent_needs_a_name(runtime: LocalRuntime) -> None:
    with pytest.raises(InvalidInput, match=r"recv\('name'\)"):
        await anext(aiter(runtime.recv()))


async def test_a_broadcast_goes_on_past_failures_and_reaches_each_name_once(runtime: LocalRuntime) -> None:
    outcome = await runtime.broadcast(["echo", "nobody", "echo", "state"], "x")
    assert outcome.delivered == ("echo", "state")
    assert list(outcome.failed) == ["nobody"]
    assert runtime.metrics().messages_sent == 2


async def test_a_timeout_can_only_shorten_the_inherited_deadline(runtime: LocalRuntime) -> None:
    @agent
    async def left(message: Message) -> float | None:
        return ambient.remaining()

    runtime.register(left)
    with ambient.entered(ambient.root(5).child("parent")):
        longer = (await runtime.call("left", "x", timeout=60)).payload
        shorter = (await runtime.call("left", "x", timeout=1)).payload
    assert isinstance(longer, float)
    assert isinstance(shorter, float)
    assert 1 < longer <= 5
    assert shorter <= 1


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
async def test_a_timeout_ends_a_call_typed(runtime: LocalRuntime, timeout: float) -> None:
    @agent
    async def hangs(message: Message) -> None:
        await asyncio.Event().wait()

    runtime.register(hangs)
    with pytest.raises(DeadlineExceeded) as caught:
        await runtime.call("hangs", "x", timeout=timeout)
    assert caught.value.agent_path == ("hangs",)


async def test_a_circle_of_agents_ends_at_the_depth_limit() -> None:
    class Loop(Agent):
        name = "loop"

        async def execute(self, message: Message) -> Message:
            return await self.runtime.call("loop", message)

    runtime = LocalRuntime(max_depth=4)
    runtime.register(Loop())
    with pytest.raises(DepthExceeded, match="loop > loop > loop > loop > loop"):
        await runtime.call("loop", "x")
    assert runtime.metrics().calls_failed == 5


class Unready(Agent):
    name = "unready"
    looks = 0

    async def execute(self, message: Message) -> Message:
        return message

    def ready(self) -> bool:
        self.looks += 1
        return self.looks > 3


async def test_a_call_waits_for_an_agent_that_is_about_to_be_ready(runtime: LocalRuntime) -> None:
    runtime.register(Unready())
    assert (await runtime.call("unready", "x")).payload == "x"


async def test_an_agent_that_does_not_get_ready_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "READY_TIMEOUT", 0.0)
    runtime, unready = LocalRuntime(), Unready()
    unready.looks = -(10**9)
    runtime.register(unready)
    assert not (await runtime.health()).ready
    for inside in (None, ambient.root(60).child("parent")):
        with ambient.entered(inside), pytest.raises(AgentUnavailable, match="agent 'unready' is not ready"):
            await runtime.call("unready", "x")
    with pytest.raises(AgentUnavailable):
        async with runtime.stream("unready", "x") as events:
            await anext(aiter(events))


async def test_metrics_count_what_happened(runtime: LocalRuntime) -> None:
    await runtime.call("echo", "x")
    async with runtime.stream("echo", "x") as events:
        async for _ in events:
            pass
    with pytest.raises(AgentNotFound):
        await runtime.call("nobody", "x")
    await runtime.send("echo", "x")
    async with await anext(aiter(runtime.recv("echo"))):
        pass
    metrics = runtime.metrics()
    assert (metrics.active_agents, metrics.calls_succeeded, metrics.calls_failed) == (2, 2, 1)
    assert (metrics.messages_sent, metrics.messages_received) == (1, 1)


class Life(Agent):
    name = "life"

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.started = asyncio.Event()

    async def execute(self, message: Message) -> Message:
        return message

    async def start(self) -> None:
        self.started.set()
        async for delivery in self.runtime.recv():
            async with delivery as message:
                self.seen.append(message.text)
                if message.text == "last":
                    self.started.set()

    async def stop(self) -> None:
        self.seen.append("stopped")


async def test_entering_starts_reactive_agents_and_leaving_stops_all() -> None:
    runtime, life = LocalRuntime(), Life()
    runtime.register(life)
    async with runtime:
        await life.started.wait()
        life.started.clear()
        await runtime.send("life", "first")
        await runtime.send("life", "last")
        await life.started.wait()
        with pytest.raises(WrongState, match="entered already"):
            await runtime.__aenter__()
    assert life.seen == ["first", "last", "stopped"]


async def test_an_agent_that_comes_later_is_started_and_one_that_goes_is_stopped() -> None:
    life = Life()
    async with LocalRuntime() as runtime:
        runtime.register(life)
        await life.started.wait()
        await runtime.unregister("life")
        assert life.seen == ["stopped"]
        assert runtime.list_agents() == []


async def test_call_parallel_returns_every_outcome_in_order(runtime: LocalRuntime) -> None:
    outcomes = await runtime.call_parallel(["state", "nobody", "echo"], "x", concurrency=2)
    assert [outcome.target for outcome in outcomes] == ["state", "nobody", "echo"]
    assert [type(error) for error in outcomes.errors] == [AgentNotFound]
    assert len(outcomes.results) == 2


async def test_streams_are_agents_own_when_they_have_one() -> None:
    from aixgo import Delta, Event, Result

    class Talks(Agent):
        name = "talks"

        async def execute(self, message: Message) -> Message:
            raise AssertionError

        async def stream(self, message: Message) -> AsyncIterator[Event]:
            yield Delta("a")
            yield Result(message)

    runtime = LocalRuntime()
    runtime.register(Talks())
    async with runtime.stream("talks", "x") as events:
        assert [type(event) async for event in events] == [Delta, Result]
