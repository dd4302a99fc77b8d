"""RAG: a retriever finds what documents say, a generator answers from it, with citations that point there.

Owns the order of the steps and what happens when one of them fails. Embeddings and stores live in the retriever (the
role `retriever`, or any agent that answers chunks); the forms of prompt and citations in `grounding.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, Field

from aixgo.asked import for_members
from aixgo.conversation import KEY as CONVERSATION
from aixgo.conversation import turns_of
from aixgo.errors import AixgoError, InvalidInput, InvalidReply
from aixgo.message import Message
from aixgo.orchestration.asking import ask, read_answer
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator
from aixgo.orchestration.checks import check_count, check_word
from aixgo.orchestration.grounding import (
    Citations,
    Passage,
    Retrieved,
    citations,
    cited,
    context,
    fitting,
    fused,
    prompt,
)
from aixgo.orchestration.reading import MemberField, PatternConfig, only_named

OnEmpty: TypeAlias = Literal["refuse", "generate"]

MAX_QUERIES = 20
MAX_TOP_K = 100
MIN_CONTEXT = 50
NO_ANSWER = "The documents say nothing about this."
_RERANKED = 3
_MAX_QUERY = 2000


class RAGConfig(PatternConfig):
    """`config:` of a RAG."""

    retriever: MemberField = Field(description="The agent that finds chunks: the role retriever, or your own.")
    generator: MemberField = Field(description="The agent that answers from them.")
    rewriter: MemberField | None = Field(
        default=None, description="Makes a question of a follow-up, and more queries of a question."
    )
    reranker: MemberField | None = Field(default=None, description="Orders what was found by its use for the answer.")
    queries: int = Field(default=1, ge=1, le=MAX_QUERIES, description="How many queries the rewriter makes of one.")
    top_k: int = Field(default=5, ge=1, le=MAX_TOP_K, description="How many chunks the generator gets, at most.")
    min_relevance: float = Field(default=0.0, description="Chunks of a lower score are left out.")
    max_context_tokens: int = Field(default=3000, ge=MIN_CONTEXT, description="Tokens of all chunks together, about.")
    on_empty: OnEmpty = Field(
        default="refuse", description="Without chunks: refuse answers no_answer, generate asks the generator anyway."
    )
    no_answer: str = Field(default=NO_ANSWER, description="The answer when nothing relevant was found.")


class Rewriting(BaseModel):
    """What a rewriter answers."""

    question: str = Field(description="The question, understandable by itself.")
    queries: list[str] = Field(default_factory=list, description="Other ways to ask for the same.")


class Reranking(BaseModel):
    """What a reranker answers: the indices of the passages from the most useful on, or a score for each of them."""

    order: list[int] = Field(default_factory=list[int], description="Indices of the passages, the most useful first.")
    scores: list[float] = Field(
        default_factory=list[float], description="Instead of an order: one score for each passage."
    )


@dataclass(slots=True)
class _Run:
    """One answer in the making."""

    message: Message
    calls: MemberCalls
    steps: int = 0
    warnings: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def next_step(self) -> int:
        self.steps += 1
        return self.steps

    def warn(self, stage: str, error: AixgoError, **more: str) -> None:
        """Note an error that the answer can do without; raises it when it ends everything."""
        if self.calls.fatal(error):
            raise error
        self.warnings.append({"stage": stage, **error.brief(), **more})


class RAG(Orchestrator):
    """Retrieves chunks for a question, keeps the relevant ones, and has the generator answer from them with citations.

    1. With a `rewriter`, a message that comes with a conversation is made a question of its own, and with `queries`
       above 1 several ways to ask it. Asked with metadata `response_schema`, it answers {question, queries}.
    2. The `retriever` is asked all queries at once, with metadata `top_k`. It answers
       {"chunks": [{id, text, source, score, metadata}]}. What several queries found is fused by reciprocal ranks.
    3. Chunks with a score below `min_relevance` are left out.
    4. The `reranker` orders three times `top_k` chunks; it answers {"order": [indices]} or {"scores": [...]}.
    5. The first `top_k` chunks that fit into `max_context_tokens` are numbered and put into the `generator`'s prompt
       (and its metadata `context`, beside the plain `question`). Its reply is the reply; [1], [2] in it are citations.

    Without relevant chunks the answer is `no_answer`, and the generator is not asked (`on_empty="refuse"`); with
    "generate" it gets the message as it came. A rewriter or a reranker that fails, and some queries of several, are
    done without and noted in metadata `rag_warnings` [{stage, class, message, query?}]; when all queries fail the
    first error is raised, as is the generator's.

    Metadata: `citations` [{marker, id, source}], `invalid_citations` (numbers without a chunk), `chunks` that the
    generator saw [{id, source, score}], `queries`, and `grounded`: the answer cites a chunk, and none that there is
    not. That a chunk really says what it is cited for is not checked.
    """

    pattern: ClassVar[str] = "rag"
    Config = RAGConfig

    def __init__(
        self,
        name: str,
        retriever: Member,
        generator: Member,
        *,
        rewriter: Member | None = None,
        reranker: Member | None = None,
        queries: int = 1,
        top_k: int = 5,
        min_relevance: float = 0.0,
        max_context_tokens: int = 3000,
        on_empty: OnEmpty = "refuse",
        no_answer: str = NO_ANSWER,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        given = (rewriter, retriever, reranker, generator)
        super().__init__(name, [member for member in given if member is not None], limits=limits)
        if queries > 1 and rewriter is None:
            raise InvalidInput(f"queries is {queries}, and rag {name!r} has no rewriter to make them; name one")
        self._retriever, self._generator = retriever, generator
        self._rewriter, self._reranker = rewriter, reranker
        self._queries = check_count(f"queries of rag {name!r}", queries, MAX_QUERIES)
        self._top_k = check_count(f"top_k of rag {name!r}", top_k, MAX_TOP_K)
        self._min_relevance = min_relevance
        what = f"max_context_tokens of rag {name!r}"
        self._max_context_tokens = check_count(what, max_context_tokens, least=MIN_CONTEXT)
        self._on_empty: OnEmpty = check_word(f"on_empty of rag {name!r}", on_empty, get_args(OnEmpty))
        self._no_answer = no_answer

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: RAGConfig, limits: Limits) -> Self:
        members = (config.retriever, config.generator, config.rewriter, config.reranker)
        only_named(name, agents, members, "retriever, generator, rewriter, reranker")
        return cls(
            name,
            config.retriever,
            config.generator,
            rewriter=config.rewriter,
            reranker=config.reranker,
            queries=config.queries,
            top_k=config.top_k,
            min_relevance=config.min_relevance,
            max_context_tokens=config.max_context_tokens,
            on_empty=config.on_empty,
            no_answer=config.no_answer,
            limits=limits,
        )

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        run = _Run(message, calls)
        queries = await self._rewritten(run)
        calls.span.set("rag.queries", len(queries))
        found = await self._found(run, queries)
        relevant = [passage for passage in found if passage.score >= self._min_relevance]
        calls.span.set("rag.retrieved", len(found))
        calls.span.set("rag.relevant", len(relevant))
        ordered = await self._reranked(run, queries[0], relevant[: self._candidates])
        passages = fitting(ordered[: self._top_k], self._max_context_tokens)
        reply = await self._generated(run, queries[0], passages)
        told = citations(reply.text, len(passages)) if passages else Citations((), ())
        calls.span.set("rag.citations", len(told.valid))
        calls.span.set("rag.grounded", told.grounded)
        reply = reply.with_metadata(
            citations=cited(told, passages),
            invalid_citations=list(told.invalid),
            chunks=[{"id": one.id, "source": one.source, "score": one.score} for one in passages],
            queries=list(queries),
            grounded=told.grounded,
        )
        return reply.with_metadata(rag_warnings=run.warnings) if run.warnings else reply

    @property
    def _candidates(self) -> int:
        """How many chunks the last choice is made from."""
        return self._top_k if self._reranker is None else min(self._top_k * _RERANKED, MAX_TOP_K)

    async def _rewritten(self, run: _Run) -> Sequence[str]:
        """The queries, of which the first is the question itself."""
        text = run.message.text
        follows = bool(turns_of(run.message))
        if self._rewriter is None or (self._queries == 1 and not follows):
            return [text]
        request = run.message.with_(payload=_rewriting(text, self._queries, follows=follows))
        try:
            made, _ = await ask(run.calls, self._rewriter, request, Rewriting, number=run.next_step())
        except AixgoError as error:
            run.warn("rewrite", error)
            return [text]
        asked = [query.strip()[:_MAX_QUERY] for query in (made.question if follows else text, *made.queries)]
        return list(dict.fromkeys(query for query in asked if query))[: self._queries] or [text]

    async def _found(self, run: _Run, queries: Sequence[str]) -> Sequence[Passage]:
        """What all queries found, best first; raises the first error when none of them found anything out."""
        number = run.next_step()

        def retrieval(query: str) -> Callable[[], Awaitable[Message]]:
            request = for_members(run.message).with_(payload=query).with_metadata(top_k=self._candidates)
            return lambda: run.calls.step(number, self._retriever, request)

        outcomes = await run.calls.together([(query, retrieval(query)) for query in queries])
        rankings: list[Sequence[Passage]] = []
        failed: list[AixgoError] = []
        for outcome in outcomes:
            try:
                if outcome.error is not None:
                    raise outcome.error
                rankings.append(read_answer(outcome.message or Message(), Retrieved).chunks)
            except AixgoError as error:
                run.warn("retrieve", error, query=outcome.target)
                failed.append(error)
        if not rankings:
            raise failed[0]
        return fused(rankings)

    async def _reranked(self, run: _Run, question: str, passages: Sequence[Passage]) -> Sequence[Passage]:
        if self._reranker is None or len(passages) < 2:
            return passages
        kept = {key: value for key, value in run.message.metadata.items() if key != CONVERSATION}
        request = run.message.with_(payload=_reranking(question, passages), metadata=kept)
        request = request.with_metadata(question=question, chunks=[passage.model_dump() for passage in passages])
        try:
            made, _ = await ask(run.calls, self._reranker, request, Reranking, number=run.next_step())
            return [passages[index] for index in _order(made, len(passages))]
        except AixgoError as error:
            run.warn("rerank", error)
            return passages

    async def _generated(self, run: _Run, question: str, passages: Sequence[Passage]) -> Message:
        message = run.message
        if not passages and self._on_empty == "refuse":
            return Message(self._no_answer, session_id=message.session_id)
        request = message.with_metadata(question=question, context=context(passages))
        if passages:
            request = request.with_(payload=prompt(message.text, passages))
        return await run.calls.step(run.next_step(), self._generator, request)


def _rewriting(text: str, queries: int, *, follows: bool) -> str:
    wanted = ["Documents are to be searched for the answer to the message below."]
    if follows:
        wanted.append(
            "It continues the conversation before it: put into `question` what it asks, as one question that can be"
            " understood without the conversation, in the language of the message."
        )
    else:
        wanted.append("Put it into `question` as it is.")
    if queries > 1:
        wanted.append(f"Put {queries - 1} other ways to ask for the same, in other words, into `queries`.")
    return f"{' '.join(wanted)} Do not answer it.\n\nMessage: {text}"


def _reranking(question: str, passages: Sequence[Passage]) -> str:
    listed = "\n\n".join(f"[{index}] {passage.text}" for index, passage in enumerate(passages))
    return (
        "Order the passages below by how much they help to answer the question: put their indices into `order`, the"
        f" most useful first.\n\nQuestion: {question}\n\nPassages:\n\n{listed}"
    )


def _order(made: Reranking, count: int) -> Sequence[int]:
    """The indices of `count` passages in the new order; those that are left out come last, as they were."""
    if made.scores:
        if len(made.scores) != count:
            raise InvalidReply(f"the reranker answers {len(made.scores)} scores for {count} passages")
        return sorted(range(count), key=lambda index: -made.scores[index])
    wrong = [index for index in made.order if not 0 <= index < count]
    if wrong or not made.order:
        raise InvalidReply(f"the reranker answers the order {made.order}; indices from 0 to {count - 1} are wanted")
    return list(dict.fromkeys([*made.order, *range(count)]))
