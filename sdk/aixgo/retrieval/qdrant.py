"""Qdrant as the vector store: embedded in this process (in memory, or in a folder), or a server by URL.

Owns the connection, the layout of a collection and the mapping of errors. One API serves both: the embedded one is
the client library itself, which blocks and must not be entered twice, so it runs in one thread of its own. It compares
a query with every chunk: right up to some 20,000 chunks, a server beyond. Above: `index.py`.

A point is a chunk: its vector `dense`, the weights of its words `words` (the store multiplies them with the inverse
document frequency), and a payload with what the chunk says, the model of its vector, and the digest and number of
chunks of its document.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from aixgo.call import remaining
from aixgo.errors import AixgoError, ConfigError, InternalError, PermissionDenied, Unavailable, WrongState
from aixgo.retrieval.contract import Chunk, Entry, Hit

DENSE, WORDS = "dense", "words"
MEMORY = "memory"
_TIMEOUT = 60.0
_BATCH = 128
_PAGE = 1000
_CUT = 300
_CONFLICT, _NOT_FOUND = 409, 404


@dataclass(frozen=True, slots=True)
class Place:
    """Where a collection is: `memory`, a folder, or the http(s) URL of a server, which may want a key."""

    store: str = MEMORY
    collection: str = "documents"
    api_key: SecretStr | None = None

    @property
    def shown(self) -> str:
        """The store as it may be told: without the user and the password that a URL may hold."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.store) if self.is_server else self.store

    @property
    def is_server(self) -> bool:
        """Whether the store is a server, and not embedded."""
        return self.store.startswith(("http://", "https://"))


