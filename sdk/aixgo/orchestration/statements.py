"""What is said in a debate: statements, how far they agree, and how they are told to the next speaker.

Pure. Below: `aixgo.voting`. Above: `debate.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from aixgo import voting
from aixgo.conversation import Turn
from aixgo.errors import AixgoError, InvalidReply
from aixgo.llm.shares import Share
from aixgo.message import Message
from aixgo.orchestration.asking import read_answer
from aixgo.voting import Ballot, Verdict

_POSITION = re.compile(r"^[\s>#*_-]*position[*_]*:[^\S\n]*(\S[^\n]*)$", re.IGNORECASE | re.MULTILINE)
_END_WITH = "End with a line that begins with `Position:` and states your position in a few words."
_SAME_WORDS = (
    "Answer them. Keep your position, or change it where they convince you; if you hold what another holds, state it in"
    " the very same words."
)


class Statement(BaseModel):
    """A debater's answer."""

    position: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = Field(
        description="The answer that you hold to be right, in a few words."
    )
    argument: str = Field(default="", description="Why, and what is wrong with what others say.")
    confidence: Share | None = Field(default=None, description="How sure you are, 0 to 1.")


class Ruling(BaseModel):
    """A moderator's answer."""

    consensus: bool = Field(description="Whether the debaters agree by now.")
    answer: str = Field(description="The answer to the message, as the debate stands.")
    summary: str = Field(description="What was said for and against it, in a few sentences.")


@dataclass(frozen=True, slots=True)
class Spoken:
    """A statement, and who made it in which round."""

    round: int
    agent: str
    statement: Statement

    def as_metadata(self) -> dict[str, Any]:
        """An entry of the transcript; `confidence` is left out where there is none."""
        return {"round": self.round, "agent": self.agent, **self.statement.model_dump(exclude_none=True)}


@dataclass(slots=True)
class Record:
    """A debate so far: all statements, each debater's own side of it, the moderator's last ruling, and what failed."""

    topic: str
    rounds: int
    spoken: list[Spoken] = field(default_factory=list[Spoken])
    turns: dict[str, list[Turn]] = field(default_factory=dict[str, list[Turn]])
    ruling: Ruling | None = None
    failure: AixgoError | None = None
    """Why there is no ruling of the last round."""
    measured: list[Verdict] = field(default_factory=list[Verdict])
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def round(self) -> int:
        """The number of rounds that were held."""
        return len(self.measured)

    def last(self) -> Mapping[str, Statement]:
        """Each debater's last statement."""
        return {one.agent: one.statement for one in self.spoken}

    def hear(self, number: int, said: Mapping[str, tuple[str, Statement]]) -> Verdict:
        """Take in the statements of round `number`, each with the text it answers, and measure how far they agree."""
        for agent, (question, statement) in said.items():
            self.spoken.append(Spoken(number, agent, statement))
            answered = Turn("assistant", f"{statement.argument}\n\nPosition: {statement.position}".strip(), agent)
            self.turns.setdefault(agent, []).extend((Turn("user", question), answered))
        ballots = [Ballot(agent, one.position, confidence=one.confidence) for agent, (_, one) in said.items()]
        self.measured.append(voting.decide(ballots))
        return self.measured[-1]

    def question(self, agent: str, position: str, *, structured: bool) -> str:
        """What a debater is asked in the next round."""
        parts = [self.topic]
        if self.round == 0:
            parts.append(f"Argue for this position: {position}" if position else "Take a position on it, and argue.")
        else:
            others = [f"{name} says:\n{_in_words(one)}" for name, one in self.last().items() if name != agent]
            parts += [f"Round {self.round + 1} of {self.rounds}.", *others]
            if self.ruling is not None:
                parts.append(f"The moderator sums up: {self.ruling.summary}")
            parts.append(_SAME_WORDS)
        return "\n\n".join(parts if structured else [*parts, _END_WITH])

    def for_moderator(self) -> str:
        """What the moderator is asked after a round."""
        said = [f"{name} says:\n{_in_words(one)}" for name, one in self.last().items()]
        asked = "Say whether they agree by now, what the answer to the message is as the debate stands, and sum it up."
        head = f"You moderate a debate about this message:\n{self.topic}"
        return "\n\n".join([head, f"Round {self.round} of {self.rounds}.", *said, asked])

    def transcript(self) -> list[dict[str, Any]]:
        """All statements as metadata."""
        return [one.as_metadata() for one in self.spoken]

    def positions(self) -> dict[str, str]:
        """Each debater's last position."""
        return {agent: one.position for agent, one in self.last().items()}

    def by_round(self) -> list[dict[str, float]]:
        """Consensus and diversity of each round."""
        return [{"consensus": one.agreement, "diversity": diversity(one)} for one in self.measured]


def diversity(verdict: Verdict) -> float:
    """Distinct positions by debaters: 1 when each has its own."""
    return len(verdict.votes) / sum(len(voters) for voters in verdict.voters.values())


def read_text(reply: Message) -> Statement:
    """A reply in free words as a statement. Raises InvalidReply when it says nothing.

    It may be the JSON object of a Statement after all. Else its position is the metadata `position`, else what follows
    the last line that begins with `Position:`, else the whole text.
    """
    try:
        return read_answer(reply, Statement)
    except InvalidReply:  # it is words, as it may be
        stated = reply.metadata.get("position")
    lines = _POSITION.findall(reply.text)
    known = stated if isinstance(stated, str) and stated.strip() else lines[-1].strip(" *_") if lines else ""
    position = (known or reply.text).strip()
    if not position:
        raise InvalidReply("a debater must say something, and its answer is empty")
    argument = _POSITION.sub("", reply.text).strip() if known else ""
    return Statement(position=position, argument=argument, confidence=voting.ballot("", "", reply.metadata).confidence)


def _in_words(statement: Statement) -> str:
    return f"{statement.argument}\nPosition: {statement.position}".strip()
