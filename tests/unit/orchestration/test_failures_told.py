"""How members that failed are told apart, and how their errors are told."""

from __future__ import annotations

from aixgo.errors import WrongState
from aixgo.orchestration.failures import briefs, in_words, labelled
from hypothesis import given
from hypothesis import strategies as st


def test_a_name_that_is_there_again_gets_a_number() -> None:
    assert labelled(["a", "b", "a", "a"]) == ("a", "b", "a#2", "a#3")
    assert labelled(["a#2", "a", "a"]) == ("a#2", "a", "a#3")


@given(st.lists(st.sampled_from(["a", "a#2", "a#3", "b"])))
def test_every_name_has_a_label_of_its_own_that_begins_with_it(names: list[str]) -> None:
    labels = labelled(names)
    assert len(set(labels)) == len(names)
    assert all(label == name or label.startswith(f"{name}#") for name, label in zip(names, labels, strict=True))


def test_the_first_errors_are_told_in_words_and_how_many_more_there_are() -> None:
    errors = briefs({str(number): WrongState(f"no {number}") for number in range(7)})
    assert errors["0"] == {"class": "WrongState", "message": "no 0"}
    assert in_words(errors).endswith("4: WrongState: no 4; and 2 more")
    assert in_words({"0": errors["0"]}) == "0: WrongState: no 0"
