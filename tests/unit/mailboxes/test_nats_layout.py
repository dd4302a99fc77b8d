"""Names and subjects in NATS: what any name or id becomes, and where sessions go."""

from __future__ import annotations

import re

import pytest
from aixgo.mailboxes import nats_layout as layout
from aixgo.mailboxes.contract import MailboxPolicy
from hypothesis import given
from hypothesis import strategies as st

TOKEN = re.compile(r"[A-Za-z0-9_=-]{1,128}")


@given(st.text())
def test_every_id_is_one_token(text: str) -> None:
    assert TOKEN.fullmatch(layout.token(text))


@given(st.text(), st.text())
def test_different_ids_have_different_tokens(one: str, other: str) -> None:
    assert (layout.token(one) == layout.token(other)) == (
        one.encode(errors="replace") == other.encode(errors="replace")
    )


@pytest.mark.parametrize("name", ["writer", "a_b-c", "team.writer"])
def test_names_of_agents_stand_for_one_level_of_a_subject(name: str) -> None:
    assert layout.mail_subject(name, "").count(".") == 3
    assert not re.search(r"[.\s/*>]", layout.mail_stream_name(name))


def test_a_session_always_goes_to_the_same_lane() -> None:
    """The lanes are part of what is stored: these must not change."""
    assert layout.mail_subject("box", "session 1") == "aixgo.mail.box.s3"
    assert layout.mail_subject("box", "session 2") == "aixgo.mail.box.s9"
    assert layout.mail_subject("box", "") == "aixgo.mail.box.any"


def test_sessions_are_spread_over_all_lanes() -> None:
    used = {layout.mail_subject("box", f"session {number}").rpartition(".")[2] for number in range(1000)}
    assert used == set(layout.LANE_NAMES) - {layout.ANY}


def test_receipts_are_kept_for_longer_than_two_deliveries_can_lie_apart() -> None:
    policy = MailboxPolicy(backoff=(1.0, 3600.0), ack_wait=60.0)
    assert layout.receipts_stream(policy, 1)["max_age"] > (3600 + 300 + 60) * layout.NANOSECONDS


def test_one_letter_of_a_lane_of_sessions_is_out_at_a_time() -> None:
    policy = MailboxPolicy()
    assert {layout.consumer("box", lane, policy)["max_ack_pending"] for lane in layout.LANE_NAMES} == {1, 1000}
