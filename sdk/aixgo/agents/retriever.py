"""The role `retriever`: the chunks of documents that answer a question.

Owns RetrieverAgent, its configuration, and when documents are indexed. Below: `aixgo.retrieval`, `aixgo.llm`. The
pattern RAG puts it before a generator.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, model_validator

from aixgo.agents.base import ReadyAgent, RoleConfig, read_config, reply_to
from aixgo.call import root_entry, set_state
from aixgo.config.spec import AgentSpec
from aixgo.errors import AixgoError, ConfigError, InvalidInput
from aixgo.llm.models import Models
from aixgo.message import Message
from aixgo.retrieval.index import Found, Index, Progress, Report
from aixgo.retrieval.qdrant import MEMORY, Place, QdrantStore
from aixgo.retrieval.splitting import DEFAULT_OVERLAP, DEFAULT_SIZE, MAX_SIZE, MIN_SIZE

log = logging.getLogger(__name__)

DEFAULT_EMBEDDINGS = "local/minilm"
DEFAULT_COLLECTION = "documents"
MAX_TOP_K = 100
MAX_QUERY = 20_000
"""Characters of a query."""


class RetrieverConfig(RoleConfig):
    """`config:` of the role `retriever`."""

    documents: str = Field(default="", description="A folder or file, indexed before the first answer.")
    store: str = Field(default=MEMORY, description="memory, a folder, or the URL of a Qdrant server.")
    api_key: SecretStr | None = Field(default=None, description="The server's key; default: QDRANT_API_KEY.")
    collection: str = Field(
        default=DEFAULT_COLLECTION, pattern=r"^[\w.-]{1,100}$", description="Its name in the store."
    )
    embeddings: str = Field(default=DEFAULT_EMBEDDINGS, description="vendor/model of the embeddings.")
    top_k: int = Field(default=5, ge=1, le=MAX_TOP_K, description="How many chunks a reply has, at most.")
    hybrid: bool = Field(default=True, description="Look for the words of a query too, not only for its meaning.")
    min_score: float | None = Field(default=None, ge=-1, le=1, description="Chunks of a lower score are left out.")
    chunk_size: int = Field(default=DEFAULT_SIZE, ge=MIN_SIZE, le=MAX_SIZE, description="Characters of a chunk.")
    overlap: int = Field(default=DEFAULT_OVERLAP, ge=0, description="Characters that two chunks share.")

    @model_validator(mode="after")
    def _that_fit(self) -> RetrieverConfig:
        if self.overlap > self.chunk_size // 2:
            raise ValueError(f"overlap: at most half of chunk_size ({self.chunk_size // 2}) is possible")
        if self.store == MEMORY and not self.documents:
            raise ValueError("documents: a store in memory begins empty; name a folder, or another store")
        return self


class RetrieverAgent(ReadyAgent):
    """Replies with the chunks that answer a message's text.

    The payload is {"chunks": [{id, text, source, score, metadata}]}, best first. `score` is the cosine similarity of
    chunk and query, -1 to 1, also in hybrid search, where the order is that of the fused rankings and a chunk found by
    its words has `keyword_score` (BM25) too. Metadata: `retrieved`, how many; `embeddings`, the model. The request's
    metadata `top_k` and `min_score` stand above the configuration's.

    With `documents` that folder is indexed before the first answer, once for all callers: it goes on when a caller
    leaves, and is in no caller's budget, deadline or usage; its usage is logged, and each of its spans has it. When it
    fails, the callers that wait get its error, and the next call tries again from where it stopped. For large folders
    run `aixgo index` first.

    Relative paths of `documents` and `store` begin at `folder` (default: the working directory).

    Raises InvalidInput for a query that is empty or too long, WrongState without a collection or when an embedded store
    is open in another process, Unavailable, ProviderError, BudgetExceeded; the constructor ConfigError.
    """

    role = "retriever"
    idempotent = True

    def __init__(self, spec: AgentSpec, *, models: Models | None = None, folder: Path | None = None) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, RetrieverConfig)
        self._folder = folder or Path()
        self.store = QdrantStore(place_of(self.config, self._folder))
        self.index = self._index()
        self._indexing: asyncio.Task[None] | None = None

    async def execute(self, message: Message) -> Message:
        """The chunks for the text of `message`."""
        query = _query(message)
        top_k, min_score = self._wanted(message.metadata)
        await self._indexed()
        found = await self.index.search(query, top_k, hybrid=self.config.hybrid, min_score=min_score)
        return reply_to(message, {"chunks": [_told(one) for one in found]}, self._metadata(found))

    async def load(self, progress: Progress | None = None, *, fresh: bool = False) -> Report:
        """Index the documents of the configuration now, in this call's budget; see `Index.load`."""
        return await self.index.load(Path(self.config.documents), progress, base=self._folder, fresh=fresh)

    async def stop(self) -> None:
        """Stop indexing, and close the store and the models that the agent made itself."""
        task, self._indexing = self._indexing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self.store.close()
        await super().stop()

    def _index(self) -> Index:
        try:
            embedder = self._models.embedder(self.config.embeddings)
        except ConfigError as error:
            raise ConfigError(f"agents.{self.name}.config.embeddings: {error.message}") from error
        return Index(self.store, embedder, self.config.chunk_size, self.config.overlap)

    async def _indexed(self) -> None:
        """Return when the documents are indexed; raises what indexing raised."""
        if not self.config.documents:
            return
        if self._indexing is None or (self._indexing.done() and _failed(self._indexing)):
            self._indexing = asyncio.create_task(self._load_for_all(), name=f"index {self.name}")
            self._indexing.add_done_callback(_failed)  # looks at the error, which nobody may be left to get
        try:
            await asyncio.shield(self._indexing)
        except AixgoError as error:
            raise copy(error) from error  # each caller's own, because the runtime writes on it

    async def _load_for_all(self) -> None:
        state = root_entry(self.name, math.inf, "")
        set_state(state)
        report = await self.load()
        spent = state.ledger.usage
        log.info(
            "%s: %d documents indexed, %d as they were, %d removed, %d skipped; %d tokens, %s",
            self.name,
            len(report.added) + len(report.changed),
            len(report.unchanged),
            len(report.removed),
            len(report.skipped),
            spent.total_tokens,
            "cost unknown" if spent.unpriced_calls else f"{spent.cost_usd or 0} USD",
        )

    def _wanted(self, metadata: Mapping[str, Any]) -> tuple[int, float | None]:
        top_k: Any = metadata.get("top_k", self.config.top_k)
        if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= MAX_TOP_K:
            raise InvalidInput(f"metadata top_k is {top_k!r}; a whole number from 1 to {MAX_TOP_K} is possible")
        least: Any = metadata.get("min_score", self.config.min_score)
        if least is not None and not (isinstance(least, int | float) and -1 <= least <= 1):
            raise InvalidInput(f"metadata min_score is {least!r}; a number from -1 to 1 is possible")
        return top_k, least

    def _metadata(self, found: Sequence[Found]) -> dict[str, Any]:
        return {"retrieved": len(found), "embeddings": self.config.embeddings}


def place_of(config: RetrieverConfig, folder: Path = Path()) -> Place:
    """Where the collection of `config` is; a key that it leaves out is QDRANT_API_KEY of the environment."""
    key = os.environ.get("QDRANT_API_KEY", "")
    place = Place(config.store, config.collection, config.api_key or (SecretStr(key) if key else None))
    return place if place.is_server or config.store == MEMORY else replace(place, store=str(folder / config.store))


def _query(message: Message) -> str:
    query = message.text.strip()
    if not query or len(query) > MAX_QUERY:
        raise InvalidInput(f"the query has {len(query)} characters; 1 to {MAX_QUERY} are possible")
    return query


def _told(found: Found) -> dict[str, Any]:
    chunk = found.chunk
    told: dict[str, Any] = {"id": chunk.id, "text": chunk.text, "source": chunk.source, "score": found.score}
    told["metadata"] = {**chunk.metadata, "position": chunk.position}
    return told if found.keyword_score is None else told | {"keyword_score": found.keyword_score}


def _failed(task: asyncio.Task[None]) -> bool:
    return task.cancelled() or task.exception() is not None
