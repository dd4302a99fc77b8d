"""An index keeps up with its documents, and finds by meaning and by words. The store is the embedded Qdrant."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aixgo import errors
from aixgo.llm.embeddings import Vector
from aixgo.retrieval import qdrant
from aixgo.retrieval.contract import Document
from aixgo.retrieval.index import Index
from aixgo.retrieval.qdrant import Place, QdrantStore
from aixgo.testing import scripted_models


class Counting:
    """`test/words`, remembering what it embedded; it fails at `failing`."""

    name = "test/words"

    def __init__(self) -> None:
        self._inner = scripted_models().embedder("test/words")
        self.dimensions = self._inner.dimensions
        self.texts: list[str] = []
        self.failing = ""

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        if self.failing and any(self.failing in text for text in texts):
            raise errors.ProviderUnavailable("the vendor is away")
        self.texts += texts
        return await self._inner.embed(texts)


@pytest.fixture
def embedder() -> Counting:
    return Counting()


@pytest.fixture
async def index(embedder: Counting) -> AsyncIterator[Index]:
    made = Index(QdrantStore(Place()), embedder)
    yield made
    await made.store.close()


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    write("docs/leave.md", "Employees have twenty five days of vacation.")
    write("docs/travel.md", "Travel expenses need receipts.")
    return Path("docs")


def write(name: str, text: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)


def remove(name: str) -> None:
    Path(name).unlink()


def digests_elsewhere(store: str) -> str:
    """What a process of its own is told (here, the client library would leave its lock file open)."""
    code = f"""
import asyncio
from aixgo.errors import WrongState
from aixgo.retrieval.qdrant import Place, QdrantStore
try:
    asyncio.run(QdrantStore(Place({store!r})).digests())
except WrongState as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


async def sources(index: Index, query: str, **more: object) -> list[str]:
    return [found.chunk.source for found in await index.search(query, **more)]  # pyright: ignore[reportArgumentType]


async def test_a_folder_is_indexed_and_found(index: Index, docs: Path):
    report = await index.load(docs)
    assert (report.added, report.chunks) == (["docs/leave.md", "docs/travel.md"], 2)
    assert (await sources(index, "how many days of vacation"))[0] == "docs/leave.md"


async def test_only_what_changed_is_embedded_again_and_what_is_gone_is_removed(
    index: Index, embedder: Counting, docs: Path
):
    await index.load(docs)
    embedder.texts.clear()
    write("docs/travel.md", "Trips are paid by card.")
    write("docs/new.md", "The canteen opens at noon.")
    remove("docs/leave.md")
    report = await index.load(docs)
    assert (report.added, report.changed, report.removed) == (["docs/new.md"], ["docs/travel.md"], ["docs/leave.md"])
    assert sorted(embedder.texts) == ["The canteen opens at noon.", "Trips are paid by card."]
    assert set(await sources(index, "receipts vacation canteen", top_k=10)) == {"docs/new.md", "docs/travel.md"}
    assert "Travel expenses need receipts." not in [one.chunk.text for one in await index.search("receipts")]
    again = await index.load(docs)
    assert (again.unchanged, again.chunks) == (["docs/new.md", "docs/travel.md"], 0)


async def test_two_folders_share_a_collection(index: Index, docs: Path):
    write("more/x.md", "Bicycles stand in the basement.")
    await index.load(docs)
    await index.load(Path("more"))
    report = await index.load(docs)
    assert report.removed == []
    assert "more/x.md" in await sources(index, "bicycles")


async def test_a_shorter_document_leaves_no_old_chunks(index: Index):
    await index.add([Document("a", "\n\n".join(f"Paragraph {at} " + "word " * 150 for at in range(5)))])
    assert await index.add([Document("a", "Now short.")]) == 1
    assert [one.chunk.text for one in await index.search("paragraph", top_k=10)] == ["Now short."]


async def test_an_interrupted_load_goes_on_where_it_was(index: Index, embedder: Counting, docs: Path):
    await index.load(docs / "leave.md")
    embedder.failing = "Travel"
    with pytest.raises(errors.ProviderUnavailable):
        await index.load(docs)
    embedder.failing = ""
    report = await index.load(docs)
    assert (report.unchanged, report.added) == (["docs/leave.md"], ["docs/travel.md"])


