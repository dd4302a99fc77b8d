"""Serving calls, whatever transport they came by: limits, deadline, cancellation, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest
from aixgo import Agent, Delta, Event, LocalRuntime, Message, Result, Usage, agent
from aixgo import call as ambient
from aixgo.call import Budget
from aixgo.errors import (
    AgentFailed,
    AgentNotFound,
    AgentUnavailable,
    BudgetExceeded,
    CallCancelled,
    DeadlineExceeded,
    DepthExceeded,
    InstanceDraining,
    Overloaded,
)
from aixgo.mailboxes.contract import Letter
from aixgo.server import calls as module
from aixgo.server.callees import IncomingCall, OwnAgents
from aixgo.server.calls import CallServer
from aixgo.server.limits import RateLimit


def spend(tokens: int) -> None:
    state = ambient.current()
    assert state is not None
    state.ledger.record(Usage(tokens, llm_calls=1))


@agent
async def echo(message: Message) -> Message:
    return message


class Slow(Agent):
    """Spends 7 tokens, then waits until it is let go."""

    name = "slow"

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = ""

    async def execute(self, message: Message) -> Message:
        spend(7)
        self.begun.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        return message

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Delta("first")
        yield Result(await self.execute(message))


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def serving(*agents: Agent, limit: int = 100, clock: Callable[[], float] = monotonic) -> CallServer:
    runtime = LocalRuntime()
    for each in agents:
        runtime.register(each)
    return CallServer(OwnAgents(runtime), max_concurrent_calls=limit, instance_id="me", clock=clock)


def incoming(name: str, call_id: str = "", timeout: float = 60.0, depth: int = 0) -> IncomingCall:
    return IncomingCall(name, Message("x"), call_id, timeout, depth)


async def serve(server: CallServer, call: IncomingCall) -> Message:
    return await asyncio.create_task(server.serve(call))


async def read(server: CallServer, call: IncomingCall) -> list[Event]:
    return [event async for event in server.serve_stream(call)]


async def test_a_call_inherits_what_it_is_handed() -> None:
    @agent
    async def looks(message: Message) -> list[object]:
        now = ambient.current()
        assert now is not None
        assert now.budget is not None
        return [list(now.path), now.depth, now.session_id, now.budget.left()[0]]

    call = IncomingCall("looks", Message("x"), depth=2, path=("a", "b"), session_id="s", budget=Budget(9))
    server = serving(looks)
    assert (await serve(server, call)).payload == [["a", "b", "looks"], 3, "s", 9]
    events = await asyncio.create_task(read(server, call))
    assert isinstance(events[-1], Result)
    assert events[-1].message.payload == [["a", "b", "looks"], 3, "s", 9]


async def test_a_draining_server_refuses_calls_and_messages() -> None:
    server = serving(echo)
    assert await server.finish(0)
    for refused in (lambda: serve(server, incoming("echo")), lambda: read(server, incoming("echo"))):
        with pytest.raises(InstanceDraining) as caught:
            await refused()
        assert not caught.value.accepted
    with pytest.raises(InstanceDraining):
        await server.deliver("echo", Letter(Message("x")))


async def test_a_full_server_refuses_and_has_room_again_when_a_call_ends() -> None:
    slow = Slow()
    server = serving(slow, echo, limit=1)
    running = asyncio.create_task(server.serve(incoming("slow")))
    await slow.begun.wait()
    with pytest.raises(Overloaded, match="1 calls run here, as many as may") as caught:
        await serve(server, incoming("echo"))
    assert (caught.value.accepted, caught.value.retry_after, caught.value.fields) == (False, 0.1, {"limit": 1})
    slow.go.set()
    await running
    assert server.count == 0
    assert (await serve(server, incoming("echo"))).payload == "x"


async def test_an_agent_that_does_not_live_here_is_a_refusal() -> None:
    server = serving(echo)
    with pytest.raises(AgentNotFound, match="no agent named 'b' lives here; here: echo") as caught:
        await serve(server, incoming("b"))
    assert not caught.value.accepted
    with pytest.raises(AgentNotFound):
        await server.deliver("b", Letter(Message("x")))


async def test_an_agent_that_is_not_ready_is_a_refusal() -> None:
    class Loading(Slow):
        def ready(self) -> bool:
            return False

    with pytest.raises(AgentUnavailable) as caught:
        await serve(serving(Loading()), incoming("slow"))
    assert not caught.value.accepted


async def test_a_call_that_is_too_deep_is_refused_and_takes_no_room() -> None:
    server = serving(echo)
    await serve(server, incoming("echo", depth=9))
    for depth in (10, 2**32 - 1):
        with pytest.raises(DepthExceeded):
            await serve(server, incoming("echo", depth=depth))
    assert server.count == 0


@pytest.mark.parametrize(("timeout", "own"), [(10.0, 9.95), (0.1, 0.09)])
async def test_the_servers_own_deadline_ends_a_margin_earlier(timeout: float, own: float) -> None:
    @agent
    async def left(message: Message) -> float | None:
        return ambient.remaining()

    remaining = (await serve(serving(left), incoming("left", timeout=timeout))).payload
    assert isinstance(remaining, float)
    assert own - 0.05 < remaining <= own


@pytest.mark.parametrize("timeout", [0.02, 0.0, -1.0])
async def test_a_passed_deadline_is_typed_and_says_what_was_spent(timeout: float) -> None:
    slow = Slow()
    server = serving(slow)
    with pytest.raises(DeadlineExceeded) as caught:
        await serve(server, incoming("slow", timeout=timeout))
    assert caught.value.agent_path == ("slow",)
    assert caught.value.usage.total_tokens in (0, 7)
    with pytest.raises(DeadlineExceeded):
        await asyncio.create_task(read(server, incoming("slow", timeout=timeout)))
    assert server.count == 0


async def test_a_task_whose_call_ended_by_deadline_can_go_on_waiting() -> None:
    """The cancellation is taken back, so that the transport can still answer."""

    async def transport() -> str:
        with pytest.raises(DeadlineExceeded):
            await server.serve(incoming("slow", timeout=0.01))
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return f"answered, cancelling {task.cancelling()}"

    server = serving(Slow())
    assert await asyncio.create_task(transport()) == "answered, cancelling 0"


@pytest.mark.parametrize("stream", [False, True])
async def test_cancel_stops_a_call_and_says_what_it_spent(stream: bool) -> None:
    slow = Slow()
    server = serving(slow)
    work = read(server, incoming("slow", "id")) if stream else server.serve(incoming("slow", "id"))
    task = asyncio.create_task(work)
    await slow.begun.wait()
    assert await server.cancel("id") == Usage(7, llm_calls=1)
    with pytest.raises(CallCancelled) as caught:
        await task
    assert caught.value.usage == Usage(7, llm_calls=1)
    assert slow.ended == "cancelled"
    assert server.count == 0
    assert await server.cancel("id") == Usage(7, llm_calls=1)


async def test_an_unknown_call_cannot_be_cancelled() -> None:
    server = serving(echo)
    assert await server.cancel("nothing") is None
    await serve(server, incoming("echo", "done"))
    assert await server.cancel("done") is None


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancel_that_comes_after_the_rpc_was_cancelled_learns_the_usage(stream: bool) -> None:
    slow = Slow()
    server = serving(slow)
    work = read(server, incoming("slow", "id")) if stream else server.serve(incoming("slow", "id"))
    rpc = asyncio.create_task(work)
    await slow.begun.wait()
    rpc.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rpc
    assert [await server.cancel("id") for _ in range(2)] == [Usage(7, llm_calls=1)] * 2


async def test_a_stream_that_is_left_while_its_reader_is_slow_is_remembered_too() -> None:
    class Spends(Slow):
        async def stream(self, message: Message) -> AsyncIterator[Event]:
            spend(7)
            yield Delta("first")
            yield Result(message)

    server = serving(Spends())
    events = server.serve_stream(incoming("slow", "id"))
    await anext(events)
    assert server.count == 1
    await events.aclose()
    assert server.count == 0
    assert await server.cancel("id") == Usage(7, llm_calls=1)


async def test_only_so_many_cancelled_calls_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    server = serving(echo)
    for number in range(3):
        server.remember(str(number), Usage(number, llm_calls=1))
    assert [await server.cancel(str(number)) for number in range(3)] == [
        None, Usage(1, llm_calls=1), Usage(2, llm_calls=1),
    ]  # fmt: skip


async def test_a_call_whose_cancel_came_first_is_refused_when_it_comes_and_may_be_sent_again() -> None:
    server = serving(echo)
    assert await server.cancel("early") is None
    assert server.refuse("early", instance_id="me")
    with pytest.raises(CallCancelled, match="before it came") as caught:
        await serve(server, incoming("echo", "early"))
    assert (caught.value.usage, caught.value.accepted) == (Usage(), True)
    assert (await serve(server, incoming("echo", "early"))).payload == "x"


@pytest.mark.parametrize("sent_to", ["", "another"])
async def test_only_the_instance_that_a_call_was_sent_to_can_say_that_it_will_not_run(sent_to: str) -> None:
    assert not serving(echo).refuse("early", instance_id=sent_to)


async def test_a_server_that_has_just_forgotten_usage_does_not_say_that_nothing_was_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    clock = Clock()
    server = serving(echo, clock=clock)
    server.remember("old", Usage(1, llm_calls=1))
    clock.now = 10.0
    for name in ("a", "b"):
        server.remember(name, Usage(1, llm_calls=1))
    assert server.refuse("x", instance_id="me")  # what was forgotten was old
    server.remember("c", Usage(1, llm_calls=1))
    assert not server.refuse("y", instance_id="me")
    clock.now = 16.0
    assert server.refuse("y", instance_id="me")


async def test_only_so_many_calls_are_refused_before_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    clock = Clock()
    server = serving(echo, clock=clock)
    assert [server.refuse(name, instance_id="me") for name in "abc"] == [True, True, False]
    clock.now = 6.0
    assert server.refuse("c", instance_id="me")


async def test_a_call_that_does_not_end_when_cancelled_has_incomplete_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_WAIT", 0.01)

    class Stubborn(Slow):
        async def execute(self, message: Message) -> Message:
            spend(7)
            self.begun.set()
            while not self.go.is_set():
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    continue
            return message

    agent_ = Stubborn()
    server = serving(agent_)
    task = asyncio.create_task(server.serve(incoming("slow", "id")))
    await agent_.begun.wait()
    assert await server.cancel("id") == Usage(7, llm_calls=1, incomplete=True)
    agent_.go.set()
    await asyncio.wait({task})
    assert server.count == 0


async def test_two_calls_with_one_id_both_run_and_the_first_is_the_one_to_cancel() -> None:
    slow, other = Slow(), Slow()
    other.name = "other"
    server = serving(slow, other)
    first = asyncio.create_task(server.serve(incoming("slow", "id")))
    await slow.begun.wait()
    second = asyncio.create_task(server.serve(incoming("other", "id")))
    await other.begun.wait()
    await server.cancel("id")
    with pytest.raises(CallCancelled):
        await first
    other.go.set()
    assert (await second).payload == "x"


async def test_finishing_waits_for_running_calls() -> None:
    slow = Slow()
    server = serving(slow)
    running = asyncio.create_task(server.serve(incoming("slow")))
    await slow.begun.wait()
    finishing = asyncio.create_task(server.finish(60))
    await asyncio.sleep(0)
    assert not finishing.done()
    slow.go.set()
    assert await finishing
    assert (await running).payload == "x"


async def test_finishing_cancels_what_takes_too_long_and_the_callers_hear_why() -> None:
    slow = Slow()
    server = serving(slow)
    running = asyncio.create_task(server.serve(incoming("slow")))
    await slow.begun.wait()
    assert not await server.finish(0.01)
    with pytest.raises(CallCancelled):
        await running
    assert slow.ended == "cancelled"


async def test_an_agents_own_exception_is_typed() -> None:
    @agent
    async def fails(message: Message) -> None:
        spend(3)
        raise ValueError("no")

    with pytest.raises(AgentFailed) as caught:
        await serve(serving(fails), incoming("fails"))
    assert caught.value.usage == Usage(3, llm_calls=1)
    assert caught.value.accepted


class Leaves(Agent):
    """Ends while a task of it still holds 30 tokens, and goes on reserving."""

    name = "leaves"

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.refused: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.go_on = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def execute(self, message: Message) -> Message:
        spend(7)
        state = ambient.current()
        assert state is not None
        assert state.budget is not None
        state.budget.repay(Budget(0), Usage(7))
        state.budget.reserve(30)
        self.tasks.append(asyncio.create_task(self._more(state.budget)))
        if self.fails:
            raise ValueError("no")
        return message

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Result(await self.execute(message))

    async def _more(self, budget: Budget) -> None:
        await self.go_on.wait()
        try:
            budget.reserve(1)
        except BudgetExceeded:
            self.refused.set_result(True)


ON_TOP = Usage(7, llm_calls=1, incomplete=True, unsettled_tokens=30)


async def test_what_outlives_a_call_is_unsettled_and_can_spend_nothing_more() -> None:
    leaves = Leaves()
    server = serving(leaves)
    assert (await serve(server, granted("leaves"))).usage == ON_TOP
    leaves.go_on.set()
    assert await leaves.refused
    last = (await asyncio.create_task(read(server, granted("leaves"))))[-1]
    assert isinstance(last, Result)
    assert last.message.usage == ON_TOP


async def test_an_error_says_what_is_unsettled_too() -> None:
    with pytest.raises(AgentFailed) as caught:
        await serve(serving(Leaves(fails=True)), granted("leaves"))
    assert caught.value.usage == ON_TOP


async def test_a_call_that_ended_before_its_cancel_came_says_what_it_spent() -> None:
    server = serving(Leaves(), echo)
    await serve(server, granted("leaves", "id"))
    await serve(server, granted("echo", "nothing"))
    assert await server.cancel("id") == ON_TOP
    assert await server.cancel("nothing") == Usage()


def granted(name: str, call_id: str = "") -> IncomingCall:
    return IncomingCall(name, Message("x"), call_id, 60.0, budget=Budget(100))


async def test_a_caller_over_its_rate_is_refused_calls_streams_and_messages() -> None:
    runtime = LocalRuntime()
    runtime.register(echo)
    server = CallServer(OwnAgents(runtime), rate_limit=RateLimit(1, 1), clock=Clock())
    call = incoming("echo")
    call.peer = "ipv4:10.0.0.1:4000"
    assert (await serve(server, call)).payload == "x"
    letter = Letter(Message("x"))
    for again in (serve(server, call), read(server, call), server.deliver("echo", letter, peer=call.peer)):
        with pytest.raises(Overloaded, match="this caller may call 1 times a second"):
            await again
    call.peer = "ipv4:10.0.0.2:4000"
    assert (await serve(server, call)).payload == "x"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_agent_that_has_as_many_calls_as_it_takes_lets_others_wait_and_refuses_the_rest(stream: bool) -> None:
    slow = Slow()
    slow.max_concurrent_calls, slow.max_queue = 1, 1
    server = serving(slow)

    def work(call_id: str) -> asyncio.Task[object]:
        call = incoming("slow", call_id)
        return asyncio.create_task(read(server, call) if stream else server.serve(call))

    running = work("running")
    await slow.begun.wait()
    waiting = work("waiting")
    while server.count < 2:  # noqa: ASYNC110  # nothing announces it
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="max_concurrent_calls") as caught:
        await work("refused")
    assert (caught.value.accepted, caught.value.usage) == (False, Usage())
    assert await server.cancel("waiting") == Usage()
    with pytest.raises(CallCancelled):
        await waiting
    slow.go.set()
    await running
