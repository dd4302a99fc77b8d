"""Votes: several voters' answers become one verdict.

Pure: no I/O, no clock, no chance. Owns what makes two answers the same, the four ways of counting, and ties. Above: the
aggregator's votes, and the patterns ensemble and debate.

    strategy     what counts for an answer               when the vote is decided
    majority     its ballots                             more than half of the ballots
    weighted     the weights of its ballots              more than half of all weight
    unanimous    its ballots                             all of the ballots
    confidence   the confidences of its ballots          more than any other answer has

Amounts are added as the decimals that they were written as, so 0.1 and 0.2 tie with 0.3.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, cast, get_args

from aixgo.asked import unfenced
from aixgo.errors import InvalidInput, InvalidMessage, NoAgreement
from aixgo.message import JSON, from_json
from aixgo.names import nearest

Strategy = Literal["majority", "weighted", "unanimous", "confidence"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

DEFAULT_CONFIDENCE = 0.5
"""What a ballot without a confidence counts under the strategy `confidence`: an even chance of being right."""
MAX_ANSWER_DEPTH = 100
"""Lists and objects inside one another in one answer. JSON text that goes deeper is compared as text."""

_AROUND = frozenset("\"'`*_\N{ACUTE ACCENT}")
_BRACKETS_AND_QUOTES = frozenset(("Ps", "Pe", "Pi", "Pf"))
_BEFORE = frozenset("\N{INVERTED QUESTION MARK}\N{INVERTED EXCLAMATION MARK} ")
_AFTER = frozenset(".,;:!?\N{IDEOGRAPHIC FULL STOP} ")
_WHOLE = 2**53
_CUT = 40
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Ballot:
    """One voter's answer: text or a JSON value. `weight` is 0 or more, `confidence` 0 to 1; InvalidInput otherwise."""

    voter: str
    answer: JSON
    weight: float = 1.0
    confidence: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InvalidInput(f"the weight of voter {self.voter!r} is {self.weight}; give a number that is 0 or more")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise InvalidInput(f"the confidence of voter {self.voter!r} is {self.confidence}; give 0 to 1, or none")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a vote ended.

    `answer` is the leading answer as its first voter gave it; of tied ones, the one that was given first. `agreement`
    (0 to 1) is the leading answer's share of all that was counted. `votes` is what was counted for each answer, most
    first, and `voters` who gave it, both by the answer as text. `tied`: another answer has as much. `decided`: the
    strategy's condition is met, which a tie never is.
    """

    answer: JSON
    agreement: float
    votes: Mapping[str, float]
    voters: Mapping[str, list[str]]
    tied: bool
    decided: bool

    def as_metadata(self) -> dict[str, Any]:
        """`answer`, `agreement`, `votes` and `voters`, as the metadata of a reply."""
        voters = {answer: list(names) for answer, names in self.voters.items()}
        return {"answer": self.answer, "agreement": self.agreement, "votes": dict(self.votes), "voters": voters}


def ballot(voter: str, answer: JSON, metadata: Mapping[str, Any], *, field: str = "", weight: float = 1.0) -> Ballot:
    """The ballot of an agent's answer.

    `field` names the member of a JSON object that is voted on, `a.b` one inside another; without it the whole answer
    is, but for a number called `confidence`. The confidence is that of `metadata`, else that number; one outside of 0
    to 1 is none. Raises InvalidInput when the answer has no such field.
    """
    found = _opened(answer)
    stated = cast("Mapping[str, Any]", found).get("confidence") if isinstance(found, Mapping) else None
    sure = next((value for each in (metadata.get("confidence"), stated) if (value := _share(each)) is not None), None)
    if field:
        return Ballot(voter, _selected(voter, found, field), weight, sure)
    if isinstance(found, Mapping) and _share(stated) is not None:
        parts = cast("Mapping[str, JSON]", found).items()
        return Ballot(voter, {key: value for key, value in parts if key != "confidence"}, weight, sure)
    return Ballot(voter, answer, weight, sure)


def decide(ballots: Iterable[Ballot], strategy: Strategy = "majority", *, normalise: bool = True) -> Verdict:
    """Count the ballots, in their order. Without `normalise` text counts as the same only when it is.

    Raises InvalidInput for an unknown strategy, and when there is no ballot.
    """
    if strategy not in STRATEGIES:
        raise InvalidInput(f"voting strategy {strategy!r} is not known; {nearest(strategy, STRATEGIES)}")
    groups: dict[str, list[Ballot]] = {}
    for each in ballots:
        groups.setdefault(normal_form(each.answer, normalise=normalise), []).append(each)
    if not groups:
        raise InvalidInput("there is nothing to count; a vote needs one ballot at least")
    counted = [(sum((_amount(one, strategy) for one in group), Fraction()), group) for group in groups.values()]
    counted.sort(key=lambda each: -each[0])  # stable: of equals the first given stays first
    most, leading = counted[0]
    total = sum(amount for amount, _ in counted)
    tied = len(counted) > 1 and counted[1][0] == most
    return Verdict(
        answer=leading[0].answer,
        agreement=float(most / total) if total else 0.0,
        votes={_label(group): float(amount) for amount, group in counted},
        voters={_label(group): [one.voter for one in group] for _, group in counted},
        tied=tied,
        decided=not tied and _decided(strategy, most, total, len(counted)),
    )


def normal_form(answer: JSON, *, normalise: bool = True) -> str:
    """The text by which answers are compared: two answers are the same when theirs are equal.

    A JSON value, and text that holds a JSON object or list, becomes canonical JSON: keys sorted, no spaces, 1.0 as 1.
    Other text is compared without case (Unicode 15, section 3.13, D146: NFKC and case folding), with white space
    as one space, and without the quotes, brackets, emphasis and sentence marks around it; `normalise=False` leaves it
    as it is. Signs that change a value (-, <, %, #, currencies) stay.
    """
    found = _opened(answer)
    if not isinstance(found, str):
        return _canonical(found)
    return _folded(found) if normalise else found


def no_agreement(verdict: Verdict, what: str) -> NoAgreement:
    """The error of `what` (a vote, a debate) that ended with this verdict; `fields` have its votes and voters."""
    shares = ", ".join(f"{answer[:_CUT]!r}: {amount:g}" for answer, amount in list(verdict.votes.items())[:_SHOWN])
    how = "is tied" if verdict.tied else f"has no answer that enough agree on (agreement {verdict.agreement:.2f})"
    fields = {"votes": dict(verdict.votes), "voters": verdict.as_metadata()["voters"], "agreement": verdict.agreement}
    return NoAgreement(f"{what} {how}: {shares}", fields=fields)


def _decided(strategy: Strategy, most: Fraction, total: Fraction | int, answers: int) -> bool:
    match strategy:
        case "majority" | "weighted":
            return 2 * most > total
        case "unanimous":
            return answers == 1
        case "confidence":
            return most > 0


def _amount(one: Ballot, strategy: Strategy) -> Fraction:
    match strategy:
        case "majority" | "unanimous":
            return Fraction(1)
        case "weighted":
            return Fraction(str(one.weight))
        case "confidence":
            return Fraction(str(DEFAULT_CONFIDENCE if one.confidence is None else one.confidence))


def _label(group: Sequence[Ballot]) -> str:
    answer = group[0].answer
    return answer if isinstance(answer, str) else _canonical(answer)


def _folded(text: str) -> str:
    once = unicodedata.normalize("NFKC", unicodedata.normalize("NFD", text).casefold())
    folded = " ".join(unicodedata.normalize("NFKC", once.casefold()).split())
    begin, end = 0, len(folded)
    while begin < end and _is_mark(folded[begin], _BEFORE):
        begin += 1
    while begin < end and _is_mark(folded[end - 1], _AFTER):
        end -= 1
    return folded[begin:end] or folded


def _is_mark(character: str, marks: frozenset[str]) -> bool:
    return character in _AROUND or character in marks or unicodedata.category(character) in _BRACKETS_AND_QUOTES


def _opened(answer: JSON) -> JSON:
    """The object or list that a text holds, alone or as a fenced block of Markdown, else the answer itself."""
    if not isinstance(answer, str):
        return answer
    text = unfenced(answer)
    if text.lstrip()[:1] not in ("{", "["):
        return answer
    try:
        found = from_json(text.encode(errors="surrogatepass"))
        _canonical(found)
    except InvalidMessage:
        return answer  # text that looks like JSON and is none
    return found


def _canonical(value: JSON) -> str:
    return json.dumps(_plain(value, MAX_ANSWER_DEPTH), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: Any, depth: int) -> Any:
    if depth < 0:
        raise InvalidMessage(f"an answer has over {MAX_ANSWER_DEPTH} lists and objects inside one another; flatten it")
    if isinstance(value, Mapping):
        members = cast("Mapping[str, Any]", value).items()
        return {key: _plain(part, depth - 1) for key, part in members}
    if isinstance(value, (list, tuple)):
        return [_plain(part, depth - 1) for part in cast("Sequence[Any]", value)]
    if isinstance(value, float) and value.is_integer() and abs(value) < _WHOLE:
        return int(value)
    return value


def _share(value: Any) -> float | None:
    """A number from 0 to 1 as it is; None for all else."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value <= 1 else None


def _selected(voter: str, answer: JSON, field: str) -> JSON:
    part: Any = answer
    for name in field.split("."):
        if not isinstance(part, Mapping) or name not in part:
            raise InvalidInput(
                f"the answer of {voter!r} has no field {field!r}; it must be a JSON object that has, or name another"
            )
        part = cast("Mapping[str, Any]", part)[name]
    return part
