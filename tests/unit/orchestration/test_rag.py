"""RAG: what is retrieved, what reaches the generator, what its citations point to, and what failures do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from aixgo import Agent, LocalRuntime, Message
from aixgo.config.spec import AgentSpec
from aixgo.conversation import Turn, with_turns
from aixgo.errors import (
    AgentFailed,
    BudgetExceeded,
    ConfigError,
    InvalidInput,
    InvalidReply,
    ProviderUnavailable,
)
from aixgo.llm.metering import estimate_tokens
from aixgo.orchestration.base import DEFAULT_LIMITS
from aixgo.orchestration.catalog import build
from aixgo.orchestration.grounding import Passage, citations, cited, fitting, fused, prompt
from aixgo.orchestration.rag import NO_ANSWER, RAG
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

Answer = Callable[[Message], Any]


class Scripted(Agent):
    """Answers with a function of the request; an exception is raised. `seen` has the requests."""

    role = "scripted"

    def __init__(self, name: str, answer: Answer) -> None:
        self.name = name
        self._answer = answer
        self.seen: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.seen.append(message)
        answer = self._answer(message)
        if isinstance(answer, Exception):
            raise answer
        return Message.of(answer)


def chunk(id_: str, score: float = 0.5, text: str = "") -> dict[str, Any]:
    return {"id": id_, "text": text or f"text of {id_}", "source": f"{id_}.md", "score": score, "metadata": {}}


def retriever(*found: dict[str, Any]) -> Scripted:
    return Scripted("finder", lambda _: {"chunks": list(found)})


def says(text: str, name: str = "writer") -> Scripted:
    return Scripted(name, lambda _: text)


async def ask(rag: RAG, message: Message | str = "how many days?") -> Message:
    runtime = LocalRuntime()
    runtime.register(rag)
    async with runtime:
        return await runtime.call(rag.name, message)


async def test_an_answer_cites_the_chunks_that_it_was_made_from():
    finder, writer = retriever(chunk("a", 0.9), chunk("b", 0.4)), says("25 days [2], see also [1] and [2].")
    reply = await ask(RAG("desk", finder, writer))
    assert reply.text == "25 days [2], see also [1] and [2]."
    told = dict(reply.metadata)
    assert told["citations"] == [
        {"marker": 2, "id": "b", "source": "b.md"},
        {"marker": 1, "id": "a", "source": "a.md"},
    ]
    assert told["invalid_citations"] == []
    assert told["chunks"] == [{"id": "a", "source": "a.md", "score": 0.9}, {"id": "b", "source": "b.md", "score": 0.4}]
    assert told["queries"] == ["how many days?"]
    assert told["grounded"] is True
    assert told["pattern"] == "rag"
    assert told["agent_count"] == 2
    assert "rag_warnings" not in told
    (asked,) = finder.seen
    assert (asked.text, asked.metadata["top_k"]) == ("how many days?", 5)


async def test_the_generator_sees_numbered_sources_and_the_question():
    writer = says("x")
    await ask(RAG("desk", retriever(chunk("a"), chunk("b")), writer))
    (asked,) = writer.seen
    assert "[1] a.md\ntext of a\n\n[2] b.md\ntext of b" in asked.text
    assert asked.text.endswith("Question: how many days?")
    assert asked.metadata["question"] == "how many days?"
    assert [(one["marker"], one["id"], one["text"]) for one in asked.metadata["context"]] == [
        (1, "a", "text of a"),
        (2, "b", "text of b"),
    ]


async def test_citations_that_point_nowhere_are_told_and_ground_nothing():
    reply = await ask(RAG("desk", retriever(chunk("a")), says("It is so [1], or so [7].")))
    assert [one["id"] for one in reply.metadata["citations"]] == ["a"]
    assert reply.metadata["invalid_citations"] == [7]
    assert reply.metadata["grounded"] is False


async def test_an_answer_without_citations_is_not_grounded():
    assert (await ask(RAG("desk", retriever(chunk("a")), says("It is so.")))).metadata["grounded"] is False


@pytest.mark.parametrize("found", [(), (chunk("a", 0.1),)])
async def test_without_relevant_chunks_it_refuses_and_does_not_ask_the_generator(found: Sequence[dict[str, Any]]):
    writer = says("[1]")
    reply = await ask(RAG("desk", retriever(*found), writer, min_relevance=0.3), Message("q", session_id="s"))
    assert (reply.text, reply.session_id) == (NO_ANSWER, "s")
    assert reply.metadata["grounded"] is False
    assert reply.metadata["citations"] == reply.metadata["chunks"] == []
    assert writer.seen == []


async def test_without_chunks_the_generator_may_be_asked_all_the_same():
    writer = says("from memory [1]")
    reply = await ask(RAG("desk", retriever(), writer, on_empty="generate"))
    assert writer.seen[0].text == "how many days?"
    assert writer.seen[0].metadata["context"] == []
    assert (reply.text, reply.metadata["grounded"], reply.metadata["citations"]) == ("from memory [1]", False, [])


async def test_relevance_top_k_and_the_token_bound_choose_the_chunks():
    found = [chunk("a", 0.9), chunk("low", 0.1), chunk("b", 0.8), chunk("c", 0.7), chunk("d", 0.6)]
    reply = await ask(RAG("desk", retriever(*found), says("x"), min_relevance=0.2, top_k=3))
    assert [one["id"] for one in reply.metadata["chunks"]] == ["a", "b", "c"]
    long = [chunk(name, text="word " * 60) for name in "abc"]
    reply = await ask(RAG("desk", retriever(*long), says("x"), max_context_tokens=170))
    assert [one["id"] for one in reply.metadata["chunks"]] == ["a", "b"]


async def test_what_is_just_relevant_enough_is_kept():
    reply = await ask(RAG("desk", retriever(chunk("a", 0.5), chunk("b", 0.49)), says("x"), min_relevance=0.5))
    assert [one["id"] for one in reply.metadata["chunks"]] == ["a"]


def test_chunks_that_fit_exactly_are_kept():
    passages = [Passage(id=name, text="words " * 20) for name in "ab"]
    most = sum(estimate_tokens(f"[{number}] {one.text}") for number, one in enumerate(passages, start=1))
    assert (len(fitting(passages, most)), len(fitting(passages, most - 1))) == (2, 1)


async def test_a_follow_up_question_is_rewritten_and_the_generator_hears_the_original():
    rewriter = Scripted("rewriter", lambda _: {"question": "How many vacation days are there in Berlin?"})
    finder, writer = retriever(chunk("a")), says("x [1]")
    turns = [Turn("user", "How many vacation days are there?"), Turn("assistant", "25 [1]", "desk")]
    reply = await ask(RAG("desk", finder, writer, rewriter=rewriter), with_turns(Message("and in Berlin?"), turns))
    assert finder.seen[0].text == "How many vacation days are there in Berlin?"
    assert reply.metadata["queries"] == ["How many vacation days are there in Berlin?"]
    assert writer.seen[0].text.endswith("Question: and in Berlin?")
    assert writer.seen[0].metadata["question"] == "How many vacation days are there in Berlin?"
    assert writer.seen[0].metadata["conversation"] == [turn.to_json() for turn in turns]
    assert "question" in rewriter.seen[0].metadata["response_schema"]["properties"]


async def test_a_first_question_needs_no_rewriter():
    rewriter = says("never", "rewriter")
    await ask(RAG("desk", retriever(chunk("a")), says("x"), rewriter=rewriter))
    assert rewriter.seen == []


async def test_several_queries_are_asked_and_their_findings_fused():
    found: Mapping[str, list[dict[str, Any]]] = {
        "how many days?": [chunk("a", 0.9), chunk("b", 0.3)],
        "vacation days": [chunk("c", 0.8), chunk("b", 0.6)],
    }
    finder = Scripted("finder", lambda message: {"chunks": found[message.text]})
    rewriter = Scripted(
        "rewriter", lambda _: {"question": "ignored", "queries": ["vacation days", "how many days?", "a third"]}
    )
    reply = await ask(RAG("desk", finder, says("x"), rewriter=rewriter, queries=2))
    assert reply.metadata["queries"] == ["how many days?", "vacation days"]
    assert [(one["id"], one["score"]) for one in reply.metadata["chunks"]] == [("b", 0.6), ("a", 0.9), ("c", 0.8)]


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ({"order": [2, 0]}, "cab"),
        ({"order": [1, 1]}, "bac"),
        ({"scores": [0.1, 0.9, 0.5]}, "bca"),
    ],
)
async def test_a_reranker_orders_more_chunks_than_are_wanted(answer: dict[str, Any], order: str):
    finder, reranker = retriever(*map(chunk, "abc")), Scripted("reranker", lambda _: answer)
    message = with_turns(Message("how many days?"), [Turn("user", "hello")])
    reply = await ask(RAG("desk", finder, says("x"), reranker=reranker, top_k=2), message)
    assert [one["id"] for one in reply.metadata["chunks"]] == list(order[:2])
    assert finder.seen[0].metadata["top_k"] == 6
    assert "[0] text of a" in reranker.seen[0].text
    assert "conversation" not in reranker.seen[0].metadata


@pytest.mark.parametrize("answer", [{"order": [3]}, {"order": []}, {"scores": [1]}, ValueError("no"), "no JSON"])
async def test_a_reranker_that_fails_is_done_without(answer: Any):
    reranker = Scripted("reranker", lambda _: answer)
    reply = await ask(RAG("desk", retriever(*map(chunk, "abc")), says("x [1]"), reranker=reranker))
    assert [one["id"] for one in reply.metadata["chunks"]] == ["a", "b", "c"]
    (warning,) = reply.metadata["rag_warnings"]
    assert warning["stage"] == "rerank"
    assert reply.metadata["grounded"] is True


async def test_a_rewriter_that_fails_is_done_without():
    rewriter = Scripted("rewriter", lambda _: ProviderUnavailable("gone"))
    reply = await ask(RAG("desk", retriever(chunk("a")), says("x"), rewriter=rewriter, queries=3))
    assert reply.metadata["queries"] == ["how many days?"]
    (warning,) = reply.metadata["rag_warnings"]
    assert (warning["stage"], warning["class"]) == ("rewrite", "ProviderUnavailable")


async def test_one_query_that_fails_leaves_the_others():
    finder = Scripted("finder", lambda asked: {"chunks": [chunk("a")]} if asked.text == "q2" else ValueError("no"))
    rewriter = Scripted("rewriter", lambda _: {"question": "q", "queries": ["q2"]})
    reply = await ask(RAG("desk", finder, says("x"), rewriter=rewriter, queries=2))
    assert [one["id"] for one in reply.metadata["chunks"]] == ["a"]
    (warning,) = reply.metadata["rag_warnings"]
    assert (warning["stage"], warning["class"], warning["query"]) == ("retrieve", "AgentFailed", "how many days?")


@pytest.mark.parametrize(
    ("answer", "error"),
    [(ValueError("no"), AgentFailed), ({"found": []}, InvalidReply), ({"chunks": [{"id": ""}]}, InvalidReply)],
)
async def test_a_retrieval_that_fails_altogether_is_raised(answer: Any, error: type[Exception]):
    with pytest.raises(error):
        await ask(RAG("desk", Scripted("finder", lambda _: answer), says("x")))


async def test_a_generator_that_fails_is_raised():
    with pytest.raises(ProviderUnavailable) as caught:
        await ask(RAG("desk", retriever(chunk("a")), Scripted("writer", lambda _: ProviderUnavailable("gone"))))
    assert caught.value.agent_path == ("desk", "writer")


@pytest.mark.parametrize("member", ["rewriter", "reranker"])
async def test_a_spent_budget_is_never_done_without(member: str):
    spent = {member: Scripted(member, lambda _: BudgetExceeded("spent"))}
    message = with_turns(Message("q"), [Turn("user", "hello")])
    with pytest.raises(BudgetExceeded):
        await ask(RAG("desk", retriever(*map(chunk, "ab")), says("x"), **spent), message)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"queries": 2}, "rewriter"),
        ({"queries": 0}, "queries"),
        ({"top_k": 101}, "top_k"),
        ({"max_context_tokens": 1}, "max_context_tokens of rag 'desk' is 1; pass 50 or more"),
        ({"on_empty": "refse"}, "on_empty of rag 'desk' is 'refse', which is not known; did you mean 'refuse'"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(config: dict[str, Any], said: str):
    with pytest.raises(InvalidInput, match=said):
        RAG("desk", "finder", "writer", **config)


def test_from_yaml_its_members_stand_in_config():
    config = {"retriever": "finder", "generator": "writer", "reranker": "judge", "top_k": 3}
    made = build("rag", "desk", ["finder"], config, DEFAULT_LIMITS)
    assert isinstance(made, RAG)
    assert made.agents == ("finder", "judge", "writer")
    with pytest.raises(ConfigError, match="other"):
        build("rag", "desk", ["other"], config, DEFAULT_LIMITS)
    with pytest.raises(ConfigError, match="did you mean 'retriever'"):
        build("rag", "desk", [], {"retreiver": "finder", "generator": "writer"}, DEFAULT_LIMITS)


async def test_with_the_ready_agents_documents_answer_a_question(tmp_path: Any):
    from aixgo.agents.llm import LLMAgent
    from aixgo.agents.retriever import RetrieverAgent
    from aixgo.testing import ScriptedModel, running, scripted_models

    (tmp_path / "leave.md").write_text("Employees accrue 25 days of paid vacation each year.")
    models = scripted_models(writer=ScriptedModel(["25 days [1]."]))
    config = {"documents": str(tmp_path), "embeddings": "local/minilm"}
    finder = RetrieverAgent(AgentSpec(name="finder", role="retriever", config=config), models=models)
    writer = LLMAgent(AgentSpec(name="writer", role="llm", model=("test/writer",)), models=models)
    async with running(finder, writer, RAG("desk", "finder", "writer", min_relevance=0.2)) as runtime:
        reply = await runtime.call("desk", "How many holidays do I get?")
        assert reply.metadata["grounded"] is True
        assert reply.metadata["citations"][0]["source"].endswith("leave.md")
        assert reply.usage.llm_calls == 2
        assert (await runtime.call("desk", "Wie wird das Wetter?")).text == NO_ANSWER


async def test_its_span_says_what_was_found_and_each_step_has_one(monkeypatch: pytest.MonkeyPatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    rewriter = Scripted("rewriter", lambda _: {"question": "q", "queries": ["q2"]})
    finder = retriever(chunk("a", 0.9), chunk("b", 0.1))
    await ask(RAG("desk", finder, says("x [1]"), rewriter=rewriter, queries=2, min_relevance=0.5))
    spans = {one.name: one for one in exporter.get_finished_spans()}
    assert {"step.1.rewriter", "step.2.finder", "step.3.writer"} <= set(spans)
    told = dict(spans["orchestration.rag"].attributes or {})
    assert {name: value for name, value in told.items() if name.startswith("rag.")} == {
        "rag.queries": 2,
        "rag.retrieved": 2,
        "rag.relevant": 1,
        "rag.citations": 1,
        "rag.grounded": True,
    }


PASSAGES = st.lists(
    st.builds(Passage, id=st.sampled_from("abcdef"), text=st.text(min_size=1, max_size=300), score=st.floats(0, 1)),
    max_size=8,
)


@given(st.text("[]0123456789, ;x"), st.lists(st.integers(0, 12)), PASSAGES)
def test_citations_only_ever_point_to_chunks(noise: str, numbers: list[int], passages: list[Passage]):
    answer = noise + " ".join(f"[{number}]" for number in numbers)
    found = citations(answer, len(passages))
    assert {one["id"] for one in cited(found, passages)} <= {passage.id for passage in passages}
    assert set(found.valid).isdisjoint(found.invalid)
    assert set(numbers) <= {*found.valid, *found.invalid}
    assert all(1 <= number <= len(passages) for number in found.valid)


@pytest.mark.parametrize(
    ("answer", "valid"),
    [("[1][3]", [1, 3]), ("[2, 1]", [2, 1]), ("[1; 2]", [1, 2]), ("[a] (1) [ 1", []), ("[1](http://x)", [1])],
)
def test_citations_are_read_in_the_forms_that_models_write(answer: str, valid: list[int]):
    assert citations(answer, 3).valid == valid


@given(PASSAGES, st.integers(50, 400))
def test_what_fits_is_a_beginning_and_within_the_bound(passages: list[Passage], most: int):
    kept = fitting(passages, most)
    assert [one.id for one in kept] == [one.id for one in passages[: len(kept)]]
    sources = prompt("", kept).partition("Sources:\n\n")[2].rpartition("\n\nQuestion:")[0]
    assert not kept or estimate_tokens(sources) <= most + len(kept)


@given(st.lists(PASSAGES, max_size=4))
def test_fused_passages_are_there_once_with_their_best_score(rankings: list[list[Passage]]):
    made = fused(rankings)
    everything = [one for ranking in rankings for one in ranking]
    assert sorted(one.id for one in made) == sorted({one.id for one in everything})
    assert all(one.score == max(other.score for other in everything if other.id == one.id) for one in made)
