"""Hedged calls, against a transport whose instances answer when they are told to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator

import pytest
from aixgo import Delta, Message, Result, Usage
from aixgo import call as ambient
from aixgo.call import Budget
from aixgo.errors import AgentFailed, AixgoError, BudgetExceeded, InstanceLost, InvalidInput, Overloaded
from aixgo.events import Event
from aixgo.runtime.balancer import RETRY_CAPACITY
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.grant import Grant
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.runtime.plain import Headers, TransportFailed
from aixgo.runtime.remote import RemoteCalls
from aixgo.runtime.replicas import Replicas
from aixgo.runtime.resolver import Resolver
from aixgo.runtime.updates import Update
from aixgo.v1 import agent_pb2 as pb
from aixgo.wire.codec import encode_message
from hypothesis import given, settings
from hypothesis import strategies as st

AT_ONCE = 0.001
"""Seconds after which the calls of these tests are hedged: an answer that has to wait never comes before."""
Answer = Message | Exception


class Peers:
    """Instances by name. Each hangs until `answers` has something for it; cancelled, it says what `spent` says."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.spent: dict[str, Usage] = {}
        self.granted: dict[str, int] = {}
        self.asked: list[str] = []
        self.cancelled: list[str] = []
        self.changed = asyncio.Event()

    def answer(self, name: str, answer: Answer) -> None:
        self.answers[name] = answer
        self.changed.set()
        self.changed = asyncio.Event()

    async def hears(self, count: int) -> None:
        """Return when so many attempts are out."""
        while len(self.asked) < count:  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0)

    async def _answer(self, address: str, tokens: int, grant: Grant) -> Message:
        name = address.partition(":")[0]
        self.asked.append(name)
        self.granted[name] = tokens
        try:
            while name not in self.answers:
                await self.changed.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            if name in self.spent:
                grant.settle(self.spent[name])
            raise
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def execute(
        self, address: str, request: pb.ExecuteRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> pb.ExecuteResponse:
        reply = await self._answer(address, request.context.grant.tokens, grant)
        return pb.ExecuteResponse(message=encode_message(reply))

    async def stream(
        self, address: str, request: pb.ExecuteStreamRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> AsyncGenerator[Event]:
        reply = await self._answer(address, request.context.grant.tokens, grant)
        if reply.metadata.get("deltas"):
            yield Delta("d", ("a",))
        yield Result(reply, ("a",))

    async def healthy(self, address: str) -> bool:
        return True


async def _for_ever(seconds: float) -> None:
    """The pause before a retry: there are none in these tests."""
    await asyncio.Event().wait()


class Mesh:
    """Instances of agent "a"; `first` is the one that calls go to at first."""

    def __init__(self, *names: str, idempotent: bool = True, first: str = "x") -> None:
        self.peers = Peers()
        discovery = Discovery(["cp:1"])
        instances = tuple(Instance(n, f"{n}:1", 1, (AgentInfo("a", idempotent=idempotent),)) for n in names)
        discovery.directory.apply("cp:1", Update("e", 1, True, instances, (), 10.0))
        self.replicas = Replicas(Resolver(discovery), self.peers.healthy, rng=random.Random(3), sleep=_for_ever)
        for name in names:
            self.replicas.balancer.load(name).in_flight = int(name != first)
        self.calls = RemoteCalls(self.replicas, self.peers)  # pyright: ignore[reportArgumentType]
        self.state = ambient.root(60).child("a")

    def call(self, after: float | None = AT_ONCE) -> asyncio.Task[Message]:
        options = CallOptions(hedge_after=after)
        return asyncio.create_task(self.calls.call("a", Message("q"), self.state, options))

    async def left(self, name: str) -> None:
        """Return when no attempt is out at an instance but the first, and whoever waited for it has heard of it."""
        while self.replicas.balancer.load(name).in_flight > 1:  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)

    def stream(self) -> asyncio.Task[list[Event]]:
        async def read() -> list[Event]:
            options = CallOptions(hedge_after=AT_ONCE)
            return [event async for event in self.calls.stream("a", Message("q"), self.state, options)]

        return asyncio.create_task(read())


def used(tokens: int) -> Usage:
    return Usage(tokens, llm_calls=1)


def reply(text: str, tokens: int = 0, **metadata: object) -> Message:
    return Message(text, metadata, usage=used(tokens) if tokens else Usage())


async def test_a_call_without_an_answer_goes_to_a_second_instance_and_the_first_answer_counts() -> None:
    mesh = Mesh("x", "y")
    mesh.peers.spent["x"] = used(5)
    call = mesh.call()
    await mesh.peers.hears(2)
    mesh.peers.answer("y", reply("from y", 7))
    got = await call
    assert (mesh.peers.asked, mesh.peers.cancelled) == (["x", "y"], ["x"])
    assert got.payload == "from y"
    assert got.usage == mesh.state.ledger.usage == Usage(12, llm_calls=2)
    assert mesh.state.instance_id == "y"
    assert mesh.replicas.balancer.load("x").in_flight == 0


async def test_the_first_instance_may_win_all_the_same() -> None:
    mesh = Mesh("x", "y")
    mesh.peers.spent["y"] = Usage()
    call = mesh.call()
    await mesh.peers.hears(2)
    mesh.peers.answer("x", reply("from x", 7))
    assert (await call).usage == used(7)
    assert (mesh.state.instance_id, mesh.peers.cancelled) == ("x", ["y"])


@pytest.mark.parametrize("deltas", [True, False])
async def test_a_stream_is_hedged_until_its_first_event(deltas: bool) -> None:
    mesh = Mesh("x", "y")
    mesh.peers.spent["x"] = used(5)
    reading = mesh.stream()
    await mesh.peers.hears(2)
    mesh.peers.answer("y", reply("from y", 7, deltas=deltas))
    events = await reading
    last = events[-1]
    assert isinstance(last, Result)
    assert (len(events), last.message.payload, mesh.peers.cancelled) == (1 + deltas, "from y", ["x"])
    assert last.message.usage == mesh.state.ledger.usage == Usage(12, llm_calls=2)


async def test_an_answer_in_time_is_not_hedged() -> None:
    mesh = Mesh("x", "y")
    mesh.peers.answer("x", reply("from x"))
    assert (await mesh.call(after=60)).payload == "from x"
    assert mesh.peers.asked == ["x"]


@pytest.mark.parametrize("why", ["not idempotent", "alone", "no retries", "no budget", "nobody asked for it"])
async def test_a_call_is_not_hedged_where_that_must_not_be(why: str) -> None:
    mesh = Mesh("x", *(() if why == "alone" else ("y",)), idempotent=why != "not idempotent")
    if why == "no retries":
        for _ in range(int(RETRY_CAPACITY) + 1):
            mesh.replicas.retry_budget("a").spend()
    if why == "no budget":
        mesh.state.budget = Budget(100)  # all of which the first attempt is granted
    call = mesh.call(None if why == "nobody asked for it" else AT_ONCE)
    await asyncio.sleep(20 * AT_ONCE)
    mesh.peers.answer("x", reply("from x"))
    assert (await call).payload == "from x"
    assert mesh.peers.asked == ["x"]


async def test_a_call_that_first_has_to_wait_for_an_instance_is_hedged_all_the_same() -> None:
    mesh = Mesh("x", "y")
    for name in ("x", "y"):
        mesh.replicas.balancer.failed(name, refused=True)
    call = mesh.call()
    await asyncio.sleep(20 * AT_ONCE)
    assert mesh.peers.asked == []
    for name in ("x", "y"):
        mesh.replicas.balancer.readmit(name)
    mesh.replicas.resolver.touch()
    await mesh.peers.hears(2)
    mesh.peers.answer("y", reply("from y"))
    assert (await call).payload == "from y"


async def test_agents_that_are_hedged_by_configuration_need_no_option() -> None:
    mesh = Mesh("x", "y")
    mesh.calls = RemoteCalls(mesh.replicas, mesh.peers, hedged={"a": AT_ONCE})  # pyright: ignore[reportArgumentType]
    call = mesh.call(None)
    await mesh.peers.hears(2)
    mesh.peers.answer("y", reply("from y"))
    assert (await call).payload == "from y"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "failure", [TransportFailed(InstanceLost("gone")), Overloaded("full"), BudgetExceeded("too little left")]
)
async def test_a_hedge_that_fails_without_an_answer_leaves_the_first_attempt_alone(
    failure: Exception, stream: bool
) -> None:
    mesh = Mesh("x", "y")
    call = mesh.stream() if stream else mesh.call()
    await mesh.peers.hears(2)
    mesh.peers.answer("y", failure)
    await mesh.left("y")
    assert not call.done()
    mesh.peers.answer("x", reply("from x"))
    await call
    assert mesh.peers.asked == ["x", "y"]
    await mesh.replicas.close()


