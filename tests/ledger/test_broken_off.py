"""A request that is broken off at a vendor may be charged for: what it may have taken is unsettled, at every vendor.

Over the vendors' official SDKs, against a server that speaks their wire formats.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
from aixgo import Usage, errors
from aixgo.call import entered, root
from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.metering import estimate_prompt
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.vendors import VendorLimits
from pydantic import SecretStr

from tests.unit.llm.vendor_server import Exchange, Handler, VendorServer
from tests.vendors.dialects import DIALECTS, Dialect, Said

ASKED = CompletionRequest((ChatMessage("user", "hello there"),), max_tokens=50)
MOST = estimate_prompt(ASKED) + ASKED.max_tokens

each_vendor = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)


@asynccontextmanager
async def chatting(dialect: Dialect, *handlers: Handler, listens: bool = True) -> AsyncGenerator[Chat]:
    """The model of a vendor that answers so, and is asked once."""
    server = VendorServer(list(handlers))
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        if not listens:
            listening.close()
        once = {dialect.vendor: VendorLimits(max_tries=1)}
        settings = ModelSettings({dialect.vendor: SecretStr("sk-0")}, {dialect.vendor: url}, limits=once)
        models = Models(settings)
        try:
            yield models.chat([dialect.model])
        finally:
            await models.close()


async def spent_on(chat: Chat, *, timeout: float = 30.0) -> tuple[Usage, errors.ProviderError]:
    """What one completion took that fails."""
    state = root(timeout)
    with entered(state), pytest.raises(errors.ProviderError) as caught:
        await chat.complete(ASKED)
    return state.ledger.usage, caught.value


async def drops(exchange: Exchange) -> None:
    """End the connection without a word."""
    exchange.writer.close()


async def breaks(exchange: Exchange) -> None:
    """End it within the answer."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{")
    await exchange.writer.drain()
    exchange.writer.close()


async def stalls(exchange: Exchange) -> None:
    """Wait until the client gives up."""
    await exchange.closed_by_peer()


@each_vendor
@pytest.mark.parametrize("breaking", [drops, breaks])
async def test_a_completion_whose_connection_is_lost_may_have_taken_all_that_it_asked_for(
    dialect: Dialect, breaking: Handler
) -> None:
    async with chatting(dialect, breaking) as chat:
        spent, error = await spent_on(chat)
    assert isinstance(error, errors.ProviderUnavailable)
    assert (spent.llm_calls, spent.total_tokens, spent.incomplete, spent.unsettled_tokens) == (1, 0, True, MOST)


@each_vendor
async def test_a_stream_that_ends_before_it_said_anything_may_have_taken_all_that_it_asked_for(
    dialect: Dialect,
) -> None:
    async def ends(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 0\r\n\r\n")
        await exchange.writer.drain()

    state = root(30.0)
    async with chatting(dialect, ends) as chat:
        with entered(state), pytest.raises(errors.ProviderUnavailable, match="before the answer was complete"):
            async for _ in chat.stream(ASKED):
                pass
    spent = state.ledger.usage
    assert (spent.llm_calls, spent.total_tokens, spent.incomplete, spent.unsettled_tokens) == (1, 0, True, MOST)


@each_vendor
async def test_a_completion_that_is_left_at_the_deadline_may_have_taken_all_that_it_asked_for(dialect: Dialect) -> None:
    async with chatting(dialect, dialect.answers(Said("warm")), stalls) as chat:
        await chat.complete(ASKED)
        spent, error = await spent_on(chat, timeout=0.2)
    assert isinstance(error, errors.ProviderTimeout)
    assert (spent.total_tokens, spent.incomplete, spent.unsettled_tokens) == (0, True, MOST)


@each_vendor
async def test_a_request_that_never_left_and_one_that_was_refused_cost_nothing(dialect: Dialect) -> None:
    async def refuses(exchange: Exchange) -> None:
        await exchange.answer(500, {"error": {"message": "no"}})

    async with chatting(dialect, listens=False) as chat:
        unreachable, _ = await spent_on(chat)
    async with chatting(dialect, refuses) as chat:
        refused, _ = await spent_on(chat)
    for spent in (unreachable, refused):
        assert (spent.llm_calls, spent.held_tokens, spent.incomplete) == (1, 0, False)
