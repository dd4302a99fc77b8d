"""Rules of access: which identities may do something to which names.

Pure. A rule is written `IDENTITY` or `IDENTITY=NAMES`, names with commas between, rules with semicolons:

    spiffe://example.org/ns/prod/agent/{name}; deployer=*; desk=triage,ticket

`*` stands for any text. `{name}` in an identity stands for the name in question, so that one rule lets everybody act
under their own name only. An identity without names is good for every name. Above: `settings.py` and `security.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aixgo.errors import ConfigError

NAME, ANY = "{name}", "*"
MAX_RULES = 1_000
"""Rules in one text."""
MAX_PATTERN = 2_048
"""Characters of an identity; SPIFFE IDs have at most so many bytes."""
DEFAULT_REGISTRATION = "{name}; spiffe://*/agent/{name}"
"""Who may register a name where nobody says otherwise: whoever is called so, by a name or a SPIFFE ID."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who (a pattern) may act on which names (patterns)."""

    identity: str
    names: tuple[str, ...]

    def allows(self, identity: str, name: str) -> bool:
        """Whether this identity may act on this name."""
        if ANY in name:  # no agent is called so, and in place of {name} it would let everybody in
            return False
        return any(fits(pattern, name) for pattern in self.names) and fits(self.identity.replace(NAME, name), identity)


@dataclass(frozen=True, slots=True)
class Rules:
    """Several rules; what one of them allows is allowed, and nothing else."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Rules:
        """The rules of a text. Raises ConfigError, which quotes the rule that cannot be read."""
        rules = tuple(_parsed(text))
        if len(rules) > MAX_RULES:
            raise ConfigError(f"there are {len(rules)} rules; use at most {MAX_RULES}, with * where names are alike")
        return cls(rules)

    def allows(self, identities: Iterable[str], name: str) -> bool:
        """Whether one of these identities, which all belong to one caller, may act on this name."""
        return any(rule.allows(identity, name) for identity in identities for rule in self.rules)


def fits(pattern: str, text: str) -> bool:
    """Whether `text` is what `pattern` says, in which `*` stands for any characters.

    Linear in both: between a fixed beginning and end, each part is sought after the one before it.
    """
    first, *rest = pattern.split(ANY)
    if not rest:
        return pattern == text
    *middle, last = rest
    end = len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last) or end < len(first):
        return False
    at = len(first)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def check_pattern(pattern: str) -> str:
    """The pattern of an identity as it is; raises ValueError for one that nobody can have."""
    if not pattern or len(pattern) > MAX_PATTERN or re.search(r"[\s;=]", pattern):
        raise ValueError(
            f"{pattern[:80]!r} is no identity; write a SPIFFE ID, a name of a certificate or of a token, with * for any"
            " text"
        )
    return pattern


def _parsed(text: str) -> Iterator[Rule]:
    for part in filter(None, (each.strip() for each in text.split(";"))):
        identity, equals, listed = (each.strip() for each in part.partition("="))
        names = tuple(name.strip() for name in listed.split(",")) if equals else (ANY,)
        try:
            check_pattern(identity)
        except ValueError as error:
            raise ConfigError(f"rule {part[:80]!r}: {error}") from error
        if not all(names):
            raise ConfigError(f"rule {part[:80]!r} has an empty name; write IDENTITY=NAME,NAME or IDENTITY=*")
        yield Rule(identity, names)
