"""Reflection: a generator writes, a critic scores, the generator improves; the best version is the answer.

Owns when to stop and which version wins (pure functions of the scores) and what the two are asked. Below: the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field

from aixgo.asked import HANDOFF_TO
from aixgo.errors import AixgoError, DeadlineExceeded, InvalidReply
from aixgo.llm.shares import Share
from aixgo.message import Message
from aixgo.orchestration.asking import ask, question, read_answer
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator
from aixgo.orchestration.checks import check_count, check_rounds, check_share
from aixgo.orchestration.reading import MemberField, PatternConfig, only_named

Stopped = Literal["threshold", "no_improvement", "max_iterations", "error", "handoff"]

_REVISE = """\
{task}

Your last draft:
{draft}

What a critic says about it (score {score:g} of 1):
{feedback}

Write a better version. Answer with that version alone."""

_CRITICISE = """\
The task:
{task}

The draft to judge:
{draft}

Score the draft from 0 (useless) to 1 (nothing to improve), and say what would make it better."""


class Critique(BaseModel):
    """A critic's answer."""

    score: Share = Field(description="How good the draft is: 0 useless, 1 nothing to improve.")
    feedback: str = Field(default="", description="What would make it better.")


class ReflectionConfig(PatternConfig):
    """`config:` of a reflection."""

    generator: MemberField = Field(description="The agent that writes.")
    critic: MemberField = Field(description="The agent that scores each draft from 0 to 1 and says what to improve.")
    threshold: float = Field(default=0.8, ge=0.0, le=1.0, description="The score that is good enough.")
    max_iterations: int = Field(default=3, ge=1, description="How many drafts at most.")
    min_improvement: float = Field(default=0.0, ge=0.0, le=1.0, description="A gain above this is an improvement.")
    patience: int = Field(default=1, ge=1, description="How many drafts in a row without improvement end it.")


@dataclass(frozen=True, slots=True)
class Version:
    """A draft and what the critic said of it."""

    draft: Message
    critique: Critique


class Reflection(Orchestrator):
    """Calls `generator`, then `critic`, again and again; the reply is the draft with the best score (of equals the
    first), with its own payload and metadata.

    It stops when a score reaches `threshold`, when `patience` drafts in a row did not beat the best one before them
    by more than `min_improvement`, or after `max_iterations` drafts (at most limits.max_iterations).

    The first draft answers the request as it is. Each later one revises the last draft, not the best, so that a
    detour can pay off: the request's text, that draft and the feedback make the text; the metadata has `task`,
    `draft`, `feedback` and `iteration`. The critic gets task and draft as text and as metadata, and answers a
    Critique (`score` from 0 to 1, `feedback`) as a JSON object; or its text is the feedback and its metadata has the
    `score`. What is neither is asked for once more.

    Once a draft has a score, an error of either agent, BudgetExceeded too, ends it with the best so far, and
    `reflection_error` {class, message}; not so the pattern's own deadline. An error before that is raised. A
    generator's reply that hands over to another agent is no draft: it is returned at once.

    Metadata: `iterations` (drafts that were scored), `score`, `feedback`, `scores`, `best_iteration` (from 1),
    `stopped`: "threshold", "no_improvement", "max_iterations", "error", or "handoff" (then without scores).
    Raises InvalidInput for settings out of range.
    """

    pattern: ClassVar[str] = "reflection"
    Config = ReflectionConfig

    def __init__(
        self,
        name: str,
        generator: Member,
        critic: Member,
        *,
        threshold: float = 0.8,
        max_iterations: int = 3,
        min_improvement: float = 0.0,
        patience: int = 1,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, (generator, critic), limits=limits)
        self._generator, self._critic = generator, critic
        self._threshold = check_share(f"threshold of reflection {name!r}", threshold)
        self._max_iterations = check_rounds(f"max_iterations of reflection {name!r}", max_iterations, limits)
        self._min_improvement = check_share(f"min_improvement of reflection {name!r}", min_improvement)
        self._patience = check_count(f"patience of reflection {name!r}", patience)

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: ReflectionConfig, limits: Limits) -> Self:
        only_named(name, agents, (config.generator, config.critic), "generator, critic")
        return cls(
            name,
            config.generator,
            config.critic,
            threshold=config.threshold,
            max_iterations=config.max_iterations,
            min_improvement=config.min_improvement,
            patience=config.patience,
            limits=limits,
        )

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        versions: list[Version] = []
        while (stopped := self._stopped(versions)) is None:
            try:
                draft = await calls.step(2 * len(versions) + 1, self._generator, _revision(message, versions))
                if HANDOFF_TO in draft.metadata:
                    return _handed_over(draft, versions, calls)
                versions.append(await self._criticised(message, draft, len(versions) + 1, calls))
            except AixgoError as error:
                late = isinstance(error, DeadlineExceeded) and calls.fatal(error)
                if late or not versions:
                    raise
                failed = error.brief()
                return _told(versions, "error", calls).with_metadata(reflection_error=failed)
        return _told(versions, stopped, calls)

    def _stopped(self, versions: Sequence[Version]) -> Stopped | None:
        """Why no further draft is wanted; None while one is."""
        scores = [version.critique.score for version in versions]
        if scores and scores[-1] >= self._threshold:
            return "threshold"
        if without_improvement(scores, self._min_improvement) >= self._patience:
            return "no_improvement"
        return "max_iterations" if len(scores) >= self._max_iterations else None

    async def _criticised(self, task: Message, draft: Message, iteration: int, calls: MemberCalls) -> Version:
        """The draft with what the critic answers on it, which may be a text with the score in its metadata."""
        asked = question(task, _CRITICISE.format(task=task.text, draft=draft.text)).with_metadata(
            task=task.json, draft=draft.json, iteration=iteration
        )
        critique, _ = await ask(calls, self._critic, asked, Critique, number=2 * iteration, read=read_critique)
        return Version(draft, critique)


