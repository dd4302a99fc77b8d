"""Fallback chains, `model: [a, b]`, over every vendor's wire format."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo import errors
from aixgo.call import entered, root
from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.models import Models

from tests.unit.llm.vendor_server import VendorServer
from tests.vendors.conftest import Clock
from tests.vendors.dialects import Dialect, Said

ASKED = CompletionRequest((ChatMessage("user", "hello"),))


@pytest.fixture
def chain(models: Models, dialect: Dialect) -> Chat:
    """The vendor's model, and after it one that always answers."""
    return models.chat([dialect.model, "test/echo"])


async def said(chain: Chat, *, stream: bool) -> str:
    if not stream:
        return (await chain.complete(ASKED)).text
    return "".join([chunk.text async for chunk in chain.stream(ASKED)])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "tries"), [(500, 3), (429, 3), (401, 1)])
async def test_the_next_model_answers_when_one_has_failed_for_good(
    server: VendorServer, dialect: Dialect, chain: Chat, clock: Clock, status: int, tries: int, stream: bool
):
    server.handlers = [dialect.refuses(status, "no") for _ in range(tries)]
    state = root()
    with entered(state):
        assert await said(chain, stream=stream) == "hello"
    assert len(server.seen) == tries
    assert len(clock.naps) == tries - 1
    assert state.ledger.usage.llm_calls == tries + 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_model_is_not_asked_what_one_answers(
    server: VendorServer, dialect: Dialect, chain: Chat, stream: bool
):
    server.handlers = [dialect.answers(Said("from the vendor"))]
    assert await said(chain, stream=stream) == "from the vendor"


@pytest.mark.parametrize("stream", [False, True])
async def test_what_one_vendor_rejects_is_not_asked_of_the_next(
    server: VendorServer, dialect: Dialect, chain: Chat, stream: bool
):
    server.handlers = [dialect.refuses(400, "the prompt is too long")]
    with pytest.raises(errors.ProviderRejected, match="too long"):
        await said(chain, stream=stream)


async def test_once_a_stream_has_begun_no_other_model_goes_on_with_it(
    server: VendorServer, dialect: Dialect, chain: Chat
):
    server.handlers = [dialect.breaks_off(cleanly=False)]
    chunks = chain.stream(ASKED)
    assert (await anext(chunks)).text == "Hello"
    with pytest.raises(errors.ProviderUnavailable):
        await anext(chunks)


async def test_a_chain_of_one_vendors_models_asks_for_each_by_name(
    server: VendorServer, dialect: Dialect, models: Models
):
    chain = models.chat([dialect.model, f"{dialect.vendor}/model-2"])
    server.handlers = [dialect.refuses(403, "not for you"), dialect.answers(Said("from the second"))]
    assert await said(chain, stream=False) == "from the second"
    named: list[Any] = [exchange.body.get("model") or exchange.path for exchange in server.seen]
    assert ["model-1" in one for one in named] == [True, False]
    assert "model-2" in named[1]
