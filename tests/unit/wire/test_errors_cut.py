"""Fields of errors that are too long for the wire arrive shortened, rather than not at all."""

from __future__ import annotations

from aixgo.errors import AgentFailed, AllMembersFailed
from aixgo.wire.codec import MAX_ERROR_FIELDS, decode_error, encode_error


def test_the_errors_of_many_members_arrive_in_part() -> None:
    errors = {f"agent-{number}": AgentFailed("it went wrong " * 50).brief() for number in range(100)}
    sent = AllMembersFailed("all failed", fields={"errors": errors})
    encoded = encode_error(sent)
    assert 0 < len(encoded.fields) <= MAX_ERROR_FIELDS
    arrived = decode_error(encoded).fields["errors"]
    assert list(arrived) == list(errors)[: len(arrived)]
    assert arrived["agent-0"]["class"] == "AgentFailed"
    assert arrived["agent-0"]["message"].startswith("it went wrong")


def test_fields_that_fit_arrive_as_they_are() -> None:
    sent = AllMembersFailed("all failed", fields={"errors": {"a": AgentFailed("no").brief()}, "count": [1, 2.5, None]})
    assert decode_error(encode_error(sent)).fields == sent.fields


def test_fields_that_are_still_too_long_are_left_out() -> None:
    wide = {f"{outer}{'x' * 90}": {f"{inner}{'y' * 90}": "z" * 90 for inner in range(9)} for outer in range(9)}
    assert decode_error(encode_error(AgentFailed("no", fields={"wide": wide}))).fields == {}


def test_a_field_that_is_too_deep_is_named() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    assert decode_error(encode_error(AgentFailed("no", fields={"deep": deep}))).fields == {
        "deep": "a list too deep to print"
    }
