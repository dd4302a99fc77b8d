"""Messages: frozen, isolated from what they were made of, and checked where they are made."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from aixgo import Message, Usage
from aixgo.errors import InvalidMessage
from aixgo.message import from_json, new_id, to_json
from pydantic import BaseModel


class Point(BaseModel):
    x: int
    y: int = 0


@pytest.mark.parametrize("payload", ["text", b"\x00\xff", {"a": [1]}, [1, 2.5, None], 7, 0.5, True, None])
def test_text_bytes_and_json_are_payloads(payload: Any) -> None:
    assert Message(payload).payload == payload


@pytest.mark.parametrize("payload", [(1, 2), {1}, object(), bytearray(b"x"), Point(x=1), SimpleNamespace()])
def test_another_payload_is_refused_by_its_type_with_the_fix(payload: Any) -> None:
    with pytest.raises(
        InvalidMessage, match=rf"payload is a {type(payload).__name__}; pass str, bytes or a JSON value"
    ):
        Message(payload)


@pytest.mark.parametrize("metadata", ["a=b", [("a", 1)], 7])
def test_metadata_that_is_no_mapping_is_refused(metadata: Any) -> None:
    with pytest.raises(InvalidMessage, match=r"metadata is a .*; pass a dict"):
        Message("x", metadata)


def test_a_message_cannot_be_changed() -> None:
    message = Message("x", {"a": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.payload = "y"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        message.metadata["a"] = 2  # pyright: ignore[reportIndexIssue]


def test_metadata_is_apart_from_the_dict_it_was_made_of() -> None:
    metadata = {"a": 1}
    message = Message("x", metadata)
    metadata["a"] = 2
    assert message.metadata == {"a": 1}


def test_a_changed_copy_leaves_the_original_and_keeps_the_rest() -> None:
    message = Message("x", {"a": 1}, session_id="s", usage=Usage(1))
    changed = message.with_(payload="y")
    assert (message.payload, changed.payload) == ("x", "y")
    assert (changed.id, changed.session_id, changed.usage, changed.metadata) == (message.id, "s", Usage(1), {"a": 1})


def test_metadata_entries_are_added_and_replaced_in_a_copy() -> None:
    message = Message("x", {"a": 1, "b": 2})
    assert message.with_metadata(b=3, c=4).metadata == {"a": 1, "b": 3, "c": 4}
    assert message.metadata == {"a": 1, "b": 2}


def test_messages_have_ids_of_their_own() -> None:
    assert len({new_id() for _ in range(100)} | {Message("x").id for _ in range(100)}) == 200
    assert len(new_id()) == 32


def test_a_message_of_a_message_is_that_message() -> None:
    message = Message("x")
    assert Message.of(message) is message
    assert Message.of("y").payload == "y"


@pytest.mark.parametrize(
    ("payload", "text"),
    [("é", "é"), (b"\xc3\xa9", "é"), (b"\xff", "\ufffd"), ({"a": [1, None]}, '{"a":[1,null]}'), (None, "null")],
)
def test_every_payload_has_a_text(payload: Any, text: str) -> None:
    assert Message(payload).text == text


def test_a_model_comes_back_from_json_text_and_bytes() -> None:
    point = Point(x=3, y=4)
    message = Message.from_model(point, source="test")
    assert message.metadata == {"source": "test"}
    assert message.model(Point) == point
    assert Message(message.text).model(Point) == point
    assert Message(message.text.encode()).model(Point) == point


def test_a_payload_that_is_not_the_model_names_the_fields() -> None:
    with pytest.raises(InvalidMessage, match=r"not a Point: x: .*; y: "):
        Message({"x": "far", "y": "off"}).model(Point)
    with pytest.raises(InvalidMessage, match="not a Point: payload: "):
        Message("no JSON at all").model(Point)


@pytest.mark.parametrize("value", [object(), {1: "a"}, {"a": {2}}, 2**70, "\ud800"])
def test_what_is_not_json_is_a_typed_error(value: Any) -> None:
    with pytest.raises(InvalidMessage, match="not a JSON value"):
        to_json(value)


@pytest.mark.parametrize("data", [b"", b"{", b"nul", b"\xff", b"[1,]"])
def test_broken_json_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="not valid JSON"):
        from_json(data)


def test_frozen_metadata_is_json_too() -> None:
    assert to_json({"nested": Message("x", {"a": 1}).metadata}) == b'{"nested":{"a":1}}'
