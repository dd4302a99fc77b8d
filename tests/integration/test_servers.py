"""What a server and a runtime do over a real port: limits, fixed addresses, ports in use, traces."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from aixgo import Agent, AgentServer, DistributedRuntime, Message, agent
from aixgo.errors import AgentNotFound, AgentUnavailable, ConfigError, MessageTooLarge, Overloaded, WrongState
from aixgo.server.server import ServerLimits
from aixgo_controlplane.main import run_control_plane
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.contract.agents import blows_up, echo
from tests.contract.failures import OutOfStock
from tests.contract.requirements import promise
from tests.support import Process, start_registry

BOUND = 20.0


class Gate(Agent):
    """Holds its calls until the test opens it."""

    name = "gate"

    def __init__(self) -> None:
        self.shut()

    def shut(self) -> None:
        """Begin anew."""
        self.entered, self.open = asyncio.Event(), asyncio.Event()

    async def execute(self, message: Message) -> Message:
        self.entered.set()
        await self.open.wait()
        return message


@asynccontextmanager
async def served(*agents: Agent, limits: ServerLimits | None = None) -> AsyncGenerator[DistributedRuntime]:
    """A runtime that calls these agents over a port, by fixed addresses."""
    async with DistributedRuntime() as own:
        for one in agents:
            own.register(one)
        async with AgentServer(own, limits=limits) as server:
            addresses = {one.name: server.address for one in agents}
            async with DistributedRuntime(connect=addresses) as runtime:
                yield runtime


@promise("agents.connect")
async def test_fixed_addresses_need_no_control_plane(host: Process) -> None:
    async with DistributedRuntime(connect={"upper": host.address, "sold-out": host.address}) as runtime:
        assert runtime.list_agents() == ["sold-out", "upper"]
        assert (await runtime.call("upper", "x", timeout=BOUND)).payload == "X"
        with pytest.raises(OutOfStock) as caught:
            await runtime.call("sold-out", "pears", timeout=BOUND)
        assert caught.value.item == "pears"


@promise("agents.connect")
async def test_a_connection_can_be_made_and_undone_while_the_runtime_runs(host: Process) -> None:
    async with DistributedRuntime() as runtime:
        with pytest.raises(AgentNotFound):
            await runtime.call("upper", "x", timeout=BOUND)
        await runtime.connect("upper", host.address)
        assert (await runtime.call("upper", "x", timeout=BOUND)).payload == "X"
        await runtime.disconnect("upper")
        with pytest.raises(AgentNotFound):
            await runtime.call("upper", "x", timeout=BOUND)


@promise("agents.connect", "call.unknown")
async def test_an_address_where_the_agent_does_not_live_says_who_lives_there(host: Process) -> None:
    async with DistributedRuntime(connect={"nobody": host.address}) as runtime:
        with pytest.raises(AgentNotFound, match=r"lives here; here: .*upper"):
            await runtime.call("nobody", "x", timeout=BOUND)


@promise("agents.register")
async def test_a_distributed_runtime_must_be_entered_before_it_calls_others() -> None:
    with pytest.raises(WrongState, match="async with"):
        await DistributedRuntime(connect={"upper": "127.0.0.1:1"}).call("upper", "x")


@promise("fleet.overloaded")
async def test_an_instance_refuses_more_calls_than_it_may_have() -> None:
    gate = Gate()
    async with served(gate, limits=ServerLimits(max_concurrent_calls=1)) as runtime:
        first = asyncio.create_task(runtime.call("gate", "first", timeout=BOUND))
        await asyncio.wait_for(gate.entered.wait(), BOUND)
        with pytest.raises(Overloaded) as caught:
            await runtime.call("gate", "second", timeout=BOUND)
        assert caught.value.fields["limit"] == 1
        assert caught.value.retry_after is not None
        gate.open.set()
        assert (await first).payload == "first"
        assert (await runtime.call("gate", "third", timeout=BOUND)).payload == "third"


@promise("fleet.refused")
async def test_a_call_that_one_instance_refuses_is_taken_by_another() -> None:
    """Two instances with room for one call each, and two callers that know nothing of one another's calls."""
    limits = ServerLimits(max_concurrent_calls=1)
    with start_registry() as registry:
        at = [registry.wait_ready().address]
        gates = Gate(), Gate()
        async with AsyncExitStack() as stack:
            for gate in gates:
                own = await stack.enter_async_context(DistributedRuntime())
                own.register(gate)
                server = await stack.enter_async_context(AgentServer(own, control_plane=at, limits=limits))
                assert await server.registered(BOUND)
            callers = [await stack.enter_async_context(DistributedRuntime(control_plane=at)) for _ in gates]
            for _ in range(8):
                calls = [asyncio.create_task(caller.call("gate", "x", timeout=BOUND)) for caller in callers]
                for gate in gates:
                    await asyncio.wait_for(gate.entered.wait(), BOUND)
                for gate in gates:
                    gate.open.set()
                await asyncio.gather(*calls)
                for gate in gates:
                    gate.shut()


