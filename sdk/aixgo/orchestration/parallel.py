"""Parallel: all members at once, their results merged or handed to an aggregator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import Field

from aixgo.asked import for_members
from aixgo.errors import AllMembersFailed, CallCancelled, OrchestrationFailed, TooFewSucceeded
from aixgo.message import JSON, Message
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator
from aixgo.orchestration.checks import check_concurrency, check_count, check_word
from aixgo.orchestration.failures import in_words, labelled
from aixgo.orchestration.reading import MemberField, PatternConfig, required
from aixgo.runtime.contract import Outcome, Outcomes

Require: TypeAlias = 'Literal["any", "majority", "all"] | int'
MERGE = "merge"


class ParallelConfig(PatternConfig):
    """`config:` of a parallel orchestration."""

    aggregator: MemberField = Field(
        default=MERGE, description="The agent that makes one answer of all; merge: the JSON object of all results."
    )
    concurrency: int | None = Field(default=None, ge=1, description="How many run at once.")
    require: Literal["any", "majority", "all"] | Annotated[int, Field(ge=1)] = Field(
        default="any", description="How many must succeed: any, majority (more than half), all, or a number."
    )
    early_stop: bool = Field(default=False, description="Cancel the rest as soon as the outcome is known.")


class Parallel(Orchestrator):
    """Calls its members at the same time with one message, waits for all, and fails only if none succeeds.

    `require` asks for more successes than one: "majority" (more than half), "all", or a number; with fewer
    TooFewSucceeded is raised, and AllMembersFailed with none. With `early_stop` it does not wait for all: as soon as
    enough have succeeded, or too many failed, the rest is cancelled. `concurrency` bounds how many run at once.

    Without an aggregator the payload is a JSON object, member -> payload (bytes as base64). With one, the aggregator is
    called with that payload; its metadata are the message's, `parallel_results` (member -> {payload, metadata}) and
    `task` (the message's payload). What the message asks of the reply (`aixgo.asked`) is the aggregator's. Metadata:
    `parallel_results` with an aggregator; when some failed `parallel_errors`, member -> {class, message}; when some
    were cancelled `parallel_cancelled`, their names.
    """

    pattern: ClassVar[str] = "parallel"
    Config = ParallelConfig

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        aggregator: Member | None = None,
        concurrency: int | None = None,
        require: Require = "any",
        early_stop: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, (*members, aggregator) if aggregator is not None else members, limits=limits)
        self._workers = tuple(members)
        self._aggregator = aggregator
        self._concurrency = check_concurrency(f"concurrency of parallel {name!r}", concurrency)
        self._required = _required_of(name, require, len(self._workers))
        self._early_stop = early_stop

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: ParallelConfig, limits: Limits) -> Self:
        return cls(
            name,
            required(name, agents),
            aggregator=None if config.aggregator == MERGE else config.aggregator,
            concurrency=config.concurrency,
            require=config.require,
            early_stop=config.early_stop,
            limits=limits,
        )

    @property
    def agent_count(self) -> int:
        """How many agents work at once; the aggregator is none of them."""
        return len(self._workers)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        started = perf_counter()
        enough = self._known if self._early_stop else None
        outcomes = await calls.parallel(
            self._workers, for_members(message), concurrency=self._concurrency, enough=enough
        )
        keyed = _keyed(outcomes)
        cancelled = [key for key, outcome in keyed.items() if self._was_cancelled(outcome)]
        errors = {key: each.error.brief() for key, each in keyed.items() if each.error and key not in cancelled}
        calls.span.set("parallel.agents_succeeded", len(outcomes.results))
        calls.span.set("parallel.agents_failed", len(errors))
        if cancelled:
            calls.span.set("parallel.agents_cancelled", len(cancelled))
        calls.span.set("parallel.wait_time_ms", int((perf_counter() - started) * 1000))
        if len(outcomes.results) < self._required:
            raise self._failed(len(outcomes.results), errors)
        reply = await self._merge(message, outcomes, calls)
        reply = reply.with_metadata(parallel_errors=errors) if errors else reply
        return reply.with_metadata(parallel_cancelled=cancelled) if cancelled else reply

    def _known(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether those that are still out cannot change how it ends."""
        succeeded = sum(outcome.ok for outcome in outcomes)
        failed = len(outcomes) - succeeded
        return succeeded >= self._required or len(self._workers) - failed < self._required

    def _was_cancelled(self, outcome: Outcome) -> bool:
        return self._early_stop and isinstance(outcome.error, CallCancelled) and not outcome.error.agent_path

    def _failed(self, succeeded: int, errors: Mapping[str, Mapping[str, str]]) -> OrchestrationFailed:
        reasons = in_words(errors)
        if not succeeded and self._required == 1:
            return AllMembersFailed(f"all {len(self._workers)} agents failed: {reasons}", fields={"errors": errors})
        fields = {"errors": errors, "succeeded": succeeded, "required": self._required}
        kind = TooFewSucceeded if succeeded or len(errors) < len(self._workers) else AllMembersFailed
        return kind(
            f"{succeeded} of {len(self._workers)} agents succeeded and {self._required} are required: {reasons}",
            fields=fields,
        )

    async def _merge(self, message: Message, outcomes: Outcomes, calls: MemberCalls) -> Message:
        replies = {key: outcome.message for key, outcome in _keyed(outcomes).items() if outcome.message is not None}
        payload: JSON = {key: reply.json for key, reply in replies.items()}
        if self._aggregator is None:
            return Message(payload, session_id=message.session_id)
        results = {key: _result(reply) for key, reply in replies.items()}
        asked = message.with_(payload=payload).with_metadata(parallel_results=results, task=message.json)
        reply = await calls.call(self._aggregator, asked)
        return reply.with_metadata(parallel_results=results)


def _required_of(name: str, require: Require, count: int) -> int:
    """How many of `count` must succeed. Raises InvalidInput."""
    what = f"require of parallel {name!r}"
    if isinstance(require, str):
        words = {"any": 1, "majority": count // 2 + 1, "all": count}
        return words[check_word(what, require, words)]
    return check_count(what, require, count)


def _keyed(outcomes: Outcomes) -> Mapping[str, Outcome]:
    """Outcomes by member; a member that is there twice gets `name#2`."""
    return dict(zip(labelled(outcome.target for outcome in outcomes), outcomes, strict=True))


def _result(reply: Message) -> dict[str, Any]:
    return {"payload": reply.json, "metadata": dict(reply.metadata)}
