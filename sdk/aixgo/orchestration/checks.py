"""What a pattern refuses when it is made: numbers out of range and words that mean nothing, by name and with the fix.

Each check returns the value itself, or raises InvalidInput, which begins with `what`. Below: the limits of `base.py`.
Above: the constructors of the patterns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeVar

from aixgo.errors import InvalidInput
from aixgo.names import nearest
from aixgo.orchestration.base import Limits

WordT = TypeVar("WordT", bound=str)


def check_rounds(what: str, rounds: int, limits: Limits) -> int:
    """A number from 1 to limits.max_iterations."""
    if not 1 <= rounds <= limits.max_iterations:
        raise InvalidInput(f"{what} is {rounds}; pass 1 to {limits.max_iterations}, or raise limits.max_iterations")
    return rounds


def check_count(what: str, count: int, most: int | None = None, *, least: int = 1) -> int:
    """A number from `least` to `most`."""
    if count < least or (most is not None and count > most):
        raise InvalidInput(f"{what} is {count}; pass {least} {'or more' if most is None else f'to {most}'}")
    return count


def check_concurrency(what: str, concurrency: int | None) -> int | None:
    """How many run at once: 1 or more, or None for all."""
    if concurrency is not None and concurrency < 1:
        raise InvalidInput(f"{what} is {concurrency}; pass 1 or more, or leave it out")
    return concurrency


def check_share(what: str, share: float) -> float:
    """A number from 0 to 1."""
    if not 0 <= share <= 1:
        raise InvalidInput(f"{what} is {share}; pass a number from 0 to 1")
    return share


def check_word(what: str, word: WordT, words: Collection[WordT]) -> WordT:
    """One of `words`."""
    if word not in words:
        raise InvalidInput(f"{what} is {word!r}, which is not known; {nearest(word, words)}")
    return word


def check_names(what: str, named: Mapping[str, object], known: Collection[str], kind: str = "member") -> None:
    """Raise InvalidInput for a key of `named` that is none of `known`."""
    for name in named:
        if name not in known:
            raise InvalidInput(f"{what}.{name}: there is no such {kind}; {nearest(name, known)}")
