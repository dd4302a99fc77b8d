"""What is wrong with a configuration file, collected and told at once.

`document.py` and `load.py` (above) add what they find; the user reads `file:line: what is wrong; fix`, one line each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aixgo.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MAX_SHOWN = 20
"""Problems that one error tells in full; the rest is counted."""
MAX_KEPT = 1_000
"""Problems of a file that are noted; whoever has so many need not know the others to begin."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong, at a line of the file (from 1; 0 when it is the file as a whole)."""

    line: int
    what: str


@dataclass(slots=True)
class Problems:
    """All that is wrong with one file."""

    path: Path
    found: list[Problem] = field(default_factory=list[Problem])

    def add(self, line: int, what: str) -> None:
        """Note a problem; the same one at the same line is noted once."""
        problem = Problem(line, what)
        if len(self.found) < MAX_KEPT and problem not in self.found:
            self.found.append(problem)

    def error(self) -> ConfigError:
        """All of it as one error, in the order of the file."""
        found = sorted(self.found)
        lines = [f"{at(self.path, problem.line)}: {problem.what}" for problem in found[:MAX_SHOWN]]
        if len(found) > MAX_SHOWN:
            lines.append(f"... and {len(found) - MAX_SHOWN} more")
        problems = [{"line": problem.line, "problem": problem.what} for problem in found]
        return ConfigError("\n".join(lines), fields={"file": str(self.path), "problems": problems})

    def check(self) -> None:
        """Raise what was found, if anything was."""
        if self.found:
            raise self.error()


def at(path: Path, line: int) -> str:
    """`file:line`, or just the file when there is no line."""
    return f"{path}:{line}" if line else str(path)
