"""Splitting loses nothing, keeps to its sizes, and cuts where a reader would."""

from __future__ import annotations

import pytest
from aixgo import errors
from aixgo.retrieval.splitting import MAX_SIZE, split
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.text("abcdefgé中. !?#", min_size=1, max_size=12)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", "\n", "\n\n", " \t", "\r\n\r\n"])), max_size=120).map(
    lambda parts: "".join(f"{at:03d}{word}{gap}" for at, (word, gap) in enumerate(parts))
)
# Every piece is numbered, so that a chunk has one place in its text.


def bare(text: str) -> str:
    return "".join(text.split())


def uncovered(text: str, chunks: list[str]) -> str:
    """What of `text` is in no chunk, each chunk being looked for after the start of the one before."""
    covered, start = set[int](), 0
    for chunk in chunks:
        start = text.index(chunk, start)
        covered |= set(range(start, start + len(chunk)))
        start += 1
    return "".join(letter for at, letter in enumerate(text) if at not in covered)


@given(TEXTS, st.integers(50, 200), st.integers(0, 25))
def test_no_text_is_lost_and_no_chunk_is_too_long(text: str, size: int, overlap: int):
    chunks = split(text, size, overlap)
    assert bare(uncovered(text, list(chunks))) == ""
    assert all(0 < len(chunk) <= size for chunk in chunks)
    assert all(chunk == chunk.strip() for chunk in chunks)


@given(TEXTS, st.integers(50, 200))
def test_without_overlap_the_chunks_are_the_text(text: str, size: int):
    assert bare("".join(split(text, size, 0))) == bare(text)


@given(TEXTS, st.integers(50, 200), st.integers(0, 25))
def test_no_word_is_cut(text: str, size: int, overlap: int):
    words = set(text.split())
    assert all(word in words for chunk in split(text, size, overlap) for word in chunk.split())


@given(st.integers(51, 3000))
def test_a_word_longer_than_a_chunk_is_the_only_one_that_is_cut(length: int):
    word = "".join(chr(97 + at % 26) for at in range(length))
    assert "".join(split(word, 50, 0)) == word


def test_chunks_end_between_paragraphs_then_sentences():
    first, second = "One is here. " * 3, "Two is there. " * 3
    assert split(f"{first}\n\n{second}", 50, 0) == [first.strip(), second.strip()]
    assert split("A sentence of some words. Another one that follows it.", 50, 0) == [
        "A sentence of some words.",
        "Another one that follows it.",
    ]


def test_a_chunk_begins_with_the_last_words_of_the_one_before():
    first, second = split("one two three four five six seven eight nine ten eleven twelve", 50, 15)
    assert first.endswith("nine ten")
    assert second == "eight nine ten eleven twelve"


def test_a_heading_stays_with_what_follows_it():
    text = f"{'word ' * 8}\n\n# Leave\n\n{'rest ' * 6}"
    assert [chunk.split("\n")[0] for chunk in split(text, 50, 0)] == [("word " * 8).strip(), "# Leave"]


@pytest.mark.parametrize(
    ("size", "overlap", "field"), [(10, 0, "chunk_size"), (MAX_SIZE + 1, 0, "chunk_size"), (100, 51, "overlap")]
)
def test_sizes_that_cannot_be_are_named(size: int, overlap: int, field: str):
    with pytest.raises(errors.InvalidInput, match=field):
        split("text", size, overlap)
