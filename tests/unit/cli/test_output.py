"""Replies and events as terminals and scripts read them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from aixgo.errors import AgentFailed
from aixgo.events import Delta, MemberFinished, MemberStarted, Result, ToolCall
from aixgo.message import Message
from aixgo.usage import Usage
from aixgo_services.cli.output import Lines, cost_text, event_json, message_json, show_reply, usage_json

Output = pytest.CaptureFixture[str]


def test_a_message_is_a_json_object_and_its_money_a_decimal_string():
    usage = Usage(3, 4, llm_calls=1, cost_usd=Decimal("0.00120"), incomplete=True)
    told = message_json(Message({"a": 1}, {"k": "v"}, session_id="s", usage=usage, id="i"))
    assert told == {
        "id": "i", "payload": {"a": 1}, "metadata": {"k": "v"}, "session_id": "s",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "llm_calls": 1,
                  "cost_usd": "0.00120", "at_least": True},
    }  # fmt: skip


def test_bytes_are_base64_under_a_key_of_their_own():
    told = message_json(Message(b"\xff"))
    assert told["data"] == "/w=="
    assert "payload" not in told


def test_each_event_names_its_kind_and_path():
    done = ToolCall("1", "search", {"q": "x"}, output=[1], done=True, path=("a",))
    assert event_json(done) == {
        "event": "ToolCall", "path": ["a"], "id": "1", "name": "search", "arguments": {"q": "x"}, "output": [1],
        "error": "", "done": True,
    }  # fmt: skip
    assert event_json(MemberStarted(("a", "b"))) == {"event": "MemberStarted", "path": ["a", "b"]}
    failed = event_json(MemberFinished(error=AgentFailed("broken"), path=("a", "b")))
    assert failed["error"] == {"error": "AgentFailed", "message": "broken", "code": "UNKNOWN"}
    assert event_json(MemberFinished(Message("x"), path=("a", "b")))["message"]["payload"] == "x"


def test_a_reply_shows_its_cost_on_stderr(capsys: Output):
    show_reply(Message("hi", usage=Usage(1, 2, llm_calls=2, unpriced_calls=1, cost_usd=Decimal("0.1"))), as_json=False)
    assert capsys.readouterr() == ("hi\n", "2 LLM calls, 3 tokens, at least $0.1\n")
    show_reply(Message("hi", usage=Usage(1, 2, llm_calls=1, unpriced_calls=1)), as_json=False)
    assert capsys.readouterr().err == "1 LLM calls, 3 tokens, cost unknown\n"


def test_text_that_was_streamed_is_not_printed_twice(capsys: Output):
    lines = Lines()
    for event in (Delta("he", ("a",)), Delta("llo", ("a",)), Result(Message("hello"), ("a",))):
        lines.show(event)
    assert capsys.readouterr().out == "hello\n"


def test_members_are_told_apart(capsys: Output):
    lines = Lines()
    a, b = ("t", "a"), ("t", "b")
    events = (
        MemberStarted(a),
        Delta("one", a),
        Delta("two", b),
        ToolCall("1", "f", path=b),
        ToolCall("1", "f", error="no", done=True, path=b),
        MemberFinished(error=AgentFailed("x"), path=b),
        Result(Message({"a": 1}), ("t",)),
    )
    for event in events:
        lines.show(event)
    out, err = capsys.readouterr()
    assert out == 'one\ntwo\n{\n  "a": 1\n}\n'
    assert err == "a started\na: b: b calls f\nb f: no\nb failed: x\n"


@pytest.mark.parametrize(
    ("cost", "text"),
    [
        ("0", "$0"),
        ("0E-9", "$0"),
        ("12", "$12"),
        ("120.50", "$120.5"),
        ("0.0000012", "$0.000001"),
        ("0.1234565", "$0.123456"),
        ("1E-9", "less than $0.000001"),
    ],
)
def test_people_read_costs_to_a_millionth_and_never_zero_for_something(cost: str, text: str):
    assert cost_text(Usage(1, llm_calls=1, cost_usd=Decimal(cost))) == text


def test_scripts_read_costs_to_the_last_digit_and_without_an_exponent():
    assert usage_json(Usage(1, llm_calls=1, cost_usd=Decimal("1E-9")))["cost_usd"] == "0.000000001"


def test_a_loss_is_told_with_what_it_may_have_cost(capsys: Output):
    lost = Usage(5, llm_calls=1, cost_usd=Decimal("0.5"), incomplete=True, unsettled_tokens=75_000)
    show_reply(Message("hi", usage=lost), as_json=False)
    told = "1 LLM calls, at least 5 tokens, at least $0.5; calls that were lost may have spent 75000 tokens more\n"
    assert capsys.readouterr().err == told
    assert usage_json(lost)["unsettled_tokens"] == 75_000