@promise("fleet.drain")
async def test_a_drain_waits_for_the_calls_that_run_and_refuses_new_ones() -> None:
    gate = Gate()
    async with DistributedRuntime() as own:
        own.register(gate)
        server = AgentServer(own)
        async with server, DistributedRuntime(connect={"gate": server.address}) as runtime:
            running = asyncio.create_task(runtime.call("gate", "in time", timeout=BOUND))
            await asyncio.wait_for(gate.entered.wait(), BOUND)
            draining = asyncio.create_task(server.drain())
            with pytest.raises(AgentUnavailable, match="draining"):
                await runtime.call("gate", "too late", timeout=BOUND)
            gate.open.set()
            assert (await running).payload == "in time"
            await asyncio.wait_for(draining, BOUND)


@promise("wire.too_large")
async def test_what_is_too_large_only_as_json_is_a_typed_error() -> None:
    async with served(echo, limits=ServerLimits(max_message_bytes=100_000)) as runtime:
        with pytest.raises(MessageTooLarge, match="max_message_bytes"):
            await runtime.call("echo", ["x" * 1_000] * 1_000, timeout=BOUND)
        assert (await runtime.call("echo", ["x"], timeout=BOUND)).payload == ["x"]


@promise("wire.too_large")
async def test_json_over_the_caller_s_own_limit_is_a_typed_error_too() -> None:
    async with served(echo) as runtime:
        with pytest.raises(MessageTooLarge, match="max_message_bytes"):
            await runtime.call("echo", ["x" * 1_000] * 5_000, timeout=BOUND)


@promise("wire.too_large")
async def test_a_reply_over_the_limit_is_a_typed_error() -> None:
    async with served(blows_up) as runtime:
        with pytest.raises(MessageTooLarge):
            await runtime.call("blows_up", str(5 * 1024 * 1024), timeout=BOUND)
        assert (await runtime.call("blows_up", "3", timeout=BOUND)).payload == b"xxx"


@promise("wire.port")
async def test_a_port_in_use_is_a_typed_error_with_the_fix() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(WrongState, match=r"in use.*choose another port"):
            async with AgentServer(DistributedRuntime(), listen=address):
                pass
        with pytest.raises(WrongState, match="in use"):
            await run_control_plane(address, stop=asyncio.Event())


@promise("wire.port")
@pytest.mark.parametrize("listen", ["", "50051", "host", "127.0.0.1:", "127.0.0.1:99999"])
async def test_an_address_that_cannot_be_listened_on_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        async with AgentServer(DistributedRuntime(), listen=listen):
            pass


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What this process traces; its provider is gone after the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def trace_of(span: ReadableSpan) -> int:
    """The id of a span's trace."""
    assert span.context is not None
    return span.context.trace_id


def span_named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return found


@promise("wire.trace")
async def test_the_trace_of_the_caller_goes_on_in_the_callee(spans: InMemorySpanExporter) -> None:
    @agent
    async def traced(message: Message) -> str:
        with trace.get_tracer("test").start_as_current_span("inside"):
            return "done"

    async with served(traced) as runtime:
        with trace.get_tracer("test").start_as_current_span("outside") as outside:
            await runtime.call("traced", "x", timeout=BOUND)
            async with runtime.stream("traced", "x", timeout=BOUND) as events:
                async for _ in events:
                    pass
    inside = [span for span in spans.get_finished_spans() if span.name == "inside"]
    assert len(inside) == 2
    assert {trace_of(span) for span in inside} == {outside.get_span_context().trace_id}


@promise("wire.trace", "messages.new_tree")
async def test_a_message_starts_a_trace_that_links_to_the_sender_s(spans: InMemorySpanExporter) -> None:
    class Receiver(Agent):
        name = "receiver"

        def __init__(self) -> None:
            self.got = asyncio.Event()

        async def execute(self, message: Message) -> Message:
            return message

        async def start(self) -> None:
            async for delivery in self.runtime.recv():
                async with delivery:
                    pass
                self.got.set()

    receiver = Receiver()
    async with served(receiver) as runtime:
        with trace.get_tracer("test").start_as_current_span("outside") as outside:
            await runtime.send("receiver", "x")
        await asyncio.wait_for(receiver.got.wait(), BOUND)
    processed = span_named(spans, "process receiver")
    assert trace_of(processed) != outside.get_span_context().trace_id
    assert [link.context.trace_id for link in processed.links] == [outside.get_span_context().trace_id]
