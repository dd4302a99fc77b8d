"""What every vendor's file does when a connection stalls, trickles, breaks off, or is not wanted any more."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from aixgo import LocalRuntime, errors
from aixgo.agents.llm import LLMAgent
from aixgo.call import CallState, entered, root
from aixgo.config.spec import AgentSpec
from aixgo.llm.chat import Chat
from aixgo.llm.models import Models
from aixgo.testing import running

from tests.unit.llm.vendor_server import Exchange, VendorServer
from tests.vendors.asking import asked, streamed
from tests.vendors.dialects import Dialect, Said


@pytest.mark.parametrize("stream", [False, True])
async def test_a_vendor_that_stalls_is_left_at_the_deadline_of_the_call(
    server: VendorServer, dialect: Dialect, chat: Chat, stream: bool
):
    closed = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.closed_by_peer()
        closed.set()

    server.handlers = [dialect.answers(Said("warm")), handle]
    await chat.complete(asked())
    state = root(timeout=0.2)
    with entered(state), pytest.raises(errors.ProviderTimeout):
        await (streamed(chat, asked()) if stream else chat.complete(asked()))
    async with asyncio.timeout(30):
        await closed.wait()
    assert state.ledger.usage.llm_calls == 1
    assert state.ledger.usage.incomplete


async def test_a_stream_that_stalls_is_left_at_the_deadline_of_the_call(
    server: VendorServer, dialect: Dialect, chat: Chat
):
    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for event, data in dialect.beginning("Hello"):
            await exchange.send(data, event)
        await exchange.closed_by_peer()

    server.handlers = [dialect.answers(Said("warm")), handle]
    await chat.complete(asked())
    with entered(root(timeout=0.2)), pytest.raises(errors.ProviderTimeout):
        await streamed(chat, asked())


@pytest.mark.parametrize("stream", [False, True])
async def test_a_vendor_that_trickles_is_left_at_the_deadline_of_the_call(
    server: VendorServer, dialect: Dialect, models: Models, stream: bool
):
    """Something always comes before an HTTP library gives up, so that only the call's own deadline ends it."""
    closed = asyncio.Event()

    async def read(runtime: LocalRuntime) -> None:
        async with runtime.stream("a", "hello", timeout=0.3) as events:
            async for _ in events:
                pass

    async def handle(exchange: Exchange) -> None:
        try:
            await _trickle(exchange, dialect, stream=stream)
        except ConnectionError:
            closed.set()

    server.handlers = [dialect.answers(Said("warm")), handle]
    agent = LLMAgent(AgentSpec(name="a", role="llm", model=(dialect.model,)), models=models)
    async with running(agent) as runtime:
        await runtime.call("a", "hello")
        with pytest.raises((errors.DeadlineExceeded, errors.ProviderTimeout)):
            await (read(runtime) if stream else runtime.call("a", "hello", timeout=0.3))
        async with asyncio.timeout(30):
            await closed.wait()


async def _trickle(exchange: Exchange, dialect: Dialect, *, stream: bool) -> None:
    if stream:
        await exchange.begin_stream()
    else:
        exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{")
    events = dialect.beginning("Hello")
    while True:
        for event, data in events if stream else ():
            await exchange.send(data, event)
        events = events[-1:]
        await asyncio.sleep(0.02)
        exchange.writer.write(b"" if stream else b" ")
        await exchange.writer.drain()


async def test_an_answer_that_breaks_off_is_asked_for_again_and_then_one_typed_error(
    server: VendorServer, dialect: Dialect, chat: Chat
):
    cut = dialect.is_cut_off(Said("Hello there"))
    server.handlers = [cut, dialect.answers(Said("whole"))]
    assert (await chat.complete(asked())).text == "whole"
    server.handlers = [cut, cut, cut]
    with pytest.raises(errors.ProviderUnavailable, match="broke off"):
        await chat.complete(asked())
    assert len(server.seen) == 5


@pytest.mark.parametrize("cleanly", [True, False])
async def test_a_stream_that_breaks_off_is_one_typed_error_and_is_counted(
    server: VendorServer, dialect: Dialect, chat: Chat, cleanly: bool
):
    server.handlers = [dialect.breaks_off(cleanly=cleanly)]
    state = root()
    with entered(state):
        chunks = chat.stream(asked())
        assert (await anext(chunks)).text == "Hello"
        with pytest.raises(errors.ProviderUnavailable, match=dialect.model):
            await anext(chunks)
    assert len(server.seen) == 1
    assert state.ledger.usage.llm_calls == 1
    assert state.ledger.usage.incomplete
    assert state.ledger.usage.completion_tokens > 0


async def test_an_error_inside_a_stream_is_one_typed_error(server: VendorServer, dialect: Dialect, chat: Chat):
    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for event, data in dialect.beginning("Hello"):
            await exchange.send(data, event)
        await exchange.send(dialect.error(503, "overloaded"), "error" if dialect.vendor == "anthropic" else "")
        await exchange.end_stream()

    server.handlers = [handle]
    chunks = chat.stream(asked())
    assert (await anext(chunks)).text == "Hello"
    with pytest.raises(errors.ProviderUnavailable, match="overloaded"):
        await anext(chunks)


async def test_garbage_is_one_typed_error(server: VendorServer, dialect: Dialect, chat: Chat):
    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for event, data in dialect.beginning("Hello"):
            await exchange.send(data, event)
        await exchange.send("{no json", "message_delta" if dialect.vendor == "anthropic" else "")
        await exchange.end_stream()

    server.handlers = [handle]
    chunks = chat.stream(asked())
    assert (await anext(chunks)).text == "Hello"
    with pytest.raises(errors.ProviderUnavailable):
        await anext(chunks)


async def test_nobody_there_is_unavailable(dialect: Dialect, server: VendorServer, chat: Chat):
    server.handlers = []  # the server fails and closes the connection
    with pytest.raises(errors.ProviderUnavailable, match=r"cannot be reached, or broke off"):
        await chat.complete(asked())


async def test_cancelling_a_completion_closes_the_http_request(server: VendorServer, dialect: Dialect, chat: Chat):
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        arrived.set()
        await exchange.closed_by_peer()
        closed.set()

    server.handlers = [handle]
    asking = asyncio.create_task(chat.complete(asked()))
    async with asyncio.timeout(30):
        await arrived.wait()
        asking.cancel()
        await closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_cancelling_whoever_waits_for_a_stream_closes_the_http_request(
    server: VendorServer, dialect: Dialect, chat: Chat
):
    begun, closed = asyncio.Event(), asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for event, data in dialect.beginning("Hello"):
            await exchange.send(data, event)
        await exchange.closed_by_peer()
        closed.set()

    async def read() -> None:
        async for _ in chat.stream(asked()):
            begun.set()

    server.handlers = [handle]
    reading = asyncio.create_task(read())
    async with asyncio.timeout(30):
        await begun.wait()
        reading.cancel()
        await closed.wait()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_leaving_a_stream_closes_the_http_request(server: VendorServer, dialect: Dialect, chat: Chat):
    closed = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        await exchange.begin_stream()
        for event, data in dialect.beginning("Hello"):
            await exchange.send(data, event)
        await exchange.closed_by_peer()
        closed.set()

    server.handlers = [handle]
    state: CallState = root()
    with entered(state):
        async with aclosing(chat.stream(asked())) as chunks:  # pyright: ignore[reportArgumentType]
            assert (await anext(chunks)).text == "Hello"
    async with asyncio.timeout(30):
        await closed.wait()
    assert state.ledger.usage.incomplete
