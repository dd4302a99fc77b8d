"""Ensemble: several agents answer the same, and a vote or a judge says which answer holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, Field, create_model

from aixgo import voting
from aixgo.asked import HANDOFFS
from aixgo.errors import AixgoError, AllMembersFailed, ConfigError, InvalidInput, InvalidReply
from aixgo.imports import find_object
from aixgo.message import Message
from aixgo.orchestration.asking import ask, question
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator
from aixgo.orchestration.checks import check_concurrency, check_names, check_share, check_word
from aixgo.orchestration.failures import briefs, in_words
from aixgo.orchestration.reading import MemberField, PatternConfig, required
from aixgo.orchestration.voters import answer_of, labels_of, split
from aixgo.runtime.parallel import Job
from aixgo.voting import Ballot, Verdict

Strategy = Literal["majority", "weighted", "unanimous", "confidence", "judge"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

_QUESTION = "Several agents answered the message below. Decide which answer is the best, by its number.\n\nMessage:\n"


class EnsembleConfig(PatternConfig):
    """`config:` of an ensemble."""

    strategy: Strategy = Field(default="majority", description="How it is decided: by a vote, or by the judge.")
    weights: dict[str, float] = Field(default_factory=dict, description="Of weighted: member -> weight; others have 1.")
    judge: MemberField | None = Field(default=None, description="Of judge: the agent that decides.")
    fallback: MemberField | None = Field(default=None, description="Answers when nothing is decided.")
    min_agreement: float = Field(default=0.0, ge=0, le=1, description="The agreement that a decision needs.")
    field: str = Field(default="", description="The field of JSON answers that is voted on, for example a.b.")
    answer_schema: str = Field(
        default="", alias="schema", description="The pydantic model that answers must follow: my_pkg.models:Answer."
    )
    normalise: bool = Field(default=True, description="Whether Yes. and yes are the same answer.")
    concurrency: int | None = Field(default=None, ge=1, description="How many members are asked at once.")


@dataclass(frozen=True, slots=True)
class _Elected:
    """Whose answer holds, and what is to be said of it."""

    ballot: Ballot
    agreement: float
    metadata: Mapping[str, Any]


class Ensemble(Orchestrator):
    """Asks its members the same at once, and replies with the answer that wins.

    `strategy` says how: the votes are those of `aixgo.voting` (`weights` by member count under `weighted`); `judge` is
    shown the different answers without names, and picks one. With `schema`, a pydantic model, members are asked for
    JSON objects that follow it, and an answer that does not is no answer; `field` names the one that is voted on. A
    member that fails, or answers nothing, is absent, and unanimity is that of the answers that are there; with none
    AllMembersFailed is raised.

    Where nothing is decided (no strict majority, a tie, agreement below `min_agreement`, or the judge failed),
    `fallback` answers the message, with `votes` and `voters` in its metadata; without one NoAgreement is raised, or the
    judge's error. The payload is the whole answer of the first member that gave the winning one. Metadata: `strategy`,
    `answer` (what was voted on), `agreement` (its share, 0 to 1), `votes` {answer: amount}, `voters`
    {answer: [members]}, `used_fallback`, `reason` of a judge, and `parallel_errors` {member: {class, message}}.
    """

    pattern: ClassVar[str] = "ensemble"
    Config = EnsembleConfig

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        strategy: Strategy = "majority",
        weights: Mapping[str, float] | None = None,
        judge: Member | None = None,
        fallback: Member | None = None,
        min_agreement: float = 0.0,
        field: str = "",
        schema: type[BaseModel] | None = None,
        normalise: bool = True,
        concurrency: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        helpers = [member for member in (judge, fallback) if member is not None]
        super().__init__(name, (*members, *helpers), limits=limits)
        if not members:
            raise InvalidInput(f"ensemble {name!r} has no members; name at least one agent")
        self._voters = tuple(members)
        self._labels = labels_of(members, name)
        self._strategy: Strategy = check_word(f"strategy of ensemble {name!r}", strategy, STRATEGIES)
        self._weights = dict(weights or {})
        self._judge = judge
        self._fallback = fallback
        self._min_agreement = check_share(f"min_agreement of ensemble {name!r}", min_agreement)
        self._field = field
        self._schema = schema
        self._normalise = normalise
        self._concurrency = check_concurrency(f"concurrency of ensemble {name!r}", concurrency)
        self._check()

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: EnsembleConfig, limits: Limits) -> Self:
        return cls(
            name,
            required(name, agents),
            strategy=config.strategy,
            weights=config.weights,
            judge=config.judge,
            fallback=config.fallback,
            min_agreement=config.min_agreement,
            field=config.field,
            schema=_find_schema(name, config.answer_schema),
            normalise=config.normalise,
            concurrency=config.concurrency,
            limits=limits,
        )

    @property
    def agent_count(self) -> int:
        """How many agents vote; neither the judge nor the fallback is one of them."""
        return len(self._voters)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        calls.span.set("ensemble.strategy", self._strategy)
        asked = message.without_metadata(HANDOFFS)  # a vote is no conversation that could be handed over
        jobs = [self._job(label, voter, asked, calls) for label, voter in zip(self._labels, self._voters, strict=True)]
        replies, errors = split(await calls.together(jobs, concurrency=self._concurrency), calls)
        ballots = self._ballots(replies, errors)
        calls.span.set("ensemble.agents_failed", len(errors))
        if not ballots:
            told = briefs(errors)
            raise AllMembersFailed(f"all {len(jobs)} agents failed: {in_words(told)}", fields={"errors": told})
        counted: voting.Strategy = "majority" if self._strategy == "judge" else self._strategy
        verdict = voting.decide(ballots, counted, normalise=self._normalise)
        calls.span.set("ensemble.agreement", verdict.agreement)
        reply = await self._decided(message, replies, ballots, verdict, calls)
        reply = reply.with_metadata(strategy=self._strategy, votes=dict(verdict.votes), voters=_voters(verdict))
        return reply.with_metadata(parallel_errors=briefs(errors)) if errors else reply

    def _job(self, label: str, voter: Member, message: Message, calls: MemberCalls) -> Job:
        async def answer() -> Message:
            return await self._ask(voter, message, calls)

        return label, answer

    async def _ask(self, member: Member, message: Message, calls: MemberCalls) -> Message:
        """A member's answer, as `schema` where there is one."""
        if self._schema is None:
            return await calls.call(member, message)
        answer, reply = await ask(calls, member, message, self._schema)
        return reply.with_(payload=answer.model_dump(mode="json"))

    def _ballots(self, replies: Mapping[str, Message], errors: dict[str, AixgoError]) -> list[Ballot]:
        """What each member voted for; one whose answer is empty, or has no `field`, is put among the errors."""
        ballots: list[Ballot] = []
        for label, reply in replies.items():
            try:
                ballots.append(self._ballot(label, reply))
            except InvalidInput as error:
                errors[label] = InvalidReply(error.message)
        return ballots

    def _ballot(self, label: str, reply: Message) -> Ballot:
        weight = self._weights.get(label, self._weights.get(label.partition("#")[0], 1.0))
        found = voting.ballot(label, answer_of(reply), reply.metadata, field=self._field, weight=weight)
        if found.answer is None or found.answer == "" or str(found.answer).isspace():
            raise InvalidInput(f"the answer of {label!r} is empty")
        return found

    async def _decided(
        self,
        message: Message,
        replies: Mapping[str, Message],
        ballots: Sequence[Ballot],
        verdict: Verdict,
        calls: MemberCalls,
    ) -> Message:
        """The reply with the winning answer, else the fallback's."""
        try:
            elected = await self._elect(message, ballots, verdict, calls)
        except AixgoError as error:
            if self._fallback is None or calls.fatal(error):
                raise
            return await self._fall_back(self._fallback, message, verdict, calls)
        calls.span.set("ensemble.agreement", elected.agreement)
        calls.span.set("ensemble.used_fallback", False)
        metadata = {"answer": elected.ballot.answer, "agreement": elected.agreement, "used_fallback": False}
        payload = replies[elected.ballot.voter].payload
        return Message(payload, metadata | dict(elected.metadata), session_id=message.session_id)

    async def _elect(
        self, message: Message, ballots: Sequence[Ballot], verdict: Verdict, calls: MemberCalls
    ) -> _Elected:
        """The winner. Raises NoAgreement when there is none, and the judge's error."""
        if self._judge is not None:
            elected = await self._judged(self._judge, message, ballots, verdict, calls)
        else:
            elected = _Elected(_first(ballots, verdict, 0), verdict.agreement, {})
            if not verdict.decided:
                raise voting.no_agreement(verdict, f"the {self._strategy} vote of ensemble {self.name!r}")
        if elected.agreement < self._min_agreement:
            raise voting.no_agreement(verdict, f"ensemble {self.name!r}, which needs {self._min_agreement},")
        return elected

    async def _judged(
        self, judge: Member, message: Message, ballots: Sequence[Ballot], verdict: Verdict, calls: MemberCalls
    ) -> _Elected:
        """The judge's choice among the different answers, in the order in which their first voters are listed."""
        choices = [_first(ballots, verdict, at) for at in range(len(verdict.votes))]
        choices.sort(key=ballots.index)
        numbers = {str(number): choice for number, choice in enumerate(choices, start=1)}
        shown = "\n\n".join(f"Answer {number}:\n{_text(choice)}" for number, choice in numbers.items())
        candidates = {number: choice.answer for number, choice in numbers.items()}
        asked = question(message, f"{_QUESTION}{message.text}\n\n{shown}").with_metadata(candidates=candidates)
        ruling, _ = await ask(calls, judge, asked, _ruling(tuple(numbers)))
        chosen = numbers[str(getattr(ruling, "choice"))]  # noqa: B009  # a model made at run time
        form = voting.normal_form(chosen.answer, normalise=self._normalise)
        same = sum(voting.normal_form(one.answer, normalise=self._normalise) == form for one in ballots)
        return _Elected(chosen, same / len(ballots), {"reason": str(getattr(ruling, "reason"))})  # noqa: B009  # so is this

    async def _fall_back(self, fallback: Member, message: Message, verdict: Verdict, calls: MemberCalls) -> Message:
        calls.span.set("ensemble.used_fallback", True)
        asked = message.with_metadata(votes=dict(verdict.votes), voters=_voters(verdict))
        reply = await self._ask(fallback, asked, calls)
        try:
            answer = self._ballot("fallback", reply).answer
        except InvalidInput:  # it is free to answer without the field that was voted on
            answer = answer_of(reply)
        return reply.with_metadata(answer=answer, agreement=verdict.agreement, used_fallback=True)

    def _check(self) -> None:
        where = f"ensemble {self.name!r}"
        if (self._strategy == "judge") != (self._judge is not None):
            raise InvalidInput(f"{where}: strategy judge and a judge belong together; set both, or neither")
        if self._weights and self._strategy != "weighted":
            raise InvalidInput(f"{where}: weights are only counted by strategy weighted; set it, or leave them out")
        check_names(f"{where}: weights", self._weights, self._labels)
        for voter, weight in self._weights.items():
            Ballot(voter, "", weight)
        top = self._field.partition(".")[0]
        if top and self._schema is not None and top not in self._schema.model_fields:
            raise InvalidInput(f"{where}: schema {self._schema.__name__} has no field {top!r}")


def _ruling(numbers: tuple[str, ...]) -> type[BaseModel]:
    choice: Any = Literal[numbers]
    return create_model("Ruling", choice=(choice, ...), reason=(str, ...))


def _first(ballots: Sequence[Ballot], verdict: Verdict, rank: int) -> Ballot:
    """The ballot of the first who gave the answer of that rank."""
    voter = list(verdict.voters.values())[rank][0]
    return next(one for one in ballots if one.voter == voter)


def _text(ballot: Ballot) -> str:
    return Message(ballot.answer).text


def _voters(verdict: Verdict) -> dict[str, list[str]]:
    return {answer: list(voters) for answer, voters in verdict.voters.items()}


def _find_schema(name: str, path: str) -> type[BaseModel] | None:
    if not path:
        return None
    where = f"orchestration {name!r}: config.schema"
    found = find_object(path, where, "a pydantic model")
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ConfigError(f"{where}: {path} is no pydantic model")
    return found
