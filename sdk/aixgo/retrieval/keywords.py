"""Keyword search as sparse vectors: BM25, split between what a chunk weighs and what the store knows of all chunks.

Pure. A chunk's vector has the part of BM25 that depends on the chunk alone, a query's a 1 for each of its words; the
store multiplies with each word's inverse document frequency over the whole collection (Qdrant: `Modifier.IDF`), so that
nothing needs to be computed again when documents come and go. Robertson and Zaragoza: "The Probabilistic Relevance
Framework: BM25 and Beyond", 2009.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

K1 = 1.2
"""How soon further occurrences of a word stop to count; the usual value."""
B = 0.75
"""How much a long chunk is held against its words; the usual value."""
AVERAGE_WORDS = 128
"""Words of an average chunk. The formula wants the collection's average; as chunks are cut to one size (800 characters
are about 130 English words) a constant does, and it does not change with every document."""

_WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(
    # English; Lucene's list and the words of questions. Other languages have the inverse document frequency alone.
    _WORD.findall(
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they"
        " this to was will with am can could did do does from has have how i me my our should so us we what when where"
        " which who whom whose why would you your"
    )
)
"""Words of a query that say nothing of what is looked for."""


def words_of(text: str) -> Sequence[str]:
    """The words and numbers of `text`, without case and without accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(letter for letter in plain if not unicodedata.combining(letter)))


def chunk_weights(text: str) -> Mapping[int, float]:
    """What each word of a chunk weighs, by the word's number."""
    counts = Counter(map(_number, words_of(text)))
    long = K1 * (1 - B + B * counts.total() / AVERAGE_WORDS)
    return {number: count * (K1 + 1) / (count + long) for number, count in counts.items()}


def query_weights(text: str) -> Mapping[int, float]:
    """1 for each word of a query that is no stop word, by the word's number."""
    return dict.fromkeys((_number(word) for word in words_of(text) if word not in STOP_WORDS), 1.0)


def _number(word: str) -> int:
    """A number of 32 bits for a word, the same everywhere. Two words share one about once in 4 billion pairs."""
    return int.from_bytes(blake2b(word.encode(), digest_size=4).digest())
