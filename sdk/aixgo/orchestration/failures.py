"""Members that failed while others did not: how members are told apart, and how their errors are told.

Errors stand in metadata and in the fields of other errors as {class, message} by label; the wire cuts what is too long.
Below: `aixgo.errors`. Above: the patterns that can do without a member.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from aixgo.errors import AixgoError

_SHOWN = 5


def labelled(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each once: one that is there again is `name#2`, then `name#3`."""
    labels: dict[str, None] = {}
    for name in names:
        label, number = name, 1
        while label in labels:
            number += 1
            label = f"{name}#{number}"
        labels[label] = None
    return tuple(labels)


def briefs(errors: Mapping[str, AixgoError]) -> dict[str, dict[str, str]]:
    """Class and message of each error, by label."""
    return {label: error.brief() for label, error in errors.items()}


def in_words(told: Mapping[str, Mapping[str, str]]) -> str:
    """The end of an error's message: the first errors of `briefs`, and how many more there are."""
    words = [f"{label}: {each['class']}: {each['message']}" for label, each in islice(told.items(), _SHOWN)]
    more = len(told) - len(words)
    return "; ".join([*words, f"and {more} more"] if more else words)
