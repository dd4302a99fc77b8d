"""JSON and metadata on the wire: within limits, or refused by the name of the field, on both sides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import orjson
import pytest
from aixgo.errors import AixgoError, InvalidMessage, InvalidReply, MessageTooLarge
from aixgo.events import ToolCall
from aixgo.message import Message
from aixgo.server.incoming import fill_reply, read_call
from aixgo.usage import Usage
from aixgo.v1 import agent_pb2
from aixgo.v1 import types_pb2 as pb
from aixgo.wire.codec import decode_message, encode_event, encode_message
from aixgo.wire.values import MAX_JSON_DEPTH, MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, nested_deeper
from hypothesis import given, settings
from hypothesis import strategies as st


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def brackets(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def in_metadata(value: bytes) -> bytes:
    return b'{"a":' + value + b"}"


MANY = {str(number): 0 for number in range(MAX_METADATA_ENTRIES + 1)}
LARGE = {"a": "x" * MAX_METADATA_BYTES}
SENT: list[tuple[Message, type[AixgoError], str, int]] = [
    (Message(nested(MAX_JSON_DEPTH + 1)), InvalidMessage, "payload", MAX_JSON_DEPTH),
    (Message("x", {"a": nested(MAX_JSON_DEPTH)}), InvalidMessage, "metadata", MAX_JSON_DEPTH),
    (Message("x", MANY), InvalidMessage, "metadata", MAX_METADATA_ENTRIES),
    (Message("x", LARGE), MessageTooLarge, "metadata", MAX_METADATA_BYTES),
]
CAME: list[tuple[pb.Message, type[AixgoError], str, int]] = [
    (pb.Message(json=brackets(MAX_JSON_DEPTH + 1)), InvalidMessage, "payload", MAX_JSON_DEPTH),
    (pb.Message(json=brackets(100_000)), InvalidMessage, "payload", MAX_JSON_DEPTH),
    (pb.Message(metadata=in_metadata(brackets(MAX_JSON_DEPTH))), InvalidMessage, "metadata", MAX_JSON_DEPTH),
    (pb.Message(metadata=in_metadata(brackets(100_000))), InvalidMessage, "metadata", MAX_JSON_DEPTH),
    (pb.Message(metadata=orjson.dumps(MANY)), InvalidMessage, "metadata", MAX_METADATA_ENTRIES),
    (pb.Message(metadata=orjson.dumps(LARGE)), MessageTooLarge, "metadata", MAX_METADATA_BYTES),
]


def refusal(made: Callable[[], object]) -> AixgoError:
    with pytest.raises(AixgoError) as caught:
        made()
    return caught.value


@pytest.mark.parametrize(("message", "kind", "field", "limit"), SENT)
def test_what_is_too_much_is_not_sent(message: Message, kind: type[AixgoError], field: str, limit: int) -> None:
    error = refusal(lambda: encode_message(message))
    assert (type(error), error.fields) == (kind, {"field": field, "limit": limit})
    assert field in error.message
    assert str(limit) in error.message


@pytest.mark.parametrize(("message", "kind", "field", "limit"), CAME)
def test_what_is_too_much_is_refused_where_it_comes_in(
    message: pb.Message, kind: type[AixgoError], field: str, limit: int
) -> None:
    error = refusal(lambda: read_call(agent_pb2.ExecuteRequest(agent="a", message=message)))
    assert (type(error), error.fields) == (kind, {"field": field, "limit": limit})
    assert field in error.message
    assert str(limit) in error.message


@pytest.mark.parametrize("message", [message for message, *_ in CAME])
def test_a_reply_or_a_letter_with_too_much_in_it_is_an_invalid_message(message: pb.Message) -> None:
    assert type(refusal(lambda: decode_message(message))) is InvalidMessage


def test_what_the_limits_allow_comes_back_as_it_was() -> None:
    entries = {str(number): 0 for number in range(MAX_METADATA_ENTRIES - 2)}
    room = MAX_METADATA_BYTES - len(orjson.dumps({**entries, "deep": nested(MAX_JSON_DEPTH - 1), "room": ""}))
    metadata = {**entries, "deep": nested(MAX_JSON_DEPTH - 1), "room": "x" * room}
    message = Message(nested(MAX_JSON_DEPTH), metadata)
    wire = encode_message(message)
    assert len(wire.metadata) == MAX_METADATA_BYTES
    assert decode_message(wire) == message


@pytest.mark.parametrize(("message", "kind", "field", "limit"), SENT)
def test_a_reply_that_is_too_much_says_whose_it_is_and_what_was_spent(
    message: Message, kind: type[AixgoError], field: str, limit: int
) -> None:
    reply = message.with_(usage=Usage(prompt_tokens=7))
    error = refusal(lambda: fill_reply(pb.Message(), reply, "echo", ("front",)))
    assert type(error) is (MessageTooLarge if kind is MessageTooLarge else InvalidReply)
    assert (error.agent_path, error.usage.prompt_tokens) == (("front", "echo"), 7)
    assert field in error.message


def test_what_is_no_json_is_refused_by_the_name_of_its_field() -> None:
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for message, field in (
        (Message({"a": {1}}), "payload: "),
        (Message("x", {"a": object()}), "metadata: "),
        (Message(cyclic), "payload has more than"),
    ):
        with pytest.raises(InvalidMessage, match=f"^{field}"):
            encode_message(message)
    for wire, field in ((pb.Message(json=b"{"), "payload"), (pb.Message(metadata=b"{"), "metadata")):
        with pytest.raises(InvalidMessage, match=f"^{field}: not valid JSON"):
            decode_message(wire)
    with pytest.raises(InvalidMessage, match=r"^tool_call\.output: "):
        encode_event(ToolCall("1", "t", {}, cast("Any", object()), done=True))


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.text('[]{}\\"a', max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text('[{\\"', max_size=3), inner)),
    max_leaves=12,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        value = list(cast("dict[str, object]", value).values())
    return 1 + max(map(depth_of, cast("list[object]", value)), default=0) if isinstance(value, list) else 0


@settings(max_examples=500, deadline=None)
@given(JSON_VALUES)
def test_depth_is_that_of_the_value_whatever_its_texts_look_like(value: object) -> None:
    depth, data = depth_of(value), orjson.dumps(value)
    assert not nested_deeper(data, depth)
    assert depth == 0 or nested_deeper(data, depth - 1)
