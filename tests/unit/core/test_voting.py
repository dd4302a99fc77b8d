"""Votes: what makes two answers the same, what each strategy counts, and ties."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from aixgo.errors import InvalidInput
from aixgo.voting import DEFAULT_CONFIDENCE, STRATEGIES, Ballot, Strategy, ballot, decide, normal_form
from hypothesis import given
from hypothesis import strategies as st


def votes(*answers: Any, **more: Any) -> list[Ballot]:
    return [Ballot(f"v{at}", answer, **more) for at, answer in enumerate(answers)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Yes", "yes."),
        ("  yes ", "YES!"),
        ('"Paris"', "paris"),
        ("**New   York**", "new york"),
        ("(b)", "B"),
        ("Straße", "STRASSE"),
        ("ﬁne", "fine"),
        ("\uff14\uff12", "42"),
        ("\u201cyes\u201d", "yes"),
        ("\u00bfyes?", "yes"),
        ("e\u0301te\u0301", "ÉTÉ"),
        ({"b": 1, "a": [2.0, None]}, {"a": [2, None], "b": 1.0}),
        ({"b": 1, "a": True}, ' {"a": true, "b": 1}\n'),
        ("[1, 2]", [1, 2]),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        (3, "3"),
        (True, "true"),
    ],
)
def test_the_same_answer_in_two_forms_is_one(one: Any, other: Any) -> None:
    assert normal_form(one) == normal_form(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-5", "5"),
        ("42%", "42"),
        ("C#", "C"),
        ("C++", "C"),
        (".NET", "NET"),
        ("$5", "5"),
        ("<5", ">5"),
        ("yes", "no"),
        ("?", "!"),
        ("", "."),
        ({"a": "Yes"}, {"a": "yes"}),
        ({"a": 1}, {"a": True}),
        ([1, 2], [2, 1]),
        ("{not json", "{not  jsonish"),
    ],
)
def test_different_answers_stay_different(one: Any, other: Any) -> None:
    assert normal_form(one) != normal_form(other)


def test_without_normalisation_text_is_compared_as_it_is_and_json_as_json() -> None:
    assert normal_form("Yes", normalise=False) != normal_form("yes", normalise=False)
    assert normal_form('{"a":1}', normalise=False) == normal_form({"a": 1.0}, normalise=False)


def test_text_that_nests_too_deep_to_be_json_is_text() -> None:
    deep = "[" * 500 + "]" * 500
    assert decide(votes(deep, deep, "x")).answer == deep


@given(st.text(st.characters(exclude_categories=["Ps", "Pe", "Cs"])))
def test_a_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text)


def test_the_answer_is_the_winners_first_form() -> None:
    verdict = decide(votes("no", "Yes!", "yes", "YES"))
    assert verdict.answer == "Yes!"
    assert verdict.votes == {"Yes!": 3.0, "no": 1.0}
    assert verdict.voters == {"Yes!": ["v1", "v2", "v3"], "no": ["v0"]}
    assert (verdict.agreement, verdict.tied, verdict.decided) == (0.75, False, True)


def test_most_votes_are_no_majority_when_they_are_half_or_less() -> None:
    verdict = decide(votes("a", "a", "b", "c"))
    assert (verdict.answer, verdict.agreement, verdict.tied, verdict.decided) == ("a", 0.5, False, False)


def test_of_tied_answers_the_first_given_leads_and_nothing_is_decided() -> None:
    verdict = decide(votes("b", "a", "a", "b"))
    assert (verdict.answer, verdict.tied, verdict.decided) == ("b", True, False)
    assert list(verdict.votes) == ["b", "a"]


def test_weights_count_and_add_up_as_they_are_written() -> None:
    heavy = [Ballot("x", "a", 3), Ballot("y", "b"), Ballot("z", "b")]
    assert (decide(heavy, "weighted").answer, decide(heavy, "weighted").agreement) == ("a", 0.6)
    even = decide([Ballot("x", "a", 0.1), Ballot("y", "a", 0.2), Ballot("z", "b", 0.3)], "weighted")
    assert (even.tied, even.decided, even.agreement) == (True, False, 0.5)


def test_unanimous_is_decided_by_everybody_only() -> None:
    assert decide(votes("a", "A"), "unanimous").decided
    split = decide(votes("a", "a", "b"), "unanimous")
    assert (split.answer, split.decided, split.agreement) == ("a", False, pytest.approx(2 / 3))


def test_confidence_beats_numbers_and_an_unknown_one_counts_the_default() -> None:
    sure = [Ballot("x", "a", confidence=0.95), Ballot("y", "b", confidence=0.2), Ballot("z", "b", confidence=0.3)]
    assert decide(sure, "confidence").answer == "a"
    assert decide([Ballot("x", "a")], "confidence").votes == {"a": DEFAULT_CONFIDENCE}


@pytest.mark.parametrize("strategy", ["weighted", "confidence"])
def test_where_nothing_counts_nothing_is_decided(strategy: Strategy) -> None:
    verdict = decide(votes("a", "a", weight=0.0, confidence=0.0), strategy)
    assert (verdict.answer, verdict.agreement, verdict.tied, verdict.decided) == ("a", 0.0, False, False)


def test_bad_ballots_and_strategies_are_refused() -> None:
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(InvalidInput, match="weight of voter 'v'"):
            Ballot("v", "a", weight)
    for confidence in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidInput, match="confidence of voter 'v'"):
            Ballot("v", "a", confidence=confidence)
    with pytest.raises(InvalidInput, match="did you mean 'majority'"):
        decide(votes("a"), "majorty")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="one ballot at least"):
        decide([])


def test_a_ballot_takes_the_confidence_of_the_metadata_or_of_the_answer() -> None:
    answer = {"team": "billing", "confidence": 0.7}
    assert ballot("v", answer, {}) == Ballot("v", {"team": "billing"}, 1.0, 0.7)
    assert ballot("v", answer, {"confidence": 0.2}).confidence == 0.2
    assert ballot("v", "billing", {"confidence": "high"}).confidence is None
    assert ballot("v", {"team": "x", "confidence": "high"}, {}).answer == {"team": "x", "confidence": "high"}


def test_a_ballot_can_be_on_one_field_of_the_answer() -> None:
    answer = '{"verdict": {"team": "billing"}, "why": "money", "confidence": 0.9}'
    assert ballot("v", answer, {}, field="verdict.team", weight=2) == Ballot("v", "billing", 2, 0.9)
    for wrong in ("billing", {"why": "x"}, ["billing"], {"verdict": "billing"}):
        with pytest.raises(InvalidInput, match=r"'v' has no field 'verdict.team'"):
            ballot("v", wrong, {}, field="verdict.team")


# against a count by hand

ANSWERS = st.sampled_from(["yes", "Yes.", "no", " NO", "maybe", {"a": 1}, '{"a": 1.0}'])
HUNDREDTHS = st.integers(0, 100).map(lambda n: n / 100)
BALLOTS = st.lists(
    st.builds(Ballot, st.text(max_size=3), ANSWERS, HUNDREDTHS, st.none() | HUNDREDTHS), min_size=1, max_size=12
)


def brute_force(ballots: list[Ballot], strategy: Strategy) -> tuple[dict[str, Fraction], list[str]]:
    """Amount by kind of answer, counted in whole hundredths; and the kinds with the most, as first given."""
    kinds = {"yes": "yes", "Yes.": "yes", "no": "no", " NO": "no", "maybe": "maybe"}
    amounts: dict[str, Fraction] = {}
    for each in ballots:
        kind = kinds.get(str(each.answer), "json")
        counts = {
            "majority": 100,
            "unanimous": 100,
            "weighted": round(each.weight * 100),
            "confidence": 50 if each.confidence is None else round(each.confidence * 100),
        }
        amounts[kind] = amounts.get(kind, Fraction()) + Fraction(counts[strategy], 100)
    return amounts, [kind for kind, amount in amounts.items() if amount == max(amounts.values())]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(ballots=BALLOTS)
def test_votes_equal_a_brute_force_count(strategy: Strategy, ballots: list[Ballot]) -> None:
    amounts, best = brute_force(ballots, strategy)
    verdict = decide(ballots, strategy)
    total = sum(amounts.values())
    most = max(amounts.values())
    assert normal_form(verdict.answer) == {"json": '{"a":1}'}.get(best[0], best[0])
    assert verdict.tied == (len(best) > 1)
    assert verdict.agreement == (float(most / total) if total else 0.0)
    assert sorted(verdict.votes.values()) == sorted(float(amount) for amount in amounts.values())
    assert sorted(sum(verdict.voters.values(), [])) == sorted(each.voter for each in ballots)  # noqa: RUF017  # a few
    decided = {
        "majority": most > total / 2,
        "weighted": most > total / 2,
        "unanimous": len(amounts) == 1,
        "confidence": len(best) == 1 and most > 0,
    }
    assert verdict.decided == decided[strategy]


@given(BALLOTS, st.randoms(use_true_random=False))
def test_the_order_of_ballots_changes_nothing_but_who_leads_a_tie(ballots: list[Ballot], chance: Any) -> None:
    shuffled = list(ballots)
    chance.shuffle(shuffled)
    for strategy in STRATEGIES:
        one, other = decide(ballots, strategy), decide(shuffled, strategy)
        assert (one.tied, one.decided, one.agreement) == (other.tied, other.decided, other.agreement)
        if not one.tied:
            assert normal_form(one.answer) == normal_form(other.answer)