def without_improvement(scores: Sequence[float], min_improvement: float) -> int:
    """How many of the last scores in a row did not beat the best before them by more than `min_improvement`."""
    count, best = 0, None
    for score in scores:
        count = 0 if best is None or score - best > min_improvement else count + 1
        best = score if best is None else max(best, score)
    return count


def best_of(scores: Sequence[float]) -> int:
    """The index of the best score; of equals the first."""
    return max(range(len(scores)), key=lambda index: scores[index])


def read_critique(reply: Message) -> Critique:
    """A critic's reply: a Critique, or a text whose metadata has the `score`. Raises InvalidReply."""
    try:
        return read_answer(reply, Critique)
    except InvalidReply:
        if "score" not in reply.metadata:
            raise
    return read_answer(Message({"score": reply.metadata["score"], "feedback": reply.text}), Critique)


def _revision(message: Message, versions: Sequence[Version]) -> Message:
    """What the generator is asked: the request itself, later the request, its last draft and the critique of it."""
    if not versions:
        return message
    draft, critique = versions[-1].draft, versions[-1].critique
    text = _REVISE.format(
        task=message.text, draft=draft.text, score=critique.score, feedback=critique.feedback or "Nothing more."
    )
    return question(message, text).with_metadata(
        task=message.json,
        draft=draft.json,
        feedback=critique.feedback,
        iteration=len(versions) + 1,
    )


def _told(versions: Sequence[Version], stopped: Stopped, calls: MemberCalls) -> Message:
    """The best version, with how it came about."""
    scores = [version.critique.score for version in versions]
    at = best_of(scores)
    best = versions[at]
    calls.span.set("reflection.iterations", len(scores))
    calls.span.set("reflection.score", best.critique.score)
    calls.span.set("reflection.stopped", stopped)
    return best.draft.with_metadata(
        iterations=len(scores),
        score=best.critique.score,
        feedback=best.critique.feedback,
        scores=scores,
        best_iteration=at + 1,
        stopped=stopped,
    )


def _handed_over(reply: Message, versions: Sequence[Version], calls: MemberCalls) -> Message:
    calls.span.set("reflection.iterations", len(versions))
    calls.span.set("reflection.stopped", "handoff")
    return reply.with_metadata(iterations=len(versions), stopped="handoff")
