"""The token window: which turns a model is shown."""

from __future__ import annotations

from aixgo.conversation import Turn
from aixgo.llm.metering import estimate_tokens
from aixgo.sessions.window import TOKENS_PER_TURN, newest_within
from hypothesis import given
from hypothesis import strategies as st

TURNS = st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), st.text(max_size=40)), max_size=12)


def tokens(turn: Turn) -> int:
    return estimate_tokens(turn.content) + TOKENS_PER_TURN


def test_the_newest_turns_that_fit_are_shown_and_the_first_is_a_question():
    turns = [Turn("user", "a" * 40), Turn("assistant", "b" * 40), Turn("user", "c" * 40), Turn("assistant", "d" * 40)]
    assert [turn.content[0] for turn in newest_within(turns, 4 * 14)] == ["a", "b", "c", "d"]
    assert [turn.content[0] for turn in newest_within(turns, 4 * 14 - 1)] == ["c", "d"]
    assert newest_within(turns, 13) == ()


@given(TURNS, st.integers(0, 120))
def test_a_window_is_the_longest_end_that_fits_and_begins_with_a_user(turns: list[Turn], window: int):
    shown = newest_within(turns, window)
    fitting = [
        turns[at:] for at in range(len(turns)) if turns[at].role == "user" and sum(map(tokens, turns[at:])) <= window
    ]
    assert list(shown) == max(fitting, key=len, default=[])
