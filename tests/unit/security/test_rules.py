"""Rules of access: what they let through, and how they are read."""

from __future__ import annotations

import re

import pytest
from aixgo.errors import ConfigError
from aixgo.security.rules import DEFAULT_REGISTRATION, MAX_RULES, Rules, fits
from hypothesis import given
from hypothesis import strategies as st

DEFAULT = Rules.parse(DEFAULT_REGISTRATION)


@given(st.text("ab*", max_size=12), st.text("ab", max_size=12))
def test_a_star_is_any_text(pattern: str, text: str):
    as_regex = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert fits(pattern, text) == bool(re.fullmatch(as_regex, text))


@pytest.mark.parametrize(
    ("identity", "name", "may"),
    [
        ("writer", "writer", True),
        ("spiffe://aixgo.dev/agent/writer", "writer", True),
        ("spiffe://example.org/ns/prod/agent/writer", "writer", True),
        ("spiffe://aixgo.dev/agent/writer", "editor", False),
        ("spiffe://aixgo.dev/sa/writer", "writer", False),
        ("spiffe://aixgo.dev/agent/ghost-writer", "writer", False),
        ("anybody", "*", False),
        ("anybody", "any*", False),
    ],
)
def test_unless_told_otherwise_everybody_registers_their_own_name_only(identity: str, name: str, may: bool):
    assert DEFAULT.allows((identity,), name) is may


def test_who_has_no_identity_may_nothing_even_by_a_star():
    assert not Rules.parse("*").allows((), "writer")


def test_a_rule_names_identities_and_whom_they_may_act_for():
    rules = Rules.parse(" spiffe://a.b/{name} ; desk = triage, ticket-* ; root=* ")
    assert rules.allows(("spiffe://a.b/x",), "x")
    assert not rules.allows(("spiffe://a.b/x",), "y")
    assert rules.allows(("desk",), "ticket-7")
    assert not rules.allows(("desk",), "writer")
    assert rules.allows(("stranger", "root"), "writer")


@pytest.mark.parametrize("text", ["=x", "a b=x", "desk=", "desk=x,,y", "a" * 3000])
def test_a_rule_that_cannot_be_read_is_quoted(text: str):
    with pytest.raises(ConfigError, match="rule '"):
        Rules.parse(text)


def test_there_is_a_limit_to_rules():
    with pytest.raises(ConfigError, match="at most"):
        Rules.parse(";".join(f"r{number}" for number in range(MAX_RULES + 1)))
