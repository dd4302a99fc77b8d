"""What every vendor's file with embeddings does, whatever the vendor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aixgo import errors
from aixgo.call import Budget, CallState, entered, root
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.embeddings import MAX_TEXTS
from aixgo.llm.limits import VendorLimits
from aixgo.llm.models import Models, ModelSettings
from aixgo.usage import NO_USAGE, Usage
from pydantic import SecretStr

from tests.unit.llm.vendor_server import Exchange, VendorServer
from tests.vendors.conftest import KEY, Clock
from tests.vendors.dialects import DIALECTS, Dialect

EMBEDDING = [each for each in DIALECTS if each.embeds]


@pytest.fixture(params=EMBEDDING, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


def call(tokens: int | None = None) -> CallState:
    state = root()
    state.budget = Budget(tokens)
    return state


def tokens(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.llm_calls


async def test_each_text_has_a_vector_in_their_order_and_the_tokens_are_counted(
    server: VendorServer, dialect: Dialect, models: Models
):
    server.handlers = [dialect.embeds_as((1.0, 0.0), (0.0, 1.0))]
    embedder = models.embedder(dialect.model)
    with entered(state := call()):
        vectors = await embedder.embed(["tea", "a cup"])
    assert [list(one) for one in vectors] == [[1.0, 0.0], [0.0, 1.0]]
    assert embedder.dimensions == 2
    assert tokens(state.ledger.usage) == (10, 0, 1)
    assert not state.ledger.usage.incomplete
    assert dialect.embedded(server.seen[0].body) == ["tea", "a cup"]
    assert dialect.key_of(server.seen[0]) == (KEY if dialect.keyed else "none")


async def test_many_texts_go_in_batches(server: VendorServer, dialect: Dialect, models: Models):
    server.handlers = [dialect.embeds_as(*[(1.0,)] * MAX_TEXTS), dialect.embeds_as((2.0,))]
    with entered(state := call()):
        vectors = await models.embedder(dialect.model).embed([f"text {at}" for at in range(MAX_TEXTS + 1)])
    assert [list(one) for one in vectors] == [[1.0]] * MAX_TEXTS + [[2.0]]
    assert [len(dialect.embedded(exchange.body)) for exchange in server.seen] == [MAX_TEXTS, 1]
    assert tokens(state.ledger.usage) == (20, 0, 2)


async def test_429_is_waited_for_and_a_failure_that_passes_is_not_seen(
    server: VendorServer, dialect: Dialect, models: Models, clock: Clock
):
    server.handlers = [
        dialect.refuses(429, "slow down", retry_after="7"),
        dialect.refuses(500, "oops"),
        dialect.embeds_as((1.0,)),
    ]
    with entered(state := call()):
        await models.embedder(dialect.model).embed(["tea"])
    first, second = clock.naps
    assert 7 <= first < 8
    assert second <= 1
    assert tokens(state.ledger.usage) == (10, 0, 3)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.ProviderRejected),
        (401, errors.ProviderDenied),
        (404, errors.ProviderRejected),
        (429, errors.RateLimited),
        (503, errors.ProviderUnavailable),
    ],
)
async def test_a_status_becomes_the_error_of_its_kind(
    server: VendorServer, dialect: Dialect, models: Models, status: int, kind: type[Exception]
):
    server.handlers = [dialect.refuses(status, f"no {KEY}") for _ in range(3)]
    with pytest.raises(kind, match=f"{dialect.model} at .* answers {status}: no ") as caught:
        await models.embedder(dialect.model).embed(["tea"])
    assert type(caught.value) is kind
    assert KEY not in str(caught.value) or not dialect.keyed
    assert len(server.seen) == (3 if status == 429 or status >= 500 else 1)


@pytest.mark.parametrize("by", ["deadline", "cancellation"])
async def test_the_deadline_and_a_cancellation_close_the_http_request_and_leave_it_unsettled(
    server: VendorServer, dialect: Dialect, models: Models, by: str
):
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        arrived.set()
        await exchange.closed_by_peer()
        closed.set()

    server.handlers = [dialect.embeds_as((1.0,)), handle]
    embedder = models.embedder(dialect.model)
    await embedder.embed(["warm"])
    state = root(timeout=0.2) if by == "deadline" else root()
    with entered(state):
        asking = asyncio.create_task(embedder.embed(["x" * 40]))
    async with asyncio.timeout(30):
        await arrived.wait()
        if by == "cancellation":
            asking.cancel()
        await closed.wait()
    with pytest.raises(errors.ProviderTimeout if by == "deadline" else asyncio.CancelledError):
        await asking
    assert (state.ledger.usage.llm_calls, state.ledger.usage.unsettled_tokens) == (1, 10)
    assert state.ledger.usage.incomplete


async def test_what_does_not_fit_the_budget_is_not_sent(server: VendorServer, dialect: Dialect, models: Models):
    with entered(call(tokens=9)), pytest.raises(errors.BudgetExceeded):
        await models.embedder(dialect.model).embed(["x" * 40])
    assert server.seen == []


async def test_an_answer_without_vectors_is_one_typed_error(server: VendorServer, dialect: Dialect, models: Models):
    server.handlers = [dialect.embeds_as()]
    with pytest.raises(errors.ProviderError, match="0 vectors"):
        await models.embedder(dialect.model).embed(["tea"])


@pytest.fixture
async def narrow(dialect: Dialect, server: VendorServer, clock: Clock) -> AsyncIterator[Models]:
    """One request at a time at the vendor."""
    url = ModelSettings.from_environment({dialect.url_variable: server.url}).urls[dialect.vendor]
    limits = {dialect.vendor: VendorLimits(max_concurrency=1)}
    keys = {dialect.vendor: SecretStr(KEY)}
    made = Models(ModelSettings(keys, urls={dialect.vendor: url}, limits=limits), sleep=clock.sleep)
    yield made
    await made.close()


async def test_completions_and_embeddings_of_a_vendor_share_its_limits(
    server: VendorServer, dialect: Dialect, narrow: Models
):
    arrived = asyncio.Event()

    async def handle(exchange: Exchange) -> None:
        arrived.set()
        await exchange.closed_by_peer()

    server.handlers = [handle]
    request = CompletionRequest((ChatMessage("user", "hello"),))
    asking = asyncio.create_task(narrow.chat([dialect.model]).complete(request))
    async with asyncio.timeout(30):
        await arrived.wait()
    with entered(state := root(timeout=0.1)), pytest.raises(errors.ProviderTimeout, match="_MAX_CONCURRENCY"):
        await narrow.embedder(dialect.model).embed(["tea"])
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(server.seen) == 1
    assert state.ledger.usage == NO_USAGE