class QdrantStore:
    """A VectorStore. Nothing is opened before it is first used."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._client: Any = None
        self._opening = asyncio.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._checked = ""

    async def prepare(self, model: str, dimensions: int) -> None:
        """See VectorStore."""
        if not await self._exists():
            await self._create(dimensions)
        await self._check(model, dimensions)

    async def check(self, model: str) -> None:
        """See VectorStore. Once it was right it is not asked again: that would be three requests before each search."""
        if model == self._checked:
            return
        if not await self._exists():
            raise WrongState(
                f"{self._where} does not exist; give the retriever `documents`, or make it with: aixgo index"
            )
        await self._check(model, None)

    async def digests(self) -> Mapping[str, str]:
        """See VectorStore."""
        seen: Counter[tuple[str, str, int]] = Counter()
        async for payload in self._payloads(["source", "digest", "chunks"]):
            seen[payload["source"], payload["digest"], payload["chunks"]] += 1
        found: dict[str, str] = {}
        for (source, digest, chunks), count in seen.items():
            # Chunks of two versions are what an interrupted replacement leaves behind.
            found[source] = digest if count == chunks and source not in found else ""
        return found

    async def replace(self, source: str, digest: str, entries: Sequence[Entry]) -> None:
        """See VectorStore."""
        await self._open()
        models = _models()
        for at in range(0, len(entries), _BATCH):
            points = [_point(models, one, digest, len(entries)) for one in entries[at : at + _BATCH]]
            await self._do("upsert", points=points, wait=True)
        same = models.FieldCondition(key="source", match=models.MatchValue(value=source))
        kept = models.HasIdCondition(has_id=[entry.chunk.id for entry in entries])
        older = models.FilterSelector(filter=models.Filter(must=[same], must_not=[kept]))
        await self._do("delete", points_selector=older, wait=True)

    async def remove(self, sources: Sequence[str]) -> None:
        """See VectorStore."""
        await self._open()
        models = _models()
        for at in range(0, len(sources), _BATCH):
            some = models.MatchAny(any=list(sources[at : at + _BATCH]))
            theirs = models.Filter(must=[models.FieldCondition(key="source", match=some)])
            await self._do("delete", points_selector=models.FilterSelector(filter=theirs), wait=True)

    async def nearest(self, vector: Sequence[float], limit: int, ids: Sequence[str] | None = None) -> Sequence[Hit]:
        """See VectorStore."""
        await self._open()
        models = _models()
        among = None if ids is None else models.Filter(must=[models.HasIdCondition(has_id=list(ids))])
        return await self._query(list(vector), DENSE, limit, among)

    async def matching(self, words: Mapping[int, float], limit: int) -> Sequence[Hit]:
        """See VectorStore."""
        await self._open()
        return await self._query(_sparse(_models(), words), WORDS, limit, None) if words else ()

    async def drop(self) -> None:
        """See VectorStore."""
        self._checked = ""
        if await self._exists():
            await self._do("delete_collection")

    async def close(self) -> None:
        """See VectorStore."""
        client, self._client = self._client, None
        thread, self._thread = self._thread, None
        if client is None:
            return
        if thread is None:
            await client.close()
        else:
            await asyncio.get_running_loop().run_in_executor(thread, client.close)
            thread.shutdown(wait=False)

    @property
    def _where(self) -> str:
        return f"the collection {self._place.collection!r} in {self._place.shown}"

    async def _exists(self) -> bool:
        return bool(await self._do("collection_exists"))

    async def _create(self, dimensions: int) -> None:
        models = _models()
        dense = {DENSE: models.VectorParams(size=dimensions, distance=models.Distance.COSINE)}
        words = {WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)}
        try:
            await self._do("create_collection", vectors_config=dense, sparse_vectors_config=words)
        except _Conflict:  # another replica was faster
            return
        if self._place.is_server:  # embedded there are no such indexes
            await self._do("create_payload_index", field_name="source", field_schema="keyword", wait=True)

    async def _check(self, model: str, dimensions: int | None) -> None:
        params = (await self._do("get_collection")).config.params
        dense: Any = params.vectors
        if not isinstance(dense, dict) or DENSE not in dense or WORDS not in (params.sparse_vectors or ()):
            raise ConfigError(f"{self._where} was not made by aixgo; name another one")
        size = cast("dict[str, Any]", dense)[DENSE].size
        made_by = [payload.get("model") async for payload in self._payloads(["model"], limit=1)]
        wrong = dimensions is not None and size != dimensions
        if wrong or (made_by and made_by[0] != model):
            raise ConfigError(
                f"{self._where} has vectors of {made_by[0] if made_by else 'another model'} (length {size}), and"
                f" {model} is asked for; use that model, another collection, or `aixgo index --fresh` to replace it"
            )
        # An empty collection is anybody's, so it says nothing of the next time.
        self._checked = model if made_by else ""

    async def _payloads(self, keys: Sequence[str], limit: int | None = None) -> AsyncIterator[Mapping[str, Any]]:
        offset: Any = None
        while True:
            size = limit or _PAGE
            points, offset = await self._do("scroll", limit=size, offset=offset, with_payload=list(keys))
            for point in points:
                yield point.payload
            if offset is None or limit is not None:
                return

    async def _query(self, query: Any, using: str, limit: int, among: Any) -> Sequence[Hit]:
        wanted = {"query": query, "using": using, "limit": limit, "query_filter": among, "with_payload": True}
        found = await self._do("query_points", **wanted)
        return [Hit(_chunk(str(point.id), point.payload), float(point.score)) for point in found.points]

    async def _do(self, method: str, **arguments: Any) -> Any:
        """Call the client library, in the thread of the embedded one; its errors become ours."""
        client = await self._open()
        call = partial(getattr(client, method), self._place.collection, **arguments)
        try:
            if self._thread is not None:
                return await asyncio.get_running_loop().run_in_executor(self._thread, call)
            left = remaining()
            async with asyncio.timeout(_TIMEOUT if left is None else min(left, _TIMEOUT)):
                return await call()
        except TimeoutError as error:
            raise Unavailable(f"{self._place.shown} did not answer in time") from error
        except (ValueError, *_library_errors()) as error:
            raise self._failed(error) from error

    async def _open(self) -> Any:
        async with self._opening:
            if self._client is None:
                library = await asyncio.to_thread(_import)  # a second
                if self._place.is_server:
                    self._client = self._connect(library)
                else:
                    self._thread = ThreadPoolExecutor(1, thread_name_prefix="qdrant")
                    loop = asyncio.get_running_loop()
                    self._client = await loop.run_in_executor(self._thread, self._embed, library)
        return self._client

    def _connect(self, library: Any) -> Any:
        key = self._place.api_key
        # A proxy from the environment is never meant for a server on this machine.
        local = urlsplit(self._place.store).hostname in ("localhost", "127.0.0.1", "::1")
        return library.AsyncQdrantClient(
            url=self._place.store,
            api_key=key.get_secret_value() if key is not None and key.get_secret_value() else None,
            timeout=int(_TIMEOUT),
            check_compatibility=False,
            trust_env=not local,
        )

    def _embed(self, library: Any) -> Any:
        if self._place.store == MEMORY:
            return library.QdrantClient(":memory:")
        try:
            return library.QdrantClient(path=self._place.store)
        except RuntimeError as error:
            raise WrongState(
                f"the store {self._place.store} is open in another process, and an embedded one belongs to one; run"
                " a Qdrant server and give its URL as `store`, or stop the other process"
            ) from error
        except OSError as error:
            raise ConfigError(f"the store {self._place.store} cannot be opened: {error.strerror}") from error

    def _failed(self, error: Exception) -> AixgoError:
        status: int | None = getattr(error, "status_code", None)
        told = _told(error, self._place.api_key)
        if status in (401, 403):
            return PermissionDenied(f"{self._place.shown} refuses the key ({status}); set QDRANT_API_KEY: {told}")
        if status == _CONFLICT:
            return _Conflict(f"{self._where} exists: {told}")
        if status == _NOT_FOUND or (isinstance(error, ValueError) and "not found" in told):  # the embedded one's way
            return WrongState(f"{self._where} does not exist: {told}")
        if isinstance(error, ValueError):
            return InternalError(f"{self._where} cannot do that: {told}")
        if status is None or status >= 500 or status == 429:
            return Unavailable(f"the Qdrant server {self._place.shown} cannot be reached: {told}")
        return InternalError(f"the Qdrant server {self._place.shown} answers {status}: {told}")


class _Conflict(WrongState):
    """The collection was made by someone else in the meantime."""


def _import() -> Any:
    try:
        importlib.import_module("qdrant_client.models")
        return importlib.import_module("qdrant_client")
    except ImportError as error:
        raise ConfigError(
            "retrieval needs the qdrant-client package; install it with: pip install 'aixgo[rag]'"
        ) from error


def _models() -> Any:
    return importlib.import_module("qdrant_client.models")


def _library_errors() -> tuple[type[Exception], ...]:
    """What the client library raises when a server refuses or cannot be reached."""
    raised = importlib.import_module("qdrant_client.http.exceptions")
    common = importlib.import_module("qdrant_client.common.client_exceptions")
    return raised.ApiException, common.QdrantException


def _told(error: Exception, key: SecretStr | None) -> str:
    text = " ".join(str(error).split())
    if key is not None and key.get_secret_value():
        text = text.replace(key.get_secret_value(), "***")
    return text[:_CUT]


def _sparse(models: Any, words: Mapping[int, float]) -> Any:
    return models.SparseVector(indices=list(words), values=list(words.values()))


def _point(models: Any, entry: Entry, digest: str, chunks: int) -> Any:
    chunk = entry.chunk
    payload = {"text": chunk.text, "source": chunk.source, "position": chunk.position, "metadata": dict(chunk.metadata)}
    payload |= {"digest": digest, "chunks": chunks, "model": entry.model}
    vectors = {DENSE: list(entry.vector), WORDS: _sparse(models, entry.words)}
    return models.PointStruct(id=chunk.id, vector=vectors, payload=payload)


def _chunk(id_: str, payload: Mapping[str, Any]) -> Chunk:
    return Chunk(id_, payload["text"], payload["source"], payload["position"], payload["metadata"])
