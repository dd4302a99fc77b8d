"""The language of conditions: what each comparison means, over any JSON value."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo.message import Message, from_json, to_json
from aixgo.orchestration.conditions import Condition
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
JSON = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3)
)
PLAIN = JSON.filter(lambda value: not isinstance(value, dict))


def holds(given_: Any, message: Message) -> bool:
    return Condition.model_validate(given_)(message)


def about(value: Any) -> Message:
    return Message({"a": {"b": value}})


@pytest.mark.parametrize(
    ("comparison", "value", "expected"),
    [
        ("en", "en", True), ("en", "EN", False), (None, None, True), (1, 1.0, True), (True, 1, False), (1, True, False),
        ({"equals": {"k": 1}}, {"k": 1}, True), ({"equals": {"k": 1}}, {"k": 2}, False),
        ({"not": "en"}, "de", True), ({"not": "en"}, "en", False), ({"not": True}, 1, True),
        ({"in": ["a", "b"]}, "b", True), ({"in": ["a", "b"]}, "c", False), ({"in": [1]}, True, False),
        ({"contains": "Need"}, "a NEEDLE in it", True), ({"contains": "x"}, "abc", False),
        ({"contains": 2}, [1, 2], True), ({"contains": 1}, [True], False), ({"contains": "a"}, {"a": 1}, False),
        ({"contains": 1}, "1", False), ({"contains": "straße"}, "STRASSE", True),
        ({"above": 1}, 2, True), ({"above": 2}, 2, False), ({"above": 1}, "2", False), ({"above": 0}, True, False),
        ({"below": 1.5}, 1, True), ({"below": 1}, None, False), ({"above": 1, "below": 3}, 2, True),
        ({"above": 1, "below": 3}, 3, False), ({"above": 1}, 10**400, True),
        ({"exists": True}, None, True), ({"exists": False}, None, False),
    ],
)  # fmt: skip
def test_what_each_comparison_means(comparison: Any, value: Any, expected: bool) -> None:
    assert holds({"payload.a.b": comparison}, about(value)) is expected


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        ("x", False), (None, False), ({"equals": None}, False), ({"not": "x"}, True), ({"not": None}, True),
        ({"in": ["x", None]}, False), ({"contains": "x"}, False), ({"above": 0}, False), ({"below": 0}, False),
        ({"exists": True}, False), ({"exists": False}, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["payload.a.c", "payload.a.b.c", "metadata.k", "payload.a.b.0"])
def test_what_is_absent_fails_all_but_two(comparison: Any, expected: bool, path: str) -> None:
    assert holds({path: comparison}, about("text")) is expected


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("text", Message("v")),
        ("text", Message(b"v")),
        ("payload", Message("v")),
        ("payload.k", Message({"k": "v"})),
        ("payload.1", Message(["u", "v"])),
        ("payload.0.k", Message([{"k": "v"}])),
        ("payload.0", Message({"0": "v"})),
        ("metadata.k", Message("", {"k": "v"})),
        ("metadata.k.l", Message("", {"k": {"l": "v"}})),
    ],
)
def test_where_paths_lead(path: str, message: Message) -> None:
    assert holds({path: "v"}, message)
    assert not holds({path: "w"}, message)


@pytest.mark.parametrize("key", ["2", "-1", "9" * 5000, "²", "k", "+0"])
def test_a_place_that_a_list_has_not_is_absent(key: str) -> None:
    assert holds({f"payload.{key}": {"exists": False}}, Message(["u", "v"]))


def test_all_paths_must_hold() -> None:
    message = Message("text", {"k": 1})
    assert holds({"text": "text", "metadata.k": 1}, message)
    assert not holds({"text": "text", "metadata.k": 2}, message)


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({}, "a condition has at least one path"),
        ({"metdata.k": 1}, "path 'metdata.k' begins with none of text, payload, metadata"),
        ({"text.k": 1}, "path 'text.k' is not text"),
        ({"metadata": 1}, "path 'metadata' is not text"),
        ({"payload.": 1}, "path 'payload.' is not text"),
        ({"payload..k": 1}, "path 'payload..k' is not text"),
        ({"": 1}, "path '' begins with none of"),
        ({"text": {}}, "text: nothing is asked of it; known are: equals, not, in, contains, above, below, exists"),
        ({"text": {"like": "x"}}, "text: like is no comparison; known are: equals"),
        ({"text": {"above": "much"}}, "text: above: Input should be a valid number"),
        ({"text": {"in": "x"}}, "text: in: Input should be a valid tuple"),
    ],
)
def test_what_is_no_condition_is_refused_by_its_path(given_: Any, text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Condition.model_validate(given_)
    assert text in str(caught.value)


@given(value=JSON, other=JSON)
def test_a_value_equals_itself_and_not_is_the_opposite_of_equals(value: Any, other: Any) -> None:
    message = about(from_json(to_json(value)))
    assert holds({"payload.a.b": {"equals": value}}, message)
    equal = holds({"payload.a.b": {"equals": other}}, message)
    assert holds({"payload.a.b": {"not": other}}, message) is not equal
    assert holds({"payload.a.b": {"in": [other]}}, message) is equal
    if not isinstance(other, dict):
        assert holds({"payload.a.b": other}, message) is equal


@given(value=st.integers() | st.floats(allow_nan=False), limit=st.floats(allow_nan=False))
def test_a_number_is_above_below_or_equal(value: float, limit: float) -> None:
    path = "payload.a.b"
    found = [holds({path: {key: limit}}, about(value)) for key in ("above", "below", "equals")]
    assert sum(found) == 1


@given(value=JSON, condition=st.dictionaries(st.sampled_from(["text", "payload", "payload.a", "payload.a.b"]), PLAIN))
def test_no_value_breaks_a_condition(value: Any, condition: dict[str, Any]) -> None:
    if condition:
        assert holds(condition, about(value)) in (True, False)
