"""What the gateway writes on the wire for the agent's process, and what it lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from aixgo.errors import CallCancelled, ConfigError, Overloaded, Unavailable, WrongState
from aixgo.mailboxes.contract import Letter
from aixgo.mailboxes.sqlite import SQLiteMailboxes
from aixgo.message import Message
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.usage import Usage
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, AgentServiceStub, add_AgentServiceServicer_to_server
from aixgo.wire.status import abort, from_rpc
from aixgo_services.gateway import ask_gateway, merged, serve_gateway

TIMEOUT = 20.0
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorder(AgentServiceServicer):
    """An agent's process that keeps what it is asked; `upset` is raised instead of an answer."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.headers: list[dict[str, Any]] = []
        self.upset: Any = None
        self.working = asyncio.Event()
        self.hold = False

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:  # noqa: N802
        return pb.DescribeResponse(instance_id="i", agents=[pb.AgentDescriptor(name="a", idempotent=True, ready=True)])

    async def Execute(self, request: pb.ExecuteRequest, context: Any) -> pb.ExecuteResponse:  # noqa: N802
        await self._take(request, context)
        return pb.ExecuteResponse(message=types_pb2.Message(text="done", usage=types_pb2.Usage(prompt_tokens=3)))

    async def ExecuteStream(  # noqa: N802
        self, request: pb.ExecuteStreamRequest, context: Any
    ) -> AsyncIterator[pb.ExecuteStreamResponse]:
        await self._take(request, context)
        yield pb.ExecuteStreamResponse(event=types_pb2.Event(delta=types_pb2.Delta(text="x")))
        # and no terminal frame

    async def Deliver(self, request: pb.DeliverRequest, context: Any) -> pb.DeliverResponse:  # noqa: N802
        await self._take(request, context)
        return pb.DeliverResponse(instance_id="i")

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:  # noqa: N802
        self.requests.append(request)
        return pb.CancelResponse(found=True, usage=types_pb2.Usage(prompt_tokens=5))

    async def _take(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.headers.append(dict(context.invocation_metadata()))
        self.working.set()
        if self.hold:
            await asyncio.Event().wait()
        if self.upset is not None:
            await abort(context, self.upset)


@pytest.fixture
async def behind() -> AsyncIterator[tuple[Recorder, str]]:
    recorder, server = Recorder(), grpc.aio.server()
    add_AgentServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield recorder, f"127.0.0.1:{port}"
    await server.stop(None)


@asynccontextmanager
async def gateway(variables: dict[str, str] | None = None, /, **connect: str) -> AsyncIterator[str]:
    """A gateway to fixed addresses; its own address."""
    stop, up = asyncio.Event(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve_gateway("127.0.0.1:0", connect=connect, variables=variables, ready=up.set_result, stop=stop)
    )
    try:
        yield (await up).address
    finally:
        stop.set()
        await serving


@pytest.fixture
async def stub(behind: tuple[Recorder, str]) -> AsyncIterator[AgentServiceStub]:
    async with gateway(a=behind[1]) as address, grpc.aio.insecure_channel(address) as channel:
        yield AgentServiceStub(channel)


@pytest.fixture
def recorder(behind: tuple[Recorder, str]) -> Recorder:
    return behind[0]


CONTEXT = types_pb2.CallContext(
    call_id="mine",
    timeout_ms=9_000,
    depth=4,
    agent_path=["x", "y", "z", "w"],
    session_id="s",
    grant=types_pb2.Grant(tokens=40_000, cost_usd="0.25"),
    traceparent=TRACE,
    tracestate="k=v",
    baggage="b=1",
)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_goes_on_as_it_came(stub: AgentServiceStub, recorder: Recorder, streaming: bool) -> None:
    message = types_pb2.Message(id="m", json=b'{"a":1}', metadata=b'{"k":2}')
    if streaming:
        call = stub.ExecuteStream(pb.ExecuteStreamRequest(agent="a", message=message, context=CONTEXT), timeout=TIMEOUT)
        await call.read()
    else:
        await stub.Execute(pb.ExecuteRequest(agent="a", message=message, context=CONTEXT), timeout=TIMEOUT)
    (got,) = recorder.requests
    assert (got.agent, got.message) == ("a", message)
    assert (got.context.depth, list(got.context.agent_path)) == (4, ["x", "y", "z", "w"])
    assert (got.context.session_id, got.context.grant) == ("s", CONTEXT.grant)
    assert (got.context.traceparent, got.context.tracestate, got.context.baggage) == (TRACE, "k=v", "b=1")
    assert 5_000 < got.context.timeout_ms < 9_000
    assert got.context.call_id
    assert recorder.headers[0]["traceparent"] == TRACE


async def test_the_trace_in_the_headers_of_other_tools_goes_on(stub: AgentServiceStub, recorder: Recorder) -> None:
    await stub.Execute(pb.ExecuteRequest(agent="a"), timeout=TIMEOUT, metadata=(("traceparent", TRACE),))
    assert recorder.requests[0].context.traceparent == TRACE


async def test_a_call_that_inherits_nothing_stays_a_root(stub: AgentServiceStub, recorder: Recorder) -> None:
    answer = await stub.Execute(pb.ExecuteRequest(agent="a"), timeout=TIMEOUT)
    (got,) = recorder.requests
    assert (got.context.depth, list(got.context.agent_path), got.context.HasField("grant")) == (0, [], False)
    assert (answer.message.text, answer.message.usage.prompt_tokens) == ("done", 3)


async def test_a_message_goes_on_with_sender_session_and_trace(
    stub: AgentServiceStub, behind: tuple[Recorder, str]
) -> None:
    recorder, address = behind
    context = types_pb2.CallContext(session_id="s", agent_path=["x"], traceparent=TRACE)
    request = pb.DeliverRequest(agent="a", message=types_pb2.Message(id="m", text="hi"), context=context)
    answer = await stub.Deliver(request, timeout=TIMEOUT)
    (got,) = recorder.requests
    assert (got.message.id, got.message.text, got.message.session_id) == ("m", "hi", "s")
    assert (list(got.context.agent_path), got.context.traceparent) == (["x"], TRACE)
    assert answer.instance_id == f"a@{address}"


async def test_a_refusal_stays_a_refusal_with_its_hint(stub: AgentServiceStub, recorder: Recorder) -> None:
    recorder.upset = Overloaded("full", retry_after=2.0, fields={"limit": 7})
    recorder.upset.accepted = False
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Execute(pb.ExecuteRequest(agent="a"), timeout=TIMEOUT)
    error = from_rpc(caught.value)
    assert isinstance(error, Overloaded)
    assert (error.accepted, error.retry_after, error.fields) == (False, 2.0, {"limit": 7})


async def test_an_error_keeps_its_usage_and_where_it_was_raised(stub: AgentServiceStub, recorder: Recorder) -> None:
    recorder.upset = Unavailable("gone")
    recorder.upset.usage, recorder.upset.agent_path = Usage(11, 2, llm_calls=1), ("a", "deep", "down")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Execute(pb.ExecuteRequest(agent="a"), timeout=TIMEOUT)
    error = from_rpc(caught.value)
    assert error is not None
    assert (type(error), error.usage, error.agent_path) == (
        Unavailable,
        Usage(11, 2, llm_calls=1),
        ("a", "deep", "down"),
    )


async def test_a_stream_that_breaks_off_behind_the_gateway_ends_with_one_error_frame(stub: AgentServiceStub) -> None:
    kinds: list[str | None] = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:  # noqa: PT012  # the loop is what raises
        async for frame in stub.ExecuteStream(pb.ExecuteStreamRequest(agent="a"), timeout=TIMEOUT):
            kinds.append(frame.WhichOneof("frame"))
    assert kinds == ["event", "error"]
    assert type(from_rpc(caught.value)).__name__ == "StreamBroken"


async def test_cancel_goes_on_under_the_id_of_the_call_behind(stub: AgentServiceStub, recorder: Recorder) -> None:
    recorder.hold = True
    request = pb.ExecuteRequest(agent="a", context=types_pb2.CallContext(call_id="mine"))
    call = asyncio.ensure_future(stub.Execute(request, timeout=TIMEOUT))
    await recorder.working.wait()
    answer = await stub.Cancel(pb.CancelRequest(call_id="mine"), timeout=TIMEOUT)
    execute, cancel = recorder.requests
    assert cancel.call_id == execute.context.call_id != "mine"
    assert (answer.found, answer.usage.prompt_tokens) == (True, 5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert isinstance(from_rpc(caught.value), CallCancelled)


async def test_a_gateway_says_whom_it_serves(behind: tuple[Recorder, str]) -> None:
    async with gateway(a=behind[1]) as address:
        told = await ask_gateway(address, TIMEOUT)
        assert ([agent.name for agent in told.agents], told.address) == (["a"], address)


async def test_where_no_gateway_answers_the_error_says_how_to_start_one() -> None:
    with pytest.raises(Unavailable, match=r"no gateway answered at 127\.0\.0\.1:1; start one \(aixgo gateway\)"):
        await ask_gateway("127.0.0.1:1", 0.2)


@pytest.mark.parametrize(("listen", "kind"), [("nowhere", ConfigError), ("127.0.0.1:{port}", WrongState)])
async def test_an_address_that_cannot_be_bound_is_a_clear_error(
    behind: tuple[Recorder, str], listen: str, kind: type[Exception]
) -> None:
    taken = listen.replace("{port}", behind[1].rpartition(":")[2])
    with pytest.raises(kind, match="cannot listen"):
        await serve_gateway(taken, ready=lambda _: None, stop=asyncio.Event())


def instance(number: int, *agents: AgentInfo, state: InstanceState = InstanceState.READY) -> Instance:
    return Instance(str(number), f"box:{number}", 1, agents, state)


def test_an_agent_of_several_instances_is_listed_once_and_ready_when_one_is() -> None:
    told = merged(
        [
            instance(1, AgentInfo("b", ready=False), AgentInfo("a", "llm")),
            instance(2, AgentInfo("b")),
            instance(3, AgentInfo("a"), state=InstanceState.DRAINING),
        ]
    )
    assert [(agent.name, agent.role, agent.ready) for agent in told] == [("a", "llm", True), ("b", "custom", True)]


def test_an_agent_is_idempotent_only_when_all_its_instances_are() -> None:
    one, other = AgentInfo("a", idempotent=True), AgentInfo("a")
    assert merged([instance(1, one), instance(2, one)])[0].idempotent
    assert not merged([instance(1, one), instance(2, other)])[0].idempotent


def test_an_agent_is_not_ready_when_no_instance_takes_calls() -> None:
    draining = instance(1, AgentInfo("a"), state=InstanceState.DRAINING)
    assert not merged([draining, instance(2, AgentInfo("a", ready=False))])[0].ready


async def test_a_message_to_a_mailbox_that_lasts_is_put_there_though_no_agent_runs(tmp_path: Path) -> None:
    agents = SQLiteMailboxes(tmp_path / "mail.db")
    agents.add("a")
    await agents.put("a", Letter(Message("first")), TIMEOUT)  # the agent has run, and has a mailbox
    nowhere, settings = "127.0.0.1:1", {"AIXGO_MAILBOX": f"sqlite:///{tmp_path}/mail.db"}
    async with gateway(settings, a=nowhere, b=nowhere) as address, grpc.aio.insecure_channel(address) as channel:
        stub = AgentServiceStub(channel)
        context = types_pb2.CallContext(session_id="s", agent_path=["x"], traceparent=TRACE)
        request = pb.DeliverRequest(agent="a", message=types_pb2.Message(id="m", text="hi"), context=context)
        await stub.Deliver(request, timeout=TIMEOUT)
        with pytest.raises(grpc.aio.AioRpcError):  # it has none, and nobody is there
            await stub.Deliver(pb.DeliverRequest(agent="b"), timeout=TIMEOUT)
    async with aclosing(agents.receive("a")) as received:
        for expected in ("first", "hi"):
            delivery = await anext(received)
            async with delivery as message:
                assert message.text == expected
    await agents.close()
    assert (message.id, message.session_id, delivery.sender) == ("m", "s", ("x",))