async def test_a_document_that_was_stored_in_part_is_stored_again(embedder: Counting, monkeypatch: pytest.MonkeyPatch):
    class Dying(QdrantStore):
        upserts = 0

        async def _do(self, method: str, **arguments: Any) -> Any:
            self.upserts += method == "upsert"
            if method == "upsert" and self.upserts == 2:
                raise errors.Unavailable("the process dies here")
            return await super()._do(method, **arguments)

    monkeypatch.setattr(qdrant, "_BATCH", 1)
    index = Index(Dying(Place()), embedder)
    document = Document("a", "\n\n".join(f"Paragraph {at} " + "word " * 150 for at in range(3)))
    with pytest.raises(errors.Unavailable):
        await index.add([document])
    assert await index.store.digests() == {"a": ""}
    assert await index.add([document]) == 3
    assert (await index.store.digests())["a"]
    await index.store.close()


async def test_a_file_that_became_unreadable_is_removed_and_told(index: Index, docs: Path):
    await index.load(docs)
    write("docs/travel.md", "\0\1")
    report = await index.load(docs)
    assert report.removed == ["docs/travel.md"]
    assert [(one.path, one.reason) for one in report.skipped] == [("docs/travel.md", "it is binary")]


async def test_a_rare_word_is_found_by_hybrid_search_and_its_score_is_still_the_cosine():
    index = Index(QdrantStore(Place()), scripted_models().embedder("local/minilm"))
    errors_ = [Document(f"{at}", f"Error code {at}: the controller lost its connection.") for at in range(4720, 4745)]
    await index.add([*errors_, Document("worn", "The seal is worn when it says 4711; see the maintenance plan.")])
    query = "What does error code 4711 of the controller mean?"
    assert "worn" not in await sources(index, query, top_k=3, hybrid=False)
    found = next(one for one in await index.search(query, 3) if one.chunk.source == "worn")
    assert found.keyword_score
    (vector,) = await index.embedder.embed([query])
    (alone,) = await index.store.nearest(vector, 1, [found.chunk.id])
    assert found.score == pytest.approx(alone.score)
    await index.store.close()


async def test_chunks_below_the_least_score_are_left_out(index: Index, docs: Path):
    await index.load(docs)
    assert await sources(index, "days of vacation", min_score=0.3) == ["docs/leave.md"]
    assert await sources(index, "xylophone", min_score=0.3) == []


async def test_a_stored_index_is_there_the_next_time_and_another_model_is_refused(tmp_path: Path, embedder: Counting):
    place = Place(str(tmp_path / "store"))
    first = Index(QdrantStore(place), embedder)
    await first.add([Document("a", "some words")])
    await first.store.close()
    again = QdrantStore(place)
    assert await sources(Index(again, embedder), "words") == ["a"]
    with pytest.raises(errors.ConfigError, match="has vectors of test/words"):
        await Index(again, scripted_models().embedder("local/minilm")).search("words")
    await again.close()


async def test_a_collection_that_goes_while_it_is_used_is_told(index: Index):
    await index.add([Document("a", "some words")])
    await index.search("words")
    await index.store.drop()
    with pytest.raises(errors.WrongState, match="does not exist"):
        await index.store.digests()


async def test_a_failing_document_stops_the_others_and_is_raised_as_it_is(index: Index, embedder: Counting, docs: Path):
    for at in range(6):
        write(f"docs/{at}.md", f"Document {at}.")
    embedder.failing = "Document 1"
    with pytest.raises(errors.ProviderUnavailable):
        await index.load(docs)
    assert "Document 5." not in embedder.texts


async def test_a_collection_that_is_not_there_says_how_to_make_it(index: Index):
    with pytest.raises(errors.WrongState, match="aixgo index"):
        await index.search("x")


async def test_fresh_empties_the_collection_first(index: Index, docs: Path):
    await index.add([Document("elsewhere", "Bicycles")])
    await index.load(docs, fresh=True)
    assert "elsewhere" not in await sources(index, "bicycles", top_k=10)


async def test_an_embedded_store_belongs_to_one_process(tmp_path: Path, embedder: Counting):
    store = str(tmp_path / "store")
    index = Index(QdrantStore(Place(store)), embedder)
    await index.add([Document("a", "some words")])
    told = await asyncio.to_thread(digests_elsewhere, store)
    assert "open in another process" in told
    await index.store.close()


async def test_without_the_package_it_says_how_to_install_it(index: Index, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    monkeypatch.delitem(sys.modules, "qdrant_client.models", raising=False)
    with pytest.raises(errors.ConfigError, match=r"pip install 'aixgo\[rag\]'"):
        await index.search("x")
