"""Debate: agents argue over several rounds until they agree; a moderator or a vote says what the answer is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from aixgo import voting
from aixgo.asked import for_members
from aixgo.conversation import turns_of, with_turns
from aixgo.errors import AixgoError, AllMembersFailed, InvalidInput, TooFewSucceeded
from aixgo.message import Message
from aixgo.orchestration.asking import ask, question
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_names, check_rounds, check_word
from aixgo.orchestration.failures import briefs, in_words
from aixgo.orchestration.reading import MemberField, PatternConfig, required
from aixgo.orchestration.statements import Record, Ruling, Statement, diversity, read_text
from aixgo.orchestration.voters import labels_of, split
from aixgo.runtime.parallel import Job

DEBATERS = 2
"""Fewer cannot debate."""


class DebateConfig(PatternConfig):
    """`config:` of a debate."""

    positions: dict[str, str] = Field(
        default_factory=dict, description="Member -> the position that it argues at first."
    )
    rounds: int = Field(default=3, ge=1, description="How many rounds at most.")
    moderator: MemberField | None = Field(default=None, description="Sums up each round and says when all agree.")
    verdict: Literal["moderator", "vote"] | None = Field(
        default=None, description="Whose answer counts; without it the moderator's, where there is one."
    )
    consensus: float = Field(
        default=1.0, gt=0, le=1, description="The share of debaters with the same position that ends the debate."
    )
    fallback: MemberField | None = Field(default=None, description="Answers when there is no verdict.")
    structured: bool = Field(default=True, description="Whether debaters are asked for JSON objects.")


class Debate(Orchestrator):
    """Lets its members argue about the message, at most `rounds` rounds long.

    In the first round all speak at once, each for the position that `positions` gives it, if it does. In each later one
    a debater sees the others' last statements, and the moderator's summary, in the text; its own side so far is the
    metadata `conversation`, and `transcript`, `round` and `assigned_position` are there for agents of your own.
    Debaters are asked for a Statement (`position`, `argument`, `confidence`) as a JSON object; with `structured=False`
    in free words, of which `statements.read_text` says what the position is.

    Consensus is the share of the most frequent position, normalised as in `aixgo.voting`, among the debaters of a
    round; diversity the number of distinct positions by the number of debaters. The debate ends when consensus reaches
    `consensus`, when the moderator, who is asked after each round, says that they agree, or after the last round.

    The answer is the moderator's, or with `verdict="vote"` the most frequent position of the last round. On a tie, or
    when the moderator fails in the last round, `fallback` answers the message with the metadata `positions`, `votes`,
    `voters` and `transcript`; without one NoAgreement is raised, or the moderator's error. A debater that fails in a
    round is absent in it; with fewer than two TooFewSucceeded is raised, and AllMembersFailed with none.

    Metadata: `rounds` (held), `ended` ("consensus" or "rounds"), `consensus`, `diversity`, `by_round`
    [{consensus, diversity}], `positions` {debater: last position}, `verdict_by` ("moderator", "vote" or "fallback"),
    `transcript` [{round, agent, position, argument, confidence}], `summary` of the moderator, `votes` and `voters` of
    a vote, and `debate_errors` [{round, agent, class, message}].
    """

    pattern: ClassVar[str] = "debate"
    Config = DebateConfig

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        positions: Mapping[str, str] | None = None,
        rounds: int = 3,
        moderator: Member | None = None,
        verdict: Literal["moderator", "vote"] | None = None,
        consensus: float = 1.0,
        fallback: Member | None = None,
        structured: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        helpers = [member for member in (moderator, fallback) if member is not None]
        super().__init__(name, (*members, *helpers), limits=limits)
        self._debaters = tuple(members)
        self._labels = labels_of(members, name)
        self._positions = dict(positions or {})
        self._rounds = check_rounds(f"rounds of debate {name!r}", rounds, limits)
        self._moderator = moderator
        by_default = "vote" if moderator is None else "moderator"
        self._verdict = check_word(f"verdict of debate {name!r}", verdict or by_default, ("moderator", "vote"))
        self._consensus = consensus
        self._fallback = fallback
        self._structured = structured
        self._check()

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: DebateConfig, limits: Limits) -> Self:
        return cls(
            name,
            required(name, agents),
            positions=config.positions,
            rounds=config.rounds,
            moderator=config.moderator,
            verdict=config.verdict,
            consensus=config.consensus,
            fallback=config.fallback,
            structured=config.structured,
            limits=limits,
        )

    @property
    def agent_count(self) -> int:
        """How many agents debate; neither the moderator nor the fallback is one of them."""
        return len(self._debaters)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        record = Record(message.text, self._rounds)
        agreed = False
        while not agreed and record.round < self._rounds:
            calls.iterate()
            agreed = await self._hold_round(message, record, calls)
        final = record.measured[-1]
        calls.span.set("debate.rounds", record.round)
        calls.span.set("debate.consensus", final.agreement)
        calls.span.set("debate.diversity", diversity(final))
        reply = (await self._answer(message, record, calls)).with_metadata(
            rounds=record.round,
            ended="consensus" if agreed else "rounds",
            consensus=final.agreement,
            diversity=diversity(final),
            by_round=record.by_round(),
            positions=record.positions(),
            transcript=record.transcript(),
        )
        return reply.with_metadata(debate_errors=record.errors) if record.errors else reply

    async def _hold_round(self, message: Message, record: Record, calls: MemberCalls) -> bool:
        """Let everybody speak, then the moderator; whether they agree."""
        number = record.round + 1
        questions = {label: self._question(label, message, record) for label in self._labels}
        jobs = [
            self._job(label, debater, questions[label], number, calls)
            for label, debater in zip(self._labels, self._debaters, strict=True)
        ]
        replies, errors = split(await calls.together(jobs), calls)
        record.errors += [{"round": number, "agent": label, **error} for label, error in briefs(errors).items()]
        if len(replies) < DEBATERS:
            raise _too_few(self.name, number, len(replies), errors)
        said = {
            label: (questions[label].text, Statement.model_validate(reply.payload)) for label, reply in replies.items()
        }
        agreed = record.hear(number, said).agreement >= self._consensus
        claimed = await self._moderate(self._moderator, message, record, calls) if self._moderator else False
        return agreed or claimed

    def _question(self, label: str, message: Message, record: Record) -> Message:
        position = self._positions.get(label, "")
        text = record.question(label, position, structured=self._structured)
        asked = _with(message, text, round=record.round + 1, assigned_position=position, transcript=record.transcript())
        own = record.turns.get(label)
        return asked if own is None else with_turns(asked, [*(turns_of(message) or ()), *own])

    def _job(self, label: str, debater: Member, question: Message, number: int, calls: MemberCalls) -> Job:
        async def speak() -> Message:
            if self._structured:
                statement, reply = await ask(calls, debater, question, Statement, number=number)
            else:
                reply = await calls.step(number, debater, question)
                statement = read_text(reply)
            return reply.with_(payload=statement.model_dump())

        return label, speak

    async def _moderate(self, moderator: Member, message: Message, record: Record, calls: MemberCalls) -> bool:
        """Ask for a ruling; whether it claims consensus. One that fails is noted, and matters in the last round."""
        more = {"round": record.round, "positions": record.positions(), "transcript": record.transcript()}
        question = _with(message, record.for_moderator(), **more)
        record.ruling = None
        try:
            record.ruling, _ = await ask(calls, moderator, question, Ruling, number=record.round)
        except AixgoError as error:
            if calls.fatal(error):
                raise
            record.errors.append({"round": record.round, "agent": name_of(moderator), **error.brief()})
            record.failure = error
            return False
        return record.ruling.consensus

    async def _answer(self, message: Message, record: Record, calls: MemberCalls) -> Message:
        """The verdict, else the fallback's reply. Raises NoAgreement, or the moderator's error."""
        final = record.measured[-1]
        votes = {key: value for key, value in final.as_metadata().items() if key in ("votes", "voters")}
        if self._verdict == "moderator" and record.ruling is not None:
            metadata = {"verdict_by": "moderator", "summary": record.ruling.summary}
            return Message(record.ruling.answer, metadata, session_id=message.session_id)
        if self._verdict == "vote" and not final.tied:
            return Message(final.answer, {"verdict_by": "vote", **votes}, session_id=message.session_id)
        if self._fallback is not None:
            more = {"positions": record.positions(), "transcript": record.transcript(), **votes}
            reply = await calls.call(self._fallback, message.with_metadata(**more))
            return reply.with_metadata(verdict_by="fallback", **votes)
        if self._verdict == "moderator" and record.failure is not None:
            raise record.failure
        raise voting.no_agreement(final, f"debate {self.name!r}")

    def _check(self) -> None:
        where = f"debate {self.name!r}"
        if len(self._debaters) < DEBATERS:
            raise InvalidInput(f"{where} has {len(self._debaters)} members; name at least {DEBATERS}")
        if self._verdict == "moderator" and self._moderator is None:
            raise InvalidInput(f"{where}: verdict is moderator and there is none; name a moderator, or set it to vote")
        if not 0 < self._consensus <= 1:
            raise InvalidInput(f"consensus of {where} is {self._consensus}; pass a share above 0, at most 1")
        check_names(f"{where}: positions", self._positions, self._labels)


def _with(message: Message, text: str, **metadata: Any) -> Message:
    """A question of the debate: the message's metadata, without what it asks of the reply, and more."""
    return question(for_members(message), text).with_metadata(**metadata)


def _too_few(name: str, number: int, succeeded: int, errors: Mapping[str, AixgoError]) -> AixgoError:
    told = briefs(errors)
    fields = {"errors": told, "succeeded": succeeded, "required": DEBATERS, "round": number}
    if not succeeded:
        return AllMembersFailed(f"all debaters of {name!r} failed in round {number}: {in_words(told)}", fields=fields)
    return TooFewSucceeded(
        f"one debater of {name!r} was left in round {number} and {DEBATERS} are needed: {in_words(told)}",
        fields=fields,
    )
