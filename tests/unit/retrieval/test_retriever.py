"""The role `retriever`, over the embedded store and with the bundled embeddings."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from aixgo import errors
from aixgo.agents.retriever import RetrieverAgent, RetrieverConfig, place_of
from aixgo.call import Budget, entered, root
from aixgo.config.spec import AgentSpec
from aixgo.message import Message
from aixgo.retrieval.index import Index
from aixgo.testing import running, scripted_models

HANDBOOK = {
    "leave.md": "Employees accrue 25 days of paid vacation each year; unused days expire at the end of March.",
    "travel.md": "Travel expenses are reimbursed within two weeks when receipts are uploaded to the finance portal.",
    "vpn.md": "The VPN client must be updated every quarter. Ask the service desk if the tunnel stays down.",
    "sick.md": "Sick leave longer than three days requires a doctor's certificate sent to human resources.",
    "laptops.md": "New laptops are ordered by the team lead and delivered within five working days.",
    "canteen.md": "The canteen serves lunch from 11:30 to 14:00; vegetarian dishes are available daily.",
    "security.md": "Security incidents are reported immediately to the on-call officer by telephone.",
    "invoices.md": "Invoices above 10,000 euros need the signature of two managers before payment.",
    "visitors.md": "Visitors sign in at the reception and wear a badge at all times.",
}


@pytest.fixture
def handbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook").mkdir()
    for name, text in HANDBOOK.items():
        (tmp_path / "handbook" / name).write_text(text)


def retriever(**config: Any) -> RetrieverAgent:
    wanted = {"documents": "handbook", "embeddings": "test/words"} | config
    return RetrieverAgent(AgentSpec(name="finder", role="retriever", config=wanted), models=scripted_models())


def move(one: str, other: str) -> None:
    Path(one).rename(other)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def ask(agent: RetrieverAgent, text: str, **metadata: Any) -> list[dict[str, Any]]:
    async with running(agent) as runtime:
        reply = await runtime.call("finder", Message(text, metadata))
    assert isinstance(reply.payload, dict)
    return reply.payload["chunks"]


@pytest.mark.parametrize("hybrid", [True, False])
async def test_paraphrased_questions_find_their_document_by_the_bundled_embeddings(handbook: None, hybrid: bool):
    questions = {
        "How many holidays do I get?": "leave.md",
        "When do I get my money back for a business trip?": "travel.md",
        "I cannot connect to the company network from home": "vpn.md",
        "Do I need a note if I have the flu for a week?": "sick.md",
        "How do I get a new computer?": "laptops.md",
        "Where can I eat at noon?": "canteen.md",
        "Someone hacked us, whom do I call?": "security.md",
        "Who must approve a big bill?": "invoices.md",
        "rules for guests": "visitors.md",
    }
    agent = retriever(embeddings="local/minilm", hybrid=hybrid, top_k=2)
    async with running(agent) as runtime:
        for question, source in questions.items():
            reply = await runtime.call("finder", question)
            assert isinstance(reply.payload, dict)
            found = [chunk["source"] for chunk in reply.payload["chunks"]]
            # Fusion may put a chunk that shares small words first; the right one is then the second.
            assert f"handbook/{source}" in (found if hybrid else found[:1]), question
            assert reply.usage.llm_calls == 1


async def test_a_reply_has_chunks_and_says_what_they_are(handbook: None):
    agent = retriever(top_k=1)
    async with running(agent) as runtime:
        reply = await runtime.call("finder", Message("vegetarian lunch in the canteen", session_id="s"))
    assert isinstance(reply.payload, dict)
    (chunk,) = reply.payload["chunks"]
    assert set(chunk) == {"id", "text", "source", "score", "metadata", "keyword_score"}
    assert chunk["text"] == HANDBOOK["canteen.md"]
    assert 0 < chunk["score"] <= 1
    assert chunk["metadata"] == {"position": 0}
    assert dict(reply.metadata) == {"retrieved": 1, "embeddings": "test/words"}
    assert reply.session_id == "s"


async def test_a_request_may_say_how_many_and_how_near(handbook: None):
    assert len(await ask(retriever(), "the", top_k=7)) == 7
    assert await ask(retriever(), "the", min_score=1) == []


@pytest.mark.parametrize(
    ("metadata", "said"),
    [({"top_k": 0}, "top_k"), ({"top_k": True}, "top_k"), ({"top_k": 101}, "top_k"), ({"min_score": "x"}, "min_score")],
)
async def test_what_a_request_may_not_say_is_named(handbook: None, metadata: dict[str, Any], said: str):
    with pytest.raises(errors.InvalidInput, match=f"metadata {said}"):
        await ask(retriever(), "the", **metadata)


@pytest.mark.parametrize("query", ["  ", "x" * 20_001])
async def test_a_query_has_bounds(handbook: None, query: str):
    with pytest.raises(errors.InvalidInput, match="the query has"):
        await ask(retriever(), query)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"documents": ""}, "documents"),
        ({"chunksize": 3}, "did you mean 'chunk_size'"),
        ({"overlap": 700}, "overlap"),
        ({"top_k": 0}, "top_k"),
        ({"collection": "a/b"}, "collection"),
        ({"embeddings": "test/wrds"}, r"agents\.finder\.config\.embeddings: .*did you mean 'words'"),
    ],
)
def test_a_wrong_configuration_is_named(config: dict[str, Any], said: str):
    with pytest.raises(errors.ConfigError, match=said):
        retriever(**config)


async def test_a_stored_collection_needs_no_documents(handbook: None):
    await ask(retriever(store="kept"), "lunch")
    assert (await ask(retriever(store="kept", documents=""), "canteen lunch"))[0]["source"] == "handbook/canteen.md"


async def test_documents_are_indexed_once_and_in_no_callers_budget(
    handbook: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    loads = 0
    load = Index.load

    async def counted(self: Index, *given: Any, **more: Any) -> Any:
        nonlocal loads
        loads += 1
        return await load(self, *given, **more)

    monkeypatch.setattr(Index, "load", counted)
    caplog.set_level(logging.INFO, "aixgo.agents.retriever")
    agent = retriever()
    state = root().child("finder")
    state.budget = Budget(tokens=20)
    with entered(state):
        await asyncio.gather(*(agent.execute(Message("lunch")) for _ in range(3)))
    await agent.stop()
    assert loads == 1
    assert state.ledger.usage.total_tokens == 3
    assert "9 documents indexed" in caplog.text


async def test_a_caller_that_leaves_does_not_stop_indexing_and_stopping_the_agent_does(
    handbook: None, monkeypatch: pytest.MonkeyPatch
):
    began, stopped = asyncio.Event(), asyncio.Event()

    async def endless(self: Index, *given: Any, **more: Any) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    monkeypatch.setattr(Index, "load", endless)
    agent = retriever()
    caller = asyncio.create_task(agent.execute(Message("lunch")))
    await began.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert not stopped.is_set()
    await agent.stop()
    assert stopped.is_set()


async def test_relative_paths_begin_at_the_folder_and_sources_are_named_as_they_were_given(
    handbook: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = {"documents": "handbook", "store": "kept", "embeddings": "test/words"}
    spec = AgentSpec(name="finder", role="retriever", config=config)
    found = await ask(RetrieverAgent(spec, models=scripted_models(), folder=tmp_path), "canteen lunch")
    assert found[0]["source"] == "handbook/canteen.md"
    assert names_in(tmp_path) == ["elsewhere", "handbook", "kept"]


async def test_callers_that_wait_for_the_same_indexing_get_errors_of_their_own(handbook: None):
    move("handbook", "elsewhere")
    agent = retriever()
    one, other = await asyncio.gather(*(agent.execute(Message("lunch")) for _ in range(2)), return_exceptions=True)
    await agent.stop()
    assert isinstance(one, errors.ConfigError)
    assert isinstance(other, errors.ConfigError)
    assert one is not other


async def test_indexing_that_failed_is_tried_again(handbook: None):
    move("handbook", "elsewhere")
    agent = retriever()
    async with running(agent) as runtime:
        with pytest.raises(errors.ConfigError, match="no folder or file 'handbook'"):
            await runtime.call("finder", "lunch")
        move("elsewhere", "handbook")
        assert (await runtime.call("finder", "lunch")).metadata["retrieved"] == 5


def test_the_key_comes_from_the_environment_and_shows_nowhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QDRANT_API_KEY", "hush")
    place = place_of(RetrieverConfig(store="https://example.com", api_key=None))
    assert place.api_key is not None
    assert place.api_key.get_secret_value() == "hush"
    assert "hush" not in repr(place)
