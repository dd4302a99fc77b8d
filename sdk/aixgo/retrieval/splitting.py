"""Splitting a text into chunks at the best places: between paragraphs, else sentences, else words.

Pure. Sizes are in characters, so that they mean the same for every embedding model. The default fits a model that
reads 256 tokens (`local/minilm`): a token is about four characters of English.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from aixgo.errors import InvalidInput

DEFAULT_SIZE = 800
DEFAULT_OVERLAP = 100
MIN_SIZE = 50
MAX_SIZE = 8000
"""Characters. Beyond it a chunk costs a generator more than it tells."""

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_LINE = re.compile(r"\n\s*")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+")  # noqa: RUF001  # the full stops of Chinese and Japanese
_SPACE = re.compile(r"\s+")
_HEADING = re.compile(r"#{1,6}\s\S.*")
_FINER = (_PARAGRAPH, _LINE, _SENTENCE, _SPACE)

Piece = tuple[int, int]


def split(text: str, size: int = DEFAULT_SIZE, overlap: int = DEFAULT_OVERLAP) -> Sequence[str]:
    """The chunks of `text`, in order: at most `size` characters each, together everything but white space.

    A chunk begins with up to `overlap` characters of the end of the one before, whole words of it, so that what stands
    around a border is found from both sides. No word is cut, unless it alone is longer than `size`. A Markdown heading
    stays with what follows it. Raises InvalidInput for sizes that cannot be.
    """
    check_sizes(size, overlap)
    return _Splitter(text, size, overlap).chunks()


def check_sizes(size: int, overlap: int) -> None:
    """Raise InvalidInput, naming the field, when no chunks can be made of these sizes."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InvalidInput(f"chunk_size is {size}; {MIN_SIZE} to {MAX_SIZE} characters are possible")
    if not 0 <= overlap <= size // 2:
        raise InvalidInput(f"overlap is {overlap}; at most half of chunk_size ({size // 2}) is possible")


@dataclass
class _Splitter:
    text: str
    size: int
    overlap: int
    spans: list[Piece] = field(default_factory=list[Piece])

    def chunks(self) -> Sequence[str]:
        for start, end in self._joined(self._pieces(0, len(self.text), 0)):
            if self.spans and end - self.spans[-1][0] <= self.size:
                self.spans[-1] = (self.spans[-1][0], end)
            else:
                self.spans.append((self._reach_back(start, end), end))
        return [self.text[start:end] for start, end in self.spans]

    def _pieces(self, start: int, end: int, level: int) -> Iterator[Piece]:
        """The parts between two separators of `level`; a part that is too long is split by the next finer one."""
        if level == len(_FINER):
            yield from ((at, min(at + self.size, end)) for at in range(start, end, self.size))
            return
        for low, high in self._between(_FINER[level], start, end):
            if high - low <= self.size:
                yield low, high
            else:
                yield from self._pieces(low, high, level + 1)

    def _between(self, separator: re.Pattern[str], start: int, end: int) -> Iterator[Piece]:
        at = start
        for found in separator.finditer(self.text, start, end):
            yield from self._stripped(at, found.start())
            at = found.end()
        yield from self._stripped(at, end)

    def _stripped(self, start: int, end: int) -> Iterator[Piece]:
        part = self.text[start:end]
        if kept := part.strip():
            start += len(part) - len(part.lstrip())
            yield start, start + len(kept)

    def _joined(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces, with each heading joined to what follows it."""
        heading: Piece | None = None
        for start, end in pieces:
            if heading is not None and end - heading[0] > self.size:
                yield heading
                heading = None
            begin = start if heading is None else heading[0]
            if _HEADING.fullmatch(self.text, start, end):
                heading = (begin, end)
            else:
                yield begin, end
                heading = None
        if heading is not None:
            yield heading

    def _reach_back(self, start: int, end: int) -> int:
        """Where a chunk begins whose first new piece is (start, end): some words before it, if there is room."""
        if not self.spans or not self.overlap:
            return start
        before, last = self.spans[-1]
        earliest = max(last - self.overlap, end - self.size, before + 1)
        found = bisect_left(self._words, earliest)
        return min(self._words[found], start) if found < len(self._words) else start

    @cached_property
    def _words(self) -> Sequence[int]:
        """Where the words of the text begin."""
        return [found.start() for found in re.finditer(r"\S+", self.text)]
