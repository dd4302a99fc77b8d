"""A collection on a Qdrant server, over real HTTP: what is asked for, and what its refusals become."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aixgo import errors
from aixgo.call import entered, root
from aixgo.retrieval import qdrant
from aixgo.retrieval.contract import Document
from aixgo.retrieval.index import Index
from aixgo.retrieval.qdrant import Place, QdrantStore
from aixgo.testing import scripted_models
from pydantic import SecretStr
from qdrant_server import QdrantServer, listening


@pytest.fixture
async def server() -> AsyncIterator[QdrantServer]:
    made = QdrantServer()
    async with listening(made.serve) as made.url:
        yield made


@pytest.fixture
async def index(server: QdrantServer) -> AsyncIterator[Index]:
    made = Index(QdrantStore(Place(server.url, "handbook")), scripted_models().embedder("test/words"))
    yield made
    await made.store.close()


async def test_documents_are_indexed_found_replaced_and_removed(
    server: QdrantServer, index: Index, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(qdrant, "_PAGE", 2)
    await index.add([Document(f"d{at}", f"The pump number {at} is red.") for at in range(5)])
    await index.add([Document("d1", "The valve is blue.")])
    assert [one.chunk.source for one in await index.search("blue valve", 1)] == ["d1"]
    assert [one.chunk.source for one in await index.search("blue valve", 1, hybrid=False)] == ["d1"]
    assert sorted(await index.store.digests()) == ["d0", "d1", "d2", "d3", "d4"]
    await index.store.remove(["d1", "d2"])
    assert sorted(await index.store.digests()) == ["d0", "d3", "d4"]
    await index.store.drop()
    with pytest.raises(errors.WrongState, match=f"'handbook' in {server.url} does not exist"):
        await index.search("pump")


async def test_a_collection_has_cosine_vectors_idf_weights_and_an_index_of_sources(server: QdrantServer, index: Index):
    await index.add([Document("a", "words")])
    asked: dict[str, dict[str, Any]] = {f"{method} {path}": body for method, path, body in server.seen}
    made = asked["PUT /collections/handbook"]
    assert made["vectors"]["dense"]["size"] == 1024
    assert made["vectors"]["dense"]["distance"] == "Cosine"
    assert made["sparse_vectors"]["words"]["modifier"] == "idf"
    assert asked["PUT /collections/handbook/index"] == {"field_name": "source", "field_schema": "keyword"}


async def test_a_collection_that_another_replica_made_in_the_meantime_is_used(server: QdrantServer, index: Index):
    await index.add([Document("a", "words")])
    other = Index(QdrantStore(Place(server.url, "handbook")), index.embedder)
    server.refusals = [(200, '{"result": {"exists": false}, "status": "ok", "time": 0}'), (409, "{}")]
    await other.add([Document("b", "words")])
    assert sorted(await index.store.digests()) == ["a", "b"]
    await other.store.close()


async def test_a_collection_of_another_kind_is_refused(server: QdrantServer, index: Index):
    from qdrant_client import models as m

    server.engine.create_collection("handbook", m.VectorParams(size=3, distance=m.Distance.COSINE))
    with pytest.raises(errors.ConfigError, match="was not made by aixgo"):
        await index.search("x")


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
async def test_the_key_is_sent_and_a_wrong_one_is_told_without_it(server: QdrantServer):
    server.key = "right"
    right = QdrantStore(Place(server.url, "handbook", SecretStr("right")))
    await right.prepare("m", 3)
    await right.close()
    wrong = QdrantStore(Place(server.url, "handbook", SecretStr("sk-wrong")))
    with pytest.raises(errors.PermissionDenied, match="QDRANT_API_KEY") as caught:
        await wrong.prepare("m", 3)
    assert "sk-wrong" not in str(caught.value)
    await wrong.close()


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (403, errors.PermissionDenied),
        (404, errors.WrongState),
        (400, errors.InternalError),
        (429, errors.Unavailable),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
    ],
)
async def test_a_refusal_becomes_the_error_of_its_kind(
    server: QdrantServer, index: Index, status: int, cls: type[Exception]
):
    server.refusals = [(status, '{"status": {"error": "no"}}')]
    with pytest.raises(cls) as caught:
        await index.search("x")
    assert type(caught.value) is cls


@pytest.mark.parametrize("login", ["", "ann:hidden-word@"])
async def test_nobody_there_is_unavailable_and_its_address_told_without_a_password(login: str):
    store = QdrantStore(Place(f"http://{login}127.0.0.1:1"))
    with pytest.raises(errors.Unavailable, match=r"http://127\.0\.0\.1:1 cannot be reached") as caught:
        await store.digests()
    assert "hidden-word" not in str(caught.value)
    await store.close()


async def test_a_server_that_does_not_answer_is_given_up_at_the_deadline():
    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(stall) as url:
        store = QdrantStore(Place(url))
        await store._open()
        with entered(root(0.05)), pytest.raises(errors.Unavailable, match="did not answer in time"):
            await store.digests()
        await store.close()


async def test_cancelling_closes_the_request():
    reached, closed = asyncio.Event(), asyncio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        reached.set()
        await reader.read()
        closed.set()

    async with listening(stall) as url:
        store = QdrantStore(Place(url))
        task = asyncio.create_task(store.digests())
        await reached.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with asyncio.timeout(5):
            await closed.wait()
        await store.close()
