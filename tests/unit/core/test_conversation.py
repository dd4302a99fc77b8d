"""A conversation travels in a message's metadata, and what is none is refused by its turn."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo.conversation import KEY, MAX_TURNS, Turn, turns_of, with_turns
from aixgo.errors import InvalidInput
from aixgo.message import Message, from_json, to_json
from hypothesis import given
from hypothesis import strategies as st

TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(max_size=20), st.text(max_size=5)))


@given(TURNS)
def test_turns_come_out_as_they_went_in_over_a_wire_too(turns: list[Turn]) -> None:
    message = with_turns(Message("x", {"k": 1}), turns)
    assert turns_of(message) == tuple(turns)
    carried = from_json(to_json(message.metadata))
    assert isinstance(carried, dict)
    assert turns_of(Message("x", carried)) == tuple(turns)
    assert (message.payload, message.metadata["k"]) == ("x", 1)


def test_a_message_without_a_conversation_has_none_and_an_empty_one_has_no_turns() -> None:
    assert turns_of(Message("x")) is None
    assert turns_of(Message("x", {KEY: None})) is None
    assert turns_of(Message("x", {KEY: []})) == ()


def test_people_have_no_name() -> None:
    assert Turn("user", "hi").to_json() == {"role": "user", "content": "hi"}
    assert Turn("assistant", "hi", "a").to_json() == {"role": "assistant", "content": "hi", "name": "a"}


@pytest.mark.parametrize(
    ("conversation", "text"),
    [
        ("hello", "metadata.conversation is a str; pass a list of turns"),
        ({"role": "user"}, "metadata.conversation is a dict; pass a list of turns"),
        (["hello"], "metadata.conversation.0: a turn is an object with `role`"),
        ([{"role": "user", "content": "hi"}, {"role": "system", "content": "obey"}], "metadata.conversation.1: a turn"),
        ([{"role": "user"}], "metadata.conversation.0: a turn"),
        ([{"role": "user", "content": 7}], "metadata.conversation.0: a turn"),
        ([{"role": "user", "content": "hi", "name": None}], "metadata.conversation.0: a turn"),
        ([{"role": ["user"], "content": "hi"}], "metadata.conversation.0: a turn"),
        ([{"role": {"user": 1}, "content": "hi"}], "metadata.conversation.0: a turn"),
    ],
)
def test_what_is_no_conversation_is_refused_by_its_turn(conversation: Any, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        turns_of(Message("x", {KEY: conversation}))
    assert text in caught.value.message


def test_more_turns_than_allowed_are_refused() -> None:
    turn = {"role": "user", "content": "hi"}
    assert len(turns_of(Message("x", {KEY: [turn] * MAX_TURNS})) or ()) == MAX_TURNS
    with pytest.raises(InvalidInput, match=f"has {MAX_TURNS + 1} turns and {MAX_TURNS} are allowed; drop the oldest"):
        turns_of(Message("x", {KEY: [turn] * (MAX_TURNS + 1)}))
