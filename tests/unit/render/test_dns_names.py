"""What agents are called where names are DNS labels."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from aixgo.errors import ConfigError
from aixgo_services.render import names as rule
from aixgo_services.render.names import RESERVED, dns_name, dns_names
from hypothesis import given
from hypothesis import strategies as st

from tests.deploy.fleets import NAMES

SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
"""The strictest of Kubernetes' rules for names (DNS-1035), which Services have."""


@given(NAMES)
def test_every_agent_name_becomes_a_dns_label(name: str):
    label = dns_name(name)
    assert SERVICE.fullmatch(label)
    assert len(label) <= 50
    assert label not in RESERVED


@given(st.lists(NAMES, unique=True))
def test_no_two_agents_share_a_label(names: list[str]):
    assert len(set(dns_names(names).values())) == len(names)


@given(NAMES)
def test_a_label_that_was_made_is_never_what_an_agent_keeps(name: str):
    label = dns_name(name)
    assert label == name or dns_name(label) != label


@pytest.mark.parametrize("name", ["team", "a", "triage-2", "x" * 50, "a-0123abcde", "a0123456789"])
def test_a_name_that_is_a_label_stays_as_it_is(name: str):
    assert dns_name(name) == name


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("My_Agent", "my-agent-3aa8829387"),
        ("gateway", "gateway-4ea5ee68fe"),
        ("9lives", "a-9lives-bc867356de"),
        ("a-0123456789", "a-0123456789-14599cfd54"),
    ],
)
def test_other_names_get_a_part_of_their_digest(name: str, label: str):
    assert dns_name(name) == label


def test_two_names_with_the_same_digest_are_refused_rather_than_mixed_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rule, "sha256", lambda _: SimpleNamespace(hexdigest=lambda: "0" * 64))
    with pytest.raises(ConfigError, match="rename one of them"):
        dns_names(["My_Agent", "my.agent"])
