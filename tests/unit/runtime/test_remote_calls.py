"""The rules of remote calls, against a transport that answers by script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal

import pytest
from aixgo import Delta, Message, Result, Usage
from aixgo import call as ambient
from aixgo.call import Budget, CallState
from aixgo.errors import (
    AgentFailed,
    AgentNotFound,
    AgentUnavailable,
    AixgoError,
    CallCancelled,
    DeadlineExceeded,
    InstanceDraining,
    InstanceLost,
    InvalidMessage,
    MailboxFull,
    Overloaded,
    RegistryUnavailable,
    StreamBroken,
)
from aixgo.events import Event
from aixgo.runtime import attempts as module
from aixgo.runtime.attempts import MAX_RETRIES
from aixgo.runtime.balancer import RETRY_CAPACITY
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.grant import Grant
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.runtime.plain import Headers, TransportFailed
from aixgo.runtime.remote import RemoteCalls
from aixgo.runtime.replicas import Replicas
from aixgo.runtime.resolver import Resolver
from aixgo.runtime.updates import Update
from aixgo.usage import Ledger
from aixgo.v1 import agent_pb2 as pb
from aixgo.wire.codec import encode_message

Answer = Message | AixgoError | TransportFailed


def refused() -> TransportFailed:
    lost = InstanceLost("failed to connect")
    lost.accepted = False
    return TransportFailed(lost)


def broke() -> TransportFailed:
    return TransportFailed(InstanceLost("socket closed"))


def not_here() -> AgentNotFound:
    error = AgentNotFound("no such agent lives here")
    error.accepted = False
    return error


class ScriptedTransport:
    """Answers each call to an address with the next of its answers; the last one stands."""

    def __init__(self, **answers: Answer | list[Answer] | list[Event | Exception]) -> None:
        self.answers = {name: list(a) if isinstance(a, list) else [a] for name, a in answers.items()}
        self.asked: list[str] = []
        self.requests: list[pb.ExecuteRequest | pb.ExecuteStreamRequest | pb.DeliverRequest] = []
        self.timeouts: list[float] = []
        self.health: dict[str, list[bool]] = {}
        self.probed: list[str] = []
        self.closed = 0

    def _next(self, address: str, request: pb.ExecuteRequest | pb.DeliverRequest, timeout: float) -> Answer:
        name = address.partition(":")[0]
        self.asked.append(name)
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests.append(copy)
        self.timeouts.append(timeout)
        answers = self.answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, Message)
        return answer

    async def execute(
        self, address: str, request: pb.ExecuteRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> pb.ExecuteResponse:
        await asyncio.sleep(0)
        return pb.ExecuteResponse(message=encode_message(self._next(address, request, timeout)))

    async def stream(
        self, address: str, request: pb.ExecuteStreamRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> AsyncIterator[Event]:
        self.asked.append(address.partition(":")[0])
        try:
            for item in self.answers[self.asked[-1]]:
                if isinstance(item, Exception):
                    raise item
                yield item  # pyright: ignore[reportReturnType]
        finally:
            self.closed += 1

    async def deliver(self, address: str, request: pb.DeliverRequest, timeout: float, headers: Headers | None) -> None:
        self._next(address, request, timeout)

    async def healthy(self, address: str) -> bool:
        name = address.partition(":")[0]
        self.probed.append(name)
        answers = self.health.get(name)
        return answers.pop(0) if answers else True


class Mesh:
    """Instances of agent "a" that are listed, a scripted transport, and the calls between them."""

    def __init__(self, transport: ScriptedTransport, *, idempotent: bool = False, listed: str | None = None) -> None:
        self.transport = transport
        self.discovery = Discovery(["cp:1"])
        self.idempotent = idempotent
        self.sleeps: list[float] = []
        self.list(*(transport.answers if listed is None else listed))
        self.resolver = Resolver(self.discovery)
        replicas = Replicas(self.resolver, transport.healthy, rng=random.Random(3), sleep=self._sleep)
        self.calls = RemoteCalls(replicas, transport)  # pyright: ignore[reportArgumentType]

    def list(self, *names: str, state: InstanceState = InstanceState.READY) -> None:
        info = (AgentInfo("a", idempotent=self.idempotent),)
        instances = tuple(Instance(name, f"{name}:1", 1, info, state) for name in names)
        self.discovery.directory.apply("cp:1", Update("e", 1, True, instances, (), 10.0))

    async def call(self, target: str = "a", *, state: CallState | None = None, **options: bool) -> Message:
        state = state or ambient.root(60).child(target)
        return await self.calls.call(target, Message("x"), state, CallOptions(**options))

    async def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "READY_TIMEOUT", 0.02)
    return None


OK = Message("fine")


async def test_the_reply_has_the_usage_that_the_call_cost() -> None:
    mesh = Mesh(ScriptedTransport(x=Message("fine", usage=Usage(3, 4, llm_calls=1))))
    above = ambient.root(60)
    reply = await mesh.call(state=above.child("a"))
    assert (reply.payload, reply.usage) == ("fine", Usage(3, 4, llm_calls=1))
    assert above.ledger.usage == Usage(3, 4, llm_calls=1)


@pytest.mark.parametrize("error", [refused, InstanceDraining, Overloaded, not_here])
async def test_a_call_that_was_never_accepted_goes_to_another_instance(error: Callable[..., Exception]) -> None:
    made = error("no") if error in (InstanceDraining, Overloaded) else error()
    for seed in range(8):
        mesh = Mesh(ScriptedTransport(x=made, y=OK))  # pyright: ignore[reportArgumentType]
        mesh.calls.replicas.balancer._rng = random.Random(seed)
        assert (await mesh.call()).payload == "fine"
        assert mesh.transport.asked in (["y"], ["x", "y"])


async def test_a_connection_that_broke_under_a_call_is_tried_again_only_where_that_is_safe() -> None:
    safe = Mesh(ScriptedTransport(x=[broke(), OK], y=[broke(), OK]), idempotent=True)
    assert (await safe.call()).payload == "fine"
    unsafe = Mesh(ScriptedTransport(x=broke(), y=OK, z=OK))
    unsafe.calls.replicas.balancer.load("y").in_flight = unsafe.calls.replicas.balancer.load("z").in_flight = 5
    with pytest.raises(InstanceLost, match="socket closed") as caught:  # noqa: PT012  # what is iterated may raise anywhere
        for _ in range(9):  # the two busy ones may be drawn together
            await unsafe.call()
    assert caught.value.agent_path == ("a",)
    assert unsafe.transport.asked.count("x") == 1


@pytest.mark.parametrize("idempotent", [True, False])
async def test_an_error_that_came_from_an_agent_is_not_tried_again(idempotent: bool) -> None:
    failed = AgentFailed("it raised")
    failed.usage = Usage(5, llm_calls=1)
    mesh = Mesh(ScriptedTransport(x=failed, y=failed), idempotent=idempotent)
    state = ambient.root(60).child("a")
    with pytest.raises(AgentFailed) as caught:
        await mesh.call(state=state)
    assert [state.instance_id] == mesh.transport.asked
    assert caught.value.usage == state.ledger.usage == Usage(5, llm_calls=1)


async def test_the_only_instance_is_asked_again_after_a_pause_when_that_is_safe() -> None:
    mesh = Mesh(ScriptedTransport(x=[broke(), broke(), OK]), idempotent=True)
    assert (await mesh.call()).payload == "fine"
    assert mesh.transport.asked == ["x", "x", "x"]
    assert len(mesh.sleeps) >= 2


async def test_retries_of_what_may_have_been_done_are_few() -> None:
    names = {name: broke() for name in "qrstuvwxyz"}
    mesh = Mesh(ScriptedTransport(**names), idempotent=True)
    with pytest.raises(InstanceLost):
        await mesh.call()
    assert len(mesh.transport.asked) == 1 + MAX_RETRIES
    assert len(set(mesh.transport.asked)) == 1 + MAX_RETRIES
    await mesh.calls.replicas.close()


async def test_when_all_are_overloaded_the_caller_hears_that() -> None:
    mesh = Mesh(ScriptedTransport(x=Overloaded("full", retry_after=0.1), y=Overloaded("full", retry_after=0.1)))
    with pytest.raises(Overloaded) as caught:
        await mesh.call()
    assert sorted(mesh.transport.asked) == ["x", "y"]
    assert caught.value.retry_after == 0.1


async def test_an_instance_that_is_overloaded_is_left_alone_for_as_long_as_it_says() -> None:
    mesh = Mesh(ScriptedTransport(x=Overloaded("full", retry_after=5), y=OK))
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    for _ in range(5):
        assert (await mesh.call()).payload == "fine"
    assert mesh.transport.asked == ["x"] + ["y"] * 5


async def test_when_all_say_that_it_does_not_live_there_it_is_not_found() -> None:
    mesh = Mesh(ScriptedTransport(x=not_here(), y=not_here()))
    with pytest.raises(AgentNotFound):
        await mesh.call()
    assert sorted(mesh.transport.asked) == ["x", "y"]


async def test_when_all_are_draining_the_call_waits_and_ends_unavailable() -> None:
    mesh = Mesh(ScriptedTransport(x=InstanceDraining("going"), y=InstanceDraining("going")))
    with pytest.raises(AgentUnavailable, match=r"no ready instance \(2 listed\); last: going") as caught:
        await mesh.call()
    assert sorted(mesh.transport.asked) == ["x", "y"]
    assert caught.value.fields == {"agent": "a", "listed": 2}


async def test_a_name_that_was_never_seen_is_not_found_and_the_known_ones_are_named() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    with pytest.raises(AgentNotFound, match="no agent named 'b'; known: a") as caught:
        await mesh.call("b")
    assert caught.value.agent_path == ("b",)
    assert mesh.transport.asked == []


async def test_without_any_snapshot_the_registry_is_unavailable() -> None:
    resolver = Resolver(Discovery(["cp:1"]))
    transport = ScriptedTransport()
    calls = RemoteCalls(Replicas(resolver, transport.healthy), transport)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RegistryUnavailable, match="no control plane has answered, so agent 'a' cannot be found"):
        await calls.call("a", Message("x"), ambient.root(60).child("a"), CallOptions())


async def test_a_known_name_without_instances_is_unavailable() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    mesh.list()
    with pytest.raises(AgentUnavailable, match=r"\(0 listed\)"):
        await mesh.call()


async def test_a_call_waits_for_an_instance_that_is_about_to_be_ready() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    mesh.list("x", state=InstanceState.NOT_READY)
    waiting = asyncio.create_task(mesh.call(wait_for_ready=True))
    await asyncio.sleep(0.05)  # longer than a call waits that does not want to
    assert not waiting.done()
    mesh.list("x")
    mesh.resolver.touch()
    assert (await waiting).payload == "fine"


async def test_waiting_for_an_instance_ends_with_the_deadline() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    mesh.list("x", state=InstanceState.DRAINING)
    with pytest.raises(DeadlineExceeded) as caught:
        await mesh.call(state=ambient.root(0.03).child("a"), wait_for_ready=True)
    assert caught.value.agent_path == ("a",)


async def test_a_deadline_that_has_passed_asks_nobody() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    with pytest.raises(DeadlineExceeded):
        await mesh.call(state=ambient.root(-1).child("a"))
    assert mesh.transport.asked == []


async def test_a_spent_retry_budget_gives_the_caller_the_error_at_once() -> None:
    mesh = Mesh(ScriptedTransport(x=InstanceDraining("going"), y=InstanceDraining("going")))
    budget = mesh.calls.replicas.retry_budget("a")
    for _ in range(int(RETRY_CAPACITY)):
        budget.spend()
    with pytest.raises(InstanceDraining):
        await mesh.call()
    assert len(mesh.transport.asked) == 1


async def test_every_attempt_is_a_call_of_its_own_with_what_is_left_of_the_deadline() -> None:
    mesh = Mesh(ScriptedTransport(x=[broke(), OK]), idempotent=True)
    budget = Budget(40_000, Decimal(2))
    state = CallState(asyncio.get_running_loop().time() + 60, 3, ("r", "s", "a"), "talk", Ledger(), budget)
    await mesh.call(state=state)
    first, second = (request.context for request in mesh.transport.requests)
    assert first.call_id != second.call_id
    assert (first.depth, list(first.agent_path), first.session_id) == (2, ["r", "s"], "talk")
    assert (first.grant.tokens, Decimal(first.grant.cost_usd)) == (30_000, Decimal("1.5"))
    assert (second.grant.tokens, Decimal(second.grant.cost_usd)) == (10_000, Decimal("0.375"))
    assert 0 < mesh.transport.timeouts[1] <= mesh.transport.timeouts[0] <= 60
    assert 59_000 < second.timeout_ms <= 60_000


async def test_what_the_callee_did_not_spend_comes_back_when_it_says_what_it_spent() -> None:
    for answer in (Message("x", usage=Usage(30, llm_calls=1)), AgentFailed("no"), refused()):
        if isinstance(answer, AgentFailed):
            answer.usage = Usage(30, llm_calls=1)
        mesh = Mesh(ScriptedTransport(x=answer))
        state = ambient.root(60).child("a")
        state.budget = Budget(100)
        with pytest.raises(AixgoError) if isinstance(answer, Exception) else nullcontext():
            await mesh.call(state=state)
        assert state.budget.left()[0] == (100 if isinstance(answer, TransportFailed) else 70)


async def test_all_that_a_lost_callee_was_granted_is_unsettled_and_counts_as_spent() -> None:
    mesh = Mesh(ScriptedTransport(x=broke()))
    state = ambient.root(60).child("a")
    state.budget = Budget(100, Decimal("0.02"))
    with pytest.raises(InstanceLost) as caught:
        await mesh.call(state=state)
    lost = Usage(incomplete=True, unsettled_tokens=100, unsettled_usd=Decimal("0.02"))
    assert caught.value.usage == state.ledger.usage == lost
    assert state.budget.left() == (0, 0)


async def test_a_retry_after_a_loss_is_paid_by_what_was_kept_back() -> None:
    mesh = Mesh(ScriptedTransport(x=[broke(), Message("r", usage=Usage(40, llm_calls=1))]), idempotent=True)
    state = ambient.root(60).child("a")
    state.budget = Budget(100_000)
    reply = await mesh.call(state=state)
    assert reply.usage == Usage(40, llm_calls=1, incomplete=True, unsettled_tokens=75_000)
    assert state.budget.left()[0] == 24_960


async def test_a_reply_that_cannot_be_read_leaves_its_grant_unsettled() -> None:
    unread = Message("x", usage=Usage(-1, llm_calls=1))
    mesh = Mesh(ScriptedTransport(x=unread))
    state = ambient.root(60).child("a")
    state.budget = Budget(100)
    with pytest.raises(InvalidMessage) as caught:
        await mesh.call(state=state)
    assert caught.value.usage.unsettled_tokens == 100


async def test_load_is_counted_while_a_call_is_out_and_not_after() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    task = asyncio.create_task(mesh.call())
    await asyncio.sleep(0)
    assert mesh.calls.replicas.balancer.load("x").in_flight == 1
    await task
    assert mesh.calls.replicas.balancer.load("x").in_flight == 0


async def test_a_cancelled_call_of_which_nothing_is_heard_is_out_no_more_and_unsettled() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    state = ambient.root(60).child("a")
    state.budget = Budget(100)
    task = asyncio.create_task(mesh.call(state=state))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mesh.calls.replicas.balancer.load("x").in_flight == 0
    assert state.budget.left()[0] == 0
    assert state.ledger.usage == Usage(incomplete=True, unsettled_tokens=100)


async def test_an_ejected_instance_is_probed_until_it_is_healthy_and_gets_calls_again() -> None:
    mesh = Mesh(ScriptedTransport(x=[refused(), OK], y=OK))
    mesh.transport.health["x"] = [False, False, True]
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    await mesh.call()
    assert mesh.transport.asked == ["x", "y"]
    while mesh.calls.replicas.balancer.load("x").ejected:  # noqa: ASYNC110  # nothing announces it
        await asyncio.sleep(0)
    assert mesh.transport.probed == ["x", "x", "x"]
    assert [low <= pause <= 3 * low for low, pause in zip((0.05, 0.1, 0.2), mesh.sleeps, strict=True)] == [True] * 3
    await mesh.call()
    assert mesh.transport.asked[-1] == "x"
    await mesh.calls.replicas.close()


async def test_an_ejected_instance_that_comes_back_elsewhere_is_probed_there() -> None:
    mesh = Mesh(ScriptedTransport(x=refused(), y=OK))
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    await mesh.call()
    info = (AgentInfo("a"),)
    moved = (Instance("x", "z:1", 2, info), Instance("y", "y:1", 1, info))
    mesh.discovery.directory.apply("cp:1", Update("e", 2, True, moved, (), 10.0))
    while mesh.calls.replicas.balancer.load("x").ejected:  # noqa: ASYNC110  # nothing announces it
        await asyncio.sleep(0)
    assert set(mesh.transport.probed) == {"z"}
    await mesh.calls.replicas.close()


async def test_an_ejected_instance_that_is_gone_is_probed_no_more() -> None:
    mesh = Mesh(ScriptedTransport(x=refused(), y=OK))
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    await mesh.call()
    mesh.list("y")
    for _ in range(5):
        await asyncio.sleep(0)
    assert mesh.transport.probed == []
    assert "x" not in mesh.calls.replicas.balancer.loads


async def test_closing_ends_the_probes() -> None:
    before = asyncio.all_tasks()
    mesh = Mesh(ScriptedTransport(x=refused(), y=OK))
    mesh.transport.health["x"] = [False] * 1000
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    await mesh.call()
    await mesh.calls.replicas.close()
    assert asyncio.all_tasks() == before


async def test_names_that_never_were_leave_nothing_behind() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    for number in range(20):
        with pytest.raises(AgentNotFound):
            await mesh.call(f"b{number}")
    await mesh.call()
    assert set(mesh.calls.replicas._retries) == {"a"}


async def test_instances_that_come_and_go_leave_nothing_behind() -> None:
    mesh = Mesh(ScriptedTransport(**{f"i{n}": OK for n in range(20)}))
    for number in range(20):
        mesh.list(f"i{number}")
        await mesh.call()
    assert len(mesh.calls.replicas.balancer.loads) <= 2


# streams


async def events(mesh: Mesh, state: CallState | None = None) -> list[Event]:
    stream = mesh.calls.stream("a", Message("x"), state or ambient.root(60).child("a"), CallOptions())
    return [event async for event in stream]


async def test_a_stream_is_tried_elsewhere_as_long_as_no_event_has_come() -> None:
    for first in (InstanceDraining("going"), refused()):
        mesh = Mesh(ScriptedTransport(x=[first], y=[Delta("d", ("a",)), Result(OK, ("a",))]))
        mesh.calls.replicas.balancer.load("y").in_flight = 1
        assert [type(event) for event in await events(mesh)] == [Delta, Result]
        assert mesh.transport.asked == ["x", "y"]
        await mesh.calls.replicas.close()


async def test_after_the_first_event_nothing_is_tried_again() -> None:
    broken = TransportFailed(StreamBroken("no terminal frame"))
    mesh = Mesh(ScriptedTransport(x=[Delta("d"), broken], y=[Result(OK)]), idempotent=True)
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    with pytest.raises(StreamBroken):
        await events(mesh)
    assert mesh.transport.asked == ["x"]


async def test_a_stream_counts_its_usage_and_returns_the_rest_of_the_grant() -> None:
    mesh = Mesh(ScriptedTransport(x=[Delta("d"), Result(Message("r", usage=Usage(40, llm_calls=1)))]))
    state = ambient.root(60).child("a")
    state.budget = Budget(100)
    last = (await events(mesh, state))[-1]
    assert isinstance(last, Result)
    assert last.message.usage == state.ledger.usage == Usage(40, llm_calls=1)
    assert state.budget.left()[0] == 60


async def test_leaving_a_stream_closes_the_transports_at_once() -> None:
    mesh = Mesh(ScriptedTransport(x=[Delta("1"), Delta("2"), Result(OK)]))
    stream = mesh.calls.stream("a", Message("x"), ambient.root(60).child("a"), CallOptions())
    await anext(stream)
    await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]
    assert mesh.transport.closed == 1
    assert mesh.calls.replicas.balancer.load("x").in_flight == 0


# messages


async def test_a_message_is_sent_again_only_where_it_cannot_have_arrived() -> None:
    mesh = Mesh(ScriptedTransport(x=refused(), y=OK))
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    await mesh.calls.send("a", Message("x"))
    assert mesh.transport.asked == ["x", "y"]
    lost = Mesh(ScriptedTransport(x=broke(), y=broke()), idempotent=True)
    with pytest.raises(InstanceLost):
        await lost.calls.send("a", Message("x"))
    assert len(lost.transport.asked) == 1
    full = Mesh(ScriptedTransport(x=MailboxFull("full"), y=MailboxFull("full")))
    with pytest.raises(MailboxFull):
        await full.calls.send("a", Message("x"))


async def test_a_message_carries_the_path_of_its_sender_and_no_more() -> None:
    mesh = Mesh(ScriptedTransport(x=OK))
    state = CallState(asyncio.get_running_loop().time() + 9, 2, ("r", "s"), "", Ledger(), Budget(5))
    with ambient.entered(state):
        await mesh.calls.send("a", Message("x"))
    context = mesh.transport.requests[0].context
    assert list(context.agent_path) == ["r", "s"]
    assert (context.depth, context.HasField("grant"), context.timeout_ms) == (0, False, 0)
    assert mesh.transport.timeouts[0] <= 9


async def test_a_cancelled_callee_is_typed_and_not_tried_again() -> None:
    mesh = Mesh(ScriptedTransport(x=CallCancelled("stopped there"), y=OK), idempotent=True)
    mesh.calls.replicas.balancer.load("y").in_flight = 1
    with pytest.raises(CallCancelled):
        await mesh.call()
    assert mesh.transport.asked == ["x"]
