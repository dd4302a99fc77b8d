"""What a check has found, for people and for scripts. Below it lies nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is. Only a problem makes `aixgo doctor` fail."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: which check, how bad, what is the case, and what to do about it ("" when fine)."""

    check: str
    level: Level
    what: str
    fix: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well, or it does not matter here."""
    return Finding(check, Level.OK, what)


def warning(check: str, what: str, fix: str) -> Finding:
    """Something may go wrong later."""
    return Finding(check, Level.WARNING, what, fix)


def problem(check: str, what: str, fix: str) -> Finding:
    """Something will not work."""
    return Finding(check, Level.PROBLEM, what, fix)