async def test_an_error_that_an_agent_raised_is_an_answer() -> None:
    mesh = Mesh("x", "y")
    mesh.peers.spent["x"] = used(5)
    call = mesh.call()
    await mesh.peers.hears(2)
    failed = AgentFailed("it raised")
    failed.usage = used(2)
    mesh.peers.answer("y", failed)
    with pytest.raises(AgentFailed) as caught:
        await call
    assert caught.value.usage == Usage(7, llm_calls=2)


async def test_cancelling_a_hedged_call_cancels_both_attempts() -> None:
    mesh = Mesh("x", "y")
    mesh.peers.spent = {"x": used(5), "y": used(6)}
    before = asyncio.all_tasks()
    call = mesh.call()
    await mesh.peers.hears(2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert sorted(mesh.peers.cancelled) == ["x", "y"]
    assert mesh.state.ledger.usage == Usage(11, llm_calls=2)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("after", [0, -1.0, float("nan")])
async def test_a_time_that_is_none_is_refused(after: float) -> None:
    with pytest.raises(InvalidInput, match="hedge_after is"):
        await Mesh("x", "y").call(after)


HOW = st.sampled_from(["reply", "agent error", "lost", "silent"])


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 200_000), HOW, HOW, st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_hedged_calls_never_overspend_and_count_each_token_once(
    budget: int, first: str, second: str, share_x: float, share_y: float, second_before: bool
) -> None:
    async def scenario() -> None:
        mesh = Mesh("x", "y")
        mesh.state.budget = whole = Budget(budget)
        call = mesh.call()
        await mesh.peers.hears(1)
        await asyncio.sleep(3 * AT_ONCE)
        spent: dict[str, int] = {}
        for name, share in (("x", share_x), ("y", share_y)):
            spent[name] = int(mesh.peers.granted.get(name, 0) * share)
        assert sum(mesh.peers.granted.values()) <= budget
        ends = [("x", first), ("y", second)]
        for name, how in reversed(ends) if second_before else ends:
            if how == "silent" or name not in mesh.peers.asked:
                continue
            mesh.peers.answer(name, _ended(how, spent[name]))
            await asyncio.sleep(0)
        if not await _over(call):
            call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (whole.left()[0] or 0) >= 0
        held = mesh.state.ledger.usage.held_tokens
        assert held + (whole.left()[0] or 0) == budget
        known = {name for name, how in ends if how in ("reply", "agent error") and name not in mesh.peers.cancelled}
        expected = sum(spent[name] if name in known else mesh.peers.granted[name] for name in mesh.peers.asked)
        assert held == expected
        await mesh.replicas.close()

    asyncio.run(scenario())


def _ended(how: str, spent: int) -> Answer:
    if how == "lost":
        return TransportFailed(InstanceLost("gone"))
    if how == "reply":
        return reply("r", spent)
    failed: AixgoError = AgentFailed("it raised")
    failed.usage = used(spent)
    return failed


async def _over(call: asyncio.Task[Message]) -> bool:
    for _ in range(50):
        await asyncio.sleep(0)
    return call.done()
