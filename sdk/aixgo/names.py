"""What is said of a name that nobody knows: the nearest right one, else all there are.

Used wherever a person types a name: vendors, models, roles, patterns, configuration keys. It stands below everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error's message: `did you mean 'x'?`, or `known are: x, y` when nothing is near."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(names)}" if names else "none are known here"
