"""The index: documents go in as chunks, questions come out with the chunks that answer them.

Owns keeping a collection equal to its documents (what has not changed is not embedded again, what is gone is removed)
and the search by meaning, by words, or both. Puts an embedder and a vector store together. Above: the role
`retriever` and `aixgo index`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aixgo.llm.embeddings import MAX_TEXTS, Embedder
from aixgo.message import to_json
from aixgo.retrieval.contract import Chunk, Document, Entry, Hit, VectorStore
from aixgo.retrieval.fusion import fuse
from aixgo.retrieval.keywords import chunk_weights, query_weights
from aixgo.retrieval.loading import Listing, Skipped, Source, Unreadable, list_files, read
from aixgo.retrieval.splitting import DEFAULT_OVERLAP, DEFAULT_SIZE, check_sizes, split
from aixgo.telemetry.spans import span

log = logging.getLogger(__name__)

CANDIDATES = 4
"""How many times `top_k` each of the two searches looks for before they are fused."""

AT_ONCE = 4
"""Documents that are read and embedded at the same time; many have one chunk, and a vendor takes its time for each."""
LEAST_SHARE = 0.5
"""The share of the best keyword hit's score that another must have to be fused: fusion looks at ranks alone, so a chunk
that has only a common word of the query would count as much as one that is near in meaning."""

Progress = Callable[[int, int, str], None]
"""Told how many documents are done, of how many, and which comes next."""


@dataclass(slots=True)
class Report:
    """What indexing did. All but `chunks` are names of documents; `chunks` counts those that were embedded."""

    added: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])
    unchanged: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])
    skipped: list[Skipped] = field(default_factory=list[Skipped])
    chunks: int = 0

    def sort(self) -> None:
        """Put the names in order, which several documents at once have left to chance."""
        for names in (self.added, self.changed, self.unchanged, self.removed):
            names.sort()
        self.skipped.sort(key=lambda one: one.path)


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk for a query. `score` is the cosine similarity of the two, -1 to 1, in every kind of search.

    `keyword_score` is BM25's, above 0; None when the chunk was not found by its words.
    """

    chunk: Chunk
    score: float
    keyword_score: float | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """One collection. `chunk_size` and `overlap` are in characters; changing them embeds everything again."""

    store: VectorStore
    embedder: Embedder
    chunk_size: int = DEFAULT_SIZE
    overlap: int = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        check_sizes(self.chunk_size, self.overlap)

    async def load(
        self, place: Path, progress: Progress | None = None, *, base: Path = Path(), fresh: bool = False
    ) -> Report:
        """Make the collection equal to the documents at `place`, a folder or a file; other documents in it stay.

        A relative place is looked for in `base`, and named in the index as it was given. With `fresh` the collection is
        emptied first. Interrupted, it goes on where it was the next time. Raises ConfigError, LimitExceeded,
        ProviderError, BudgetExceeded, Unavailable.
        """
        listing = await asyncio.to_thread(list_files, place, base)
        report = Report(skipped=list(listing.skipped))
        attributes = {"retrieval.place": listing.scope, "retrieval.embeddings": self.embedder.name}
        with span("index", attributes) as live:
            await self._ready(fresh=fresh)
            known = await self.store.digests()
            for at in range(0, len(listing.sources), AT_ONCE):
                some = listing.sources[at : at + AT_ONCE]
                _tell(progress, at, listing, some[0])
                await _all([self._load(source, known.get(source.name), report) for source in some])
            _tell(progress, len(listing.sources), listing, None)
            await self._forget(listing, known, report)
            report.sort()
            live.set("retrieval.documents", len(listing.sources))
            live.set("retrieval.chunks", report.chunks)
        for one in report.skipped:
            log.warning("%s is not indexed: %s", one.path, one.reason)
        return report

    async def add(self, documents: Iterable[Document]) -> int:
        """Store documents, in place of those of the same source; returns how many chunks they have."""
        await self._ready(fresh=False)
        return sum([await self._store(document, self._digest(document)) for document in documents])

    async def search(
        self, query: str, top_k: int = 5, *, hybrid: bool = True, min_score: float | None = None
    ) -> Sequence[Found]:
        """The chunks for `query`, best first, at most `top_k`.

        By meaning alone they are in the order of their score; `hybrid` also looks for the query's words and fuses the
        two rankings (`fuse`), so a chunk with a rare word of the query comes up even when its score is low. Chunks
        whose score is below `min_score` are left out either way. Raises WrongState when there is no collection.
        """
        with span("retrieve", {"retrieval.top_k": top_k, "retrieval.hybrid": hybrid}) as live:
            await self.store.check(self.embedder.name)
            (vector,) = await self.embedder.embed([query])
            if hybrid:
                found = await self._hybrid(query, vector, top_k)
            else:
                found = [Found(hit.chunk, hit.score) for hit in await self.store.nearest(vector, top_k)]
            kept = [one for one in found if min_score is None or one.score >= min_score][:top_k]
            live.set("retrieval.found", len(kept))
            return kept

    async def _hybrid(self, query: str, vector: Sequence[float], top_k: int) -> Sequence[Found]:
        wide = top_k * CANDIDATES
        near = await self.store.nearest(vector, wide)
        worded = _clear(await self.store.matching(query_weights(query), wide))
        hits = {hit.chunk.id: hit for hit in (*worded, *near)}
        cosines = {hit.chunk.id: hit.score for hit in near}
        order = [id_ for id_, _ in fuse([[hit.chunk.id for hit in near], [hit.chunk.id for hit in worded]])][:wide]
        if missing := [id_ for id_ in order if id_ not in cosines]:
            cosines |= _scores(await self.store.nearest(vector, len(missing), missing))
        words = _scores(worded)
        return [Found(hits[id_].chunk, cosines.get(id_, 0.0), words.get(id_)) for id_ in order]

    async def _ready(self, *, fresh: bool) -> None:
        if fresh:
            await self.store.drop()
        dimensions = self.embedder.dimensions
        if dimensions is None:
            (vector,) = await self.embedder.embed(["dimensions"])
            dimensions = len(vector)
        await self.store.prepare(self.embedder.name, dimensions)

    async def _load(self, source: Source, known: str | None, report: Report) -> None:
        try:
            document = await asyncio.to_thread(read, source)
        except Unreadable as error:
            report.skipped.append(Skipped(source.name, str(error)))
            if known is not None:
                await self.store.remove([source.name])
                report.removed.append(source.name)
            return
        digest = self._digest(document)
        if digest == known:
            report.unchanged.append(source.name)
            return
        stored = await self._store(document, digest)
        report.chunks += stored  # not in one: others add to it while this one waits
        (report.added if known is None else report.changed).append(source.name)

    async def _store(self, document: Document, digest: str) -> int:
        texts = await asyncio.to_thread(split, document.text, self.chunk_size, self.overlap)
        entries: list[Entry] = []
        for at in range(0, len(texts), MAX_TEXTS):
            some = texts[at : at + MAX_TEXTS]
            for position, (text, vector) in enumerate(zip(some, await self.embedder.embed(some), strict=True), at):
                chunk = Chunk.of(document, position, text)
                entries.append(Entry(chunk, self.embedder.name, vector, chunk_weights(text)))
        await self.store.replace(document.source, digest, entries)
        return len(entries)

    async def _forget(self, listing: Listing, known: Mapping[str, str], report: Report) -> None:
        names = {source.name for source in listing.sources}
        gone = [name for name in known if listing.covers(name) and name not in names]
        if gone:
            await self.store.remove(gone)
            report.removed += gone

    def _digest(self, document: Document) -> str:
        made_of = [document.text, document.metadata, self.chunk_size, self.overlap]
        return hashlib.sha256(to_json(made_of)).hexdigest()


async def _all(loading: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; when one fails the others are cancelled, and its error is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in loading]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _clear(hits: Sequence[Hit]) -> Sequence[Hit]:
    """The hits, best first, up to where they fall below LEAST_SHARE of the best."""
    return [hit for hit in hits if hit.score >= LEAST_SHARE * hits[0].score]


def _scores(hits: Sequence[Hit]) -> dict[str, float]:
    return {hit.chunk.id: hit.score for hit in hits}


def _tell(progress: Progress | None, done: int, listing: Listing, next_: Source | None) -> None:
    if progress is not None:
        progress(done, len(listing.sources), next_.name if next_ else "")
