"""The strategies of the aggregator: each makes one answer of several.

Owns their configuration and what each asks a model. Below: `aixgo.voting`, `clustering.py`, `aixgo.llm`. Above:
`aggregator.py`, which reads messages and streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field, model_validator

from aixgo import voting
from aixgo.agents.answers import Answer
from aixgo.agents.base import RoleConfig, completion_metadata
from aixgo.agents.clustering import Cluster, Vector, clusters_of
from aixgo.agents.together import together
from aixgo.errors import LimitExceeded
from aixgo.llm.chat import Chat
from aixgo.llm.contract import DEFAULT_MAX_TOKENS, ChatMessage, CompletionRequest
from aixgo.llm.embeddings import Embedder
from aixgo.llm.shares import Share
from aixgo.message import JSON

MAX_CLUSTERED = 200
"""Answers that can be clustered at once; the time grows with the third power of their number."""
MODEL_CALLS = 8
"""Combinations of the strategy `hierarchical` that a model writes at the same time."""

_COMBINE = "Combine these answers of several agents into one answer. Keep what they agree on; leave nothing out."
_WEIGH = (
    "Combine these answers of several agents into one answer. Each has a weight, and the heaviest comes first: where"
    " answers contradict each other, the heavier one counts for more."
)
_AGREE = (
    "These are answers of several agents to the same question. Write the answer that they agree on. Say as a number"
    " how far they agree, from 0 (not at all) to 1 (wholly), and name each point on which they disagree."
)
_SUMMARISE = (
    "These answers of several agents say much the same in different words. Write the one answer that they give."
)

_VOTES: Mapping[str, voting.Strategy] = {
    "majority": "majority",
    "weighted_vote": "weighted",
    "unanimous": "unanimous",
    "confidence": "confidence",
}
_OF: Mapping[str, Sequence[str]] = {
    "weights": ("weighted", "weighted_vote"),
    "embeddings": ("clustering",),
    "threshold": ("clustering",),
    "representative": ("clustering",),
    "group_size": ("hierarchical",),
    "field": tuple(_VOTES),
    "normalise": tuple(_VOTES),
    "undecided": tuple(_VOTES),
}


class AggregatorConfig(RoleConfig):
    """`config:` of the role `aggregator`."""

    strategy: Literal[
        "concatenate", "llm", "consensus", "weighted", "clustering", "hierarchical",
        "majority", "weighted_vote", "unanimous", "confidence",
    ] = Field(
        default="concatenate",
        description="concatenate: one below the other. A model writes one answer: llm (of all), weighted (told the"
        " weights), hierarchical (of groups, then of their combinations), consensus (what they agree on, and the"
        " disagreements). clustering: the largest cluster of similar answers wins. majority, weighted_vote, unanimous,"
        " confidence: a vote.",
    )  # fmt: skip
    separator: str = Field(default="\n", description="What stands between two answers.")
    labels: bool = Field(default=True, description="Whether each answer begins with the name of its agent.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Of the model; 0 is the most repeatable.")
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0, description="Bounds the model's answer.")
    weights: dict[str, float] = Field(
        default_factory=dict, description="Of weighted and weighted_vote: agent -> weight, 0 or more; others have 1."
    )
    group_size: int = Field(default=4, ge=2, description="Of hierarchical: how many answers are combined at once.")
    embeddings: str = Field(default="local/minilm", description="Of clustering: the model that embeds the answers.")
    threshold: float = Field(
        default=0.75, gt=0, le=1, description="Of clustering: the average cosine similarity that two clusters need to"
        " become one."
    )  # fmt: skip
    representative: Literal["medoid", "summary"] = Field(
        default="medoid", description="Of clustering: its most typical answer, or a model's summary of its answers."
    )
    field: str = Field(
        default="", description="Of a vote: the field of JSON answers that is voted on, for example a.b."
    )
    normalise: bool = Field(default=True, description="Of a vote: whether Yes. and yes are the same answer.")
    undecided: Literal["fail", "lead"] = Field(
        default="fail", description="Of a vote without a winner: NoAgreement, or the leading answer, decided=false."
    )

    @model_validator(mode="after")
    def _used(self) -> AggregatorConfig:
        for key in self.model_fields_set:
            users = _OF.get(key, (self.strategy,))
            if self.strategy not in users:
                raise ValueError(f"{key}: strategy {self.strategy} does not use it, {' and '.join(users)} would")
        light = next((name for name, weight in self.weights.items() if not 0 <= weight < float("inf")), None)
        if light is not None:
            raise ValueError(f"weights.{light}: is {self.weights[light]}; give a number that is 0 or more")
        return self

    @property
    def needs_model(self) -> bool:
        """Whether a model writes something."""
        writing = self.strategy in ("llm", "consensus", "weighted", "hierarchical")
        return writing or (self.strategy == "clustering" and self.representative == "summary")

    def weight(self, name: str) -> float:
        """The weight of an agent; one that answered twice (`name#2`) has that of its name."""
        return self.weights.get(name, self.weights.get(name.partition("#")[0], 1.0))


@dataclass(frozen=True, slots=True)
class Combined:
    """The one answer."""

    payload: JSON
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Draft:
    """The one answer is still to be written by the model, as the last thing to do; so it can be streamed."""

    request: CompletionRequest
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Combining(Protocol):
    """A strategy."""

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        """One answer of several, at least one. Raises ProviderError, BudgetExceeded, NoAgreement, InvalidInput."""
        ...


def combining(
    config: AggregatorConfig, prompt: str, chat: Callable[[], Chat], embedder: Callable[[str], Embedder]
) -> Combining:
    """The strategy of a configuration. `chat` and `embedder` are only called where it needs one; ConfigError is theirs.

    `prompt` replaces the strategy's own system message.
    """
    if config.strategy in _VOTES:
        return _Vote(config)
    writing = chat() if config.needs_model else None
    if config.strategy == "clustering":
        return _Clustering(config, prompt or _SUMMARISE, embedder(config.embeddings))
    if writing is None:
        return _Concatenate(config)
    made: Mapping[str, Combining] = {
        "llm": _Written(config, prompt or _COMBINE),
        "weighted": _Weighted(config, prompt or _WEIGH),
        "consensus": _Consensus(config, prompt or _AGREE, writing),
        "hierarchical": _Hierarchical(config, prompt or _COMBINE, writing),
    }
    return made[config.strategy]


class _Concatenate:
    def __init__(self, config: AggregatorConfig) -> None:
        self._config = config

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        return Combined(_listed(self._config, answers))


class _Written:
    def __init__(self, config: AggregatorConfig, prompt: str) -> None:
        self._config = config
        self._prompt = prompt

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        return Draft(_request(self._config, self._prompt, _listed(self._config, answers)))


class _Weighted(_Written):
    """The heaviest answer first; of equal weights the order stays."""

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        weights = {answer.name: self._config.weight(answer.name) for answer in answers}
        ordered = sorted(answers, key=lambda answer: -weights[answer.name])
        lines = (f"{answer.name} (weight {weights[answer.name]:g}): {answer.text}" for answer in ordered)
        text = self._config.separator.join(lines)
        return Draft(_request(self._config, self._prompt, text), {"weights": weights})


class _Agreement(BaseModel):
    answer: str
    agreement: Share
    disagreements: list[str]


class _Consensus:
    def __init__(self, config: AggregatorConfig, prompt: str, chat: Chat) -> None:
        self._config = config
        self._prompt = prompt
        self._chat = chat

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        request = _request(self._config, self._prompt, _listed(self._config, answers))
        found, completion = await self._chat.complete_structured(request, _Agreement)
        metadata = {"agreement": found.agreement, "disagreements": found.disagreements}
        return Combined(found.answer, metadata | completion_metadata(completion))


class _Hierarchical:
    """Neighbours are combined, then the neighbours among the combinations, until one group is left."""

    def __init__(self, config: AggregatorConfig, prompt: str, chat: Chat) -> None:
        self._config = config
        self._prompt = prompt
        self._chat = chat

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        size, levels = self._config.group_size, 1
        while len(answers) > size:
            groups = [answers[at : at + size] for at in range(0, len(answers), size)]
            numbered = [self._combined(f"group {number}", group) for number, group in enumerate(groups, start=1)]
            answers = await together(numbered, concurrency=MODEL_CALLS)
            levels += 1
        return Draft(_request(self._config, self._prompt, _listed(self._config, answers)), {"levels": levels})

    async def _combined(self, name: str, group: Sequence[Answer]) -> Answer:
        if len(group) == 1:
            return group[0]
        request = _request(self._config, self._prompt, _listed(self._config, group))
        completion = await self._chat.complete(request)
        return Answer(name, completion.text)


class _Clustering:
    def __init__(self, config: AggregatorConfig, prompt: str, embedder: Embedder) -> None:
        self._config = config
        self._prompt = prompt
        self._embedder = embedder

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        if len(answers) > MAX_CLUSTERED:
            raise LimitExceeded(f"{len(answers)} answers are to be clustered and {MAX_CLUSTERED} can be; send fewer")
        vectors = await self._vectors(answers)
        clusters = await asyncio.to_thread(clusters_of, vectors, self._config.threshold)
        metadata = {
            "agreement": len(clusters[0].members) / len(answers),
            "clusters": [_shown(cluster, answers) for cluster in clusters],
        }
        if self._config.representative == "medoid":
            return Combined(answers[clusters[0].medoid].payload, metadata)
        text = _listed(self._config, [answers[at] for at in clusters[0].members])
        return Draft(_request(self._config, self._prompt, text), metadata)

    async def _vectors(self, answers: Sequence[Answer]) -> Sequence[Vector]:
        """One for each answer; an empty answer has none, and is similar to nothing."""
        told = [at for at, answer in enumerate(answers) if answer.text.strip()]
        found = await self._embedder.embed([answers[at].text for at in told]) if told else ()
        vectors: list[Vector] = [()] * len(answers)
        for at, vector in zip(told, found, strict=True):
            vectors[at] = vector
        return vectors


class _Vote:
    def __init__(self, config: AggregatorConfig) -> None:
        self._config = config

    async def combine(self, answers: Sequence[Answer]) -> Combined | Draft:
        config = self._config
        ballots = [
            voting.ballot(one.name, one.payload, one.metadata, field=config.field, weight=config.weight(one.name))
            for one in answers
        ]
        verdict = voting.decide(ballots, _VOTES[config.strategy], normalise=config.normalise)
        if not verdict.decided and config.undecided == "fail":
            raise voting.no_agreement(verdict, f"the {config.strategy} vote of {len(ballots)} answers")
        first = next(iter(verdict.voters.values()))[0]
        payload = next(one.payload for one in answers if one.name == first)
        return Combined(payload, {**verdict.as_metadata(), "decided": verdict.decided})


def _listed(config: AggregatorConfig, answers: Sequence[Answer]) -> str:
    return config.separator.join(f"{one.name}: {one.text}" if config.labels else one.text for one in answers)


def _request(config: AggregatorConfig, prompt: str, text: str) -> CompletionRequest:
    return CompletionRequest(
        (ChatMessage("system", prompt), ChatMessage("user", text)),
        temperature=config.temperature,
        max_tokens=config.max_tokens,
    )


def _shown(cluster: Cluster, answers: Sequence[Answer]) -> dict[str, Any]:
    """A cluster as metadata: who is in it, and the answer that is most like the others."""
    return {
        "sources": [answers[at].name for at in cluster.members],
        "answer": answers[cluster.medoid].payload,
        "cohesion": cluster.cohesion,
    }
