"""What retrieval is about: documents, their chunks, and the store that finds chunks again.

Owns the records and the contract of a vector store; no I/O. `qdrant.py` implements the store, `index.py` puts an
embedder and a store together. Below: the core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID, uuid5

from aixgo.message import to_json

_CHUNK_IDS = UUID("6f1f3f5e-6c1b-5d55-9d0a-3b1f0c8a7c11")


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it comes from. `source` names it in the index: a second document of that name replaces it."""

    source: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document. `position` counts the chunks of one document from 0."""

    id: str
    text: str
    source: str
    position: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, document: Document, position: int, text: str) -> Chunk:
        """A chunk of `document`. The id is made of source, position and text: the same on every machine."""
        id_ = uuid5(_CHUNK_IDS, to_json([document.source, position, text]).decode())
        return cls(str(id_), text, document.source, position, document.metadata)


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. `score` says how near it is to the query; its meaning is the search's."""

    chunk: Chunk
    score: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A chunk as it is stored: with its vector, the model that made it, and its words' weights by their numbers."""

    chunk: Chunk
    model: str
    vector: Sequence[float]
    words: Mapping[int, float]


class VectorStore(Protocol):
    """Where the chunks of one collection are kept. Every method raises Unavailable when the store cannot be reached."""

    async def prepare(self, model: str, dimensions: int) -> None:
        """Make the collection for vectors of `model`, unless it is there.

        Raises ConfigError when it holds vectors of another model or length.
        """
        ...

    async def check(self, model: str) -> None:
        """Raise WrongState when there is no collection, ConfigError when it holds vectors of another model."""
        ...

    async def digests(self) -> Mapping[str, str]:
        """The documents that are stored completely: source -> digest. Others, begun and never finished, have ""."""
        ...

    async def replace(self, source: str, digest: str, entries: Sequence[Entry]) -> None:
        """Store the chunks of a document, and remove those of its earlier versions afterwards."""
        ...

    async def remove(self, sources: Sequence[str]) -> None:
        """Remove all chunks of these documents."""
        ...

    async def nearest(self, vector: Sequence[float], limit: int, ids: Sequence[str] | None = None) -> Sequence[Hit]:
        """The chunks (of `ids`) nearest to `vector`, best first; the score is the cosine of the angle, -1 to 1."""
        ...

    async def matching(self, words: Mapping[int, float], limit: int) -> Sequence[Hit]:
        """The chunks that share words with the query, best first; the score is BM25's, above 0 and without an end."""
        ...

    async def drop(self) -> None:
        """Remove the collection with all it has; nothing when there is none."""
        ...

    async def close(self) -> None:
        """Close connections and files."""
        ...
