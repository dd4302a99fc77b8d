"""What is said of a name that nobody knows: the nearest right one, and all there are.

Used wherever a person types a name into YAML: vendors, models, roles, configuration keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error's message: `; did you mean 'x'? Known are: x, y`."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return (f"; did you mean {close[0]!r}?" if close else ";") + f" Known are: {', '.join(names)}"
