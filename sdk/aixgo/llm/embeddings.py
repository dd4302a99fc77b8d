"""Embeddings: texts as vectors whose nearness is nearness of meaning.

Owns the contract of an embedder, its metering, and the scripted `test/words`. A vendor's file implements
EmbeddingClient and only maps; MeteredEmbedder makes an Embedder of it: it cuts the texts into batches, and every try of
a batch is one metered call, with its span, held to the budget and written into the ledger exactly once, like a
completion (`metering.py`, `retrying.py`). Above: `models.py`, retrieval, and the agents that compare texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from types import MappingProxyType
from typing import Protocol

from aixgo.call import current
from aixgo.errors import InvalidInput, ProviderError
from aixgo.llm.metering import Account, broken_off, estimate_tokens
from aixgo.llm.pricing import Prices
from aixgo.llm.provider_names import provider_name
from aixgo.llm.retrying import Tries
from aixgo.telemetry.llm import operation
from aixgo.telemetry.spans import Span
from aixgo.usage import NO_USAGE, Usage

MAX_TEXTS = 100
"""Texts of one request, which is what Gemini takes. OpenAI takes 2,048; smaller batches lose less when one fails."""
MAX_TOKENS = 100_000
"""Estimated tokens of one request. OpenAI takes 300,000, and estimates may be half of what it counts."""
TIMEOUT = 60.0
"""Seconds of one request at a vendor, at most: nothing is generated, so what takes longer has gone wrong."""
WORDS_DIMENSIONS = 1024
"""Length of the vectors of `test/words`."""

_WORD = re.compile(r"\w+")

Vector = Sequence[float]


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a vendor answered: one vector a text, in their order, and the tokens that it took, if known."""

    vectors: Sequence[Vector]
    model: str
    usage: Usage = NO_USAGE


class EmbeddingClient(Protocol):
    """What a vendor's file writes: one request of at most MAX_TEXTS texts, none of them empty.

    It honours cancellation and raises ProviderError and its subclasses. `models` are the only ones that there are, with
    the length of their vectors; empty: the vendor knows.
    """

    vendor: str
    models: Mapping[str, int]

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of `texts`."""
        ...

    async def close(self) -> None:
        """Close connections and let go of what was loaded."""
        ...


class Embedder(Protocol):
    """What agents hold: texts in, vectors out, metered."""

    name: str
    """`vendor/model`. Vectors of different models cannot be compared."""

    @property
    def dimensions(self) -> int | None:
        """The length of every vector; for models of vendors None until the first was made."""
        ...

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """One vector for each text, in their order.

        Raises InvalidInput for an empty text, BudgetExceeded, ProviderError, and ConfigError when a package is missing.
        """
        ...


class MeteredEmbedder:
    """An Embedder around a vendor's client; `prices` are looked up for every batch, and `tries` ask for it again."""

    def __init__(self, client: EmbeddingClient, model: str, prices: Prices, tries: Tries | None = None) -> None:
        self.name = f"{client.vendor}/{model}"
        self._client = client
        self._model = model
        self._prices = prices
        self._tries = tries
        self._dimensions = client.models.get(model)

    @property
    def dimensions(self) -> int | None:
        """See Embedder."""
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """See Embedder. When a later batch fails, those before it stay counted."""
        for at, text in enumerate(texts):
            if not text.strip():
                raise InvalidInput(f"text {at} of {len(texts)} is empty and has no embedding; leave it out")
        vectors: list[Vector] = []
        for batch in batches(texts):
            vectors += await self._delivered(batch)
        return vectors

    async def _delivered(self, texts: Sequence[str]) -> Sequence[Vector]:
        return await (self._tries.run(lambda: self._embed(texts)) if self._tries else self._embed(texts))

    async def _embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        account = Account(await self._prices.look_up(self._client.vendor, self._model))
        estimate = Usage(prompt_tokens=sum(map(estimate_tokens, texts)))
        account.reserve(estimate)
        with operation(f"embeddings {self._model}", self._attributes()) as live:
            try:
                answer = await self._client.embed(self._model, texts)
            except BaseException as error:
                spent = error.usage if isinstance(error, ProviderError) else NO_USAGE
                if spent == NO_USAGE and broken_off(error):
                    spent = account.at_most(spent, estimate.prompt_tokens, 0)
                account.record(spent, live)
                raise
            account.record(_incomplete(estimate) if answer.usage == NO_USAGE else answer.usage, live)
            return self._checked(answer, len(texts), live)

    def _checked(self, answer: Embedded, wanted: int, live: Span) -> Sequence[Vector]:
        lengths = {len(vector) for vector in answer.vectors}
        expected = {self._dimensions} if self._dimensions else lengths
        if len(answer.vectors) != wanted or len(lengths) != 1 or lengths != expected or lengths == {0}:
            raise ProviderError(
                f"{self.name} answers {len(answer.vectors)} vectors of length {sorted(lengths)} for {wanted} texts;"
                f" {wanted} of {self._dimensions or 'one'} length are wanted: is it a model of embeddings?"
            )
        self._dimensions = lengths.pop()
        live.set("gen_ai.embeddings.dimension.count", self._dimensions)
        live.set("gen_ai.response.model", answer.model)
        return answer.vectors

    def _attributes(self) -> dict[str, str | None]:
        state = current()
        return {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": provider_name(self._client.vendor),
            "gen_ai.request.model": self._model,
            "gen_ai.agent.name": state.path[-1] if state and state.path else None,
        }


def batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """`texts` in runs of at most MAX_TEXTS texts and about MAX_TOKENS tokens; a longer text is alone in its run."""
    run: list[str] = []
    tokens = 0
    for text in texts:
        more = estimate_tokens(text)
        if run and (len(run) == MAX_TEXTS or tokens + more > MAX_TOKENS):
            yield run
            run, tokens = [], 0
        run.append(text)
        tokens += more
    if run:
        yield run


class WordsClient:
    """The vendor `test`: `test/words` hashes the words of a text into a vector of length 1.

    Texts are as near as they have words in common: deterministic on every machine, and right enough for tests.
    """

    vendor = "test"
    models: Mapping[str, int] = MappingProxyType({"words": WORDS_DIMENSIONS})

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors, at once; a word costs a token."""
        words = [_WORD.findall(text.lower()) for text in texts]
        return Embedded([_hashed(one) for one in words], model, Usage(prompt_tokens=max(1, sum(map(len, words)))))

    async def close(self) -> None:
        """Nothing is held."""


def _hashed(words: Sequence[str]) -> Vector:
    """Counts of words at hashed places ("feature hashing", Weinberger et al. 2009), of length 1."""
    counts = [0.0] * WORDS_DIMENSIONS
    for word in words or ("",):
        digest = int.from_bytes(blake2b(word.encode(), digest_size=8).digest())
        counts[digest % WORDS_DIMENSIONS] += 1.0
    length = math.hypot(*counts)
    return [count / length for count in counts]


def _incomplete(estimate: Usage) -> Usage:
    return Usage(prompt_tokens=estimate.prompt_tokens, incomplete=True)
