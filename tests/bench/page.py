"""The tables of a page that the bench writes: each stands between `<!-- bench: TITLE -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Page:
    """A page in Markdown."""

    path: Path

    def put(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], circumstances: str) -> bool:
        """Replace a table, and the line under it that says what was measured. False: the page has no place for it."""
        lines = [
            _line(columns),
            _line(["---"] * len(columns)),
            *(_line(row) for row in rows),
            "",
            f"*{circumstances}.*",
        ]
        place = re.compile(rf"(<!-- bench: {re.escape(title)} -->\n).*?(<!-- end -->)", re.DOTALL)
        table = "\n".join(lines)
        text, places = place.subn(lambda found: f"{found[1]}{table}\n{found[2]}", self.path.read_text())
        self.path.write_text(text)
        return places > 0


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
