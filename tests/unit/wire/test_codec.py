"""Messages, usage, events and contexts, there and back."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from aixgo.call import Budget
from aixgo.errors import AgentFailed, AixgoError, InternalError, InvalidMessage
from aixgo.events import Delta, Event, MemberFinished, MemberStarted, Result, ToolCall
from aixgo.message import Message
from aixgo.usage import NO_USAGE, Usage
from aixgo.v1 import types_pb2 as pb
from aixgo.v1.agent_pb2 import Frame
from aixgo.wire import codec, fields
from hypothesis import given
from hypothesis import strategies as st

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
counts = st.integers(0, 2**63 - 1)
usages = st.builds(
    Usage, counts, counts, counts, counts, counts, st.none() | st.decimals(0, 10**6, places=9), counts, st.booleans()
)
messages = st.builds(
    Message,
    texts | st.binary() | json_values,
    st.dictionaries(texts, json_values, max_size=3),
    texts,
    usages,
    texts.filter(bool),
)
paths = st.lists(texts, max_size=3).map(tuple)
tool_calls = st.one_of(
    st.builds(ToolCall, texts, texts, st.dictionaries(texts, json_values, max_size=2), path=paths),
    st.builds(ToolCall, texts, texts, output=json_values, done=st.just(True), path=paths),
    st.builds(ToolCall, texts, texts, error=texts.filter(bool), done=st.just(True), path=paths),
)
events = (
    st.builds(Delta, texts, paths) | st.builds(MemberStarted, paths) | st.builds(Result, messages, paths) | tool_calls
    | st.builds(MemberFinished, messages, path=paths, instance_id=texts)
)  # fmt: skip


@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    data = codec.encode_message(message).SerializeToString()
    assert codec.decode_message(pb.Message.FromString(data)) == message


@given(usages)
def test_usage_comes_back_to_the_last_digit(usage: Usage) -> None:
    assert codec.decode_usage(pb.Usage.FromString(codec.encode_usage(usage).SerializeToString())) == usage


@given(events, paths)
def test_an_event_comes_back_as_it_was(event: Event, likely: tuple[str, ...]) -> None:
    data = pb.Event.FromString(codec.encode_event(event).SerializeToString())
    assert codec.decode_event(data) == event
    assert codec.decode_event(data, likely) == event
    assert codec.decode_event(data, event.path).path is event.path


@given(events)
def test_an_event_that_is_written_by_hand_is_what_protobuf_writes(event: Event) -> None:
    assert pb.Event.FromString(codec.event_bytes(event)) == codec.encode_event(event)


@pytest.mark.parametrize("size", [0, 1, 122, 123, 124, 125, 126, 127, 128, 16_380, 16_384, 3_000_000])
def test_a_delta_of_any_size_comes_back_as_it_was(size: int) -> None:
    delta = Delta("é" * (size // 2) + "x" * (size % 2), ("a", "b"))
    assert codec.decode_event(pb.Event.FromString(codec.event_bytes(delta))) == delta


@given(st.integers(0, 2**64 - 1))
def test_numbers_that_are_written_by_hand_are_what_protobuf_reads(number: int) -> None:
    assert Frame.FromString(b"\x08" + fields.varint(number)).call == number


def test_a_members_error_comes_up_as_its_class() -> None:
    error = AgentFailed("it broke", fields={"exception": "builtins.ValueError"})
    error.agent_path = ("a", "b")
    event = codec.decode_event(codec.encode_event(MemberFinished(error=error, path=("a", "b"))))
    assert isinstance(event, MemberFinished)
    assert type(event.error) is AgentFailed
    assert (event.message, event.path, event.error.fields) == (None, ("a", "b"), error.fields)


def test_no_usage_stays_the_one_that_is_recognised_by_identity() -> None:
    assert codec.decode_usage(pb.Usage()) is NO_USAGE
    assert codec.decode_message(pb.Message(text="x")).usage is NO_USAGE


def test_what_another_language_leaves_out_has_its_default() -> None:
    first, second = codec.decode_message(pb.Message()), codec.decode_message(pb.Message())
    assert (first.payload, dict(first.metadata), first.session_id) == ("", {}, "")
    assert first.id
    assert first.id != second.id


@pytest.mark.parametrize("data", [b"{", b"", b"\xff", b"{} {}", b"[" * 1000])
def test_a_broken_json_payload_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="not valid JSON"):
        codec.decode_message(pb.Message(json=data))


@pytest.mark.parametrize("data", [b"[]", b"1", b'"a"', b"null"])
def test_metadata_that_is_no_object_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="metadata is no JSON object"):
        codec.decode_message(pb.Message(metadata=data))


@pytest.mark.parametrize(
    "usd", ["much", "1,5", "NaN", "-NaN", "sNaN", "Infinity", "-1", "-0.01", "1e13", "1e999999", "0x10", " "]
)
def test_an_amount_that_is_none_is_a_typed_error(usd: str) -> None:
    with pytest.raises(InvalidMessage, match=r"cost_usd is .*; send a decimal number"):
        codec.decode_usd(usd)


def test_amounts_are_exact_and_the_empty_one_is_unknown() -> None:
    assert codec.decode_usd("0.10") == Decimal("0.1")
    assert codec.decode_usd("") is None
    assert codec.decode_usd("0") == 0


@pytest.mark.parametrize("payload", [{"a": {1}}, [object()], {1: "a"}, 2**64, "\ud800", ["\udfff"]])
def test_a_payload_that_cannot_be_sent_is_a_typed_error(payload: Any) -> None:
    with pytest.raises(InvalidMessage):
        codec.encode_message(Message(payload))


def test_ids_sessions_and_deltas_that_are_no_unicode_are_typed_errors() -> None:
    for broken in (Message("x", id="\ud800"), Message("x", session_id="\ud800")):
        with pytest.raises(InvalidMessage):
            codec.encode_message(broken)
    with pytest.raises(InvalidMessage):
        codec.encode_event(Delta("\ud800"))
    with pytest.raises(InvalidMessage):
        codec.event_bytes(Delta("\ud800"))


def test_an_event_of_a_kind_that_is_not_known_is_a_typed_error() -> None:
    with pytest.raises(InternalError, match="update the caller"):
        codec.decode_event(pb.Event(agent_path=["a"]))


def test_a_finished_member_without_an_outcome_is_an_empty_message() -> None:
    event = codec.decode_event(pb.Event(member_finished=pb.MemberFinished()))
    assert isinstance(event, MemberFinished)
    assert event.message is not None
    assert event.message.payload == ""


@given(st.none() | st.integers(0, 2**63 - 1), st.none() | st.decimals(0, 10**6, places=9))
def test_a_grant_comes_back_as_the_budget_that_it_was(tokens: int | None, usd: Decimal | None) -> None:
    context = pb.CallContext(grant=codec.encode_grant(Budget(tokens, usd)))
    granted = codec.decode_grant(pb.CallContext.FromString(context.SerializeToString()))
    assert granted is not None
    assert granted.left() == (tokens, usd)


def test_an_overspent_budget_grants_nothing_rather_than_less() -> None:
    grant = codec.encode_grant(Budget(-5, Decimal(-1)))
    assert (grant.tokens, grant.cost_usd) == (0, "0")


def test_no_grant_is_no_limit() -> None:
    assert codec.decode_grant(pb.CallContext()) is None
    empty = codec.decode_grant(pb.CallContext(grant=pb.Grant()))
    assert empty is not None
    assert empty.left() == (None, None)


@pytest.mark.parametrize("grant", [pb.Grant(tokens=-1), pb.Grant(cost_usd="-1"), pb.Grant(cost_usd="x")])
def test_a_grant_below_nothing_is_a_typed_error(grant: pb.Grant) -> None:
    with pytest.raises(InvalidMessage):
        codec.decode_grant(pb.CallContext(grant=grant))


@given(st.text(), st.integers(10, 60))
def test_a_cut_text_keeps_its_beginning_and_the_limit(text: str, limit: int) -> None:
    cut = codec.cut(text, limit)
    assert len(cut.encode()) <= limit
    whole = text.encode(errors="replace").decode()
    assert cut == whole or (cut.endswith("…") and whole.startswith(cut[:-1]))


@pytest.mark.parametrize(
    "usage", [pb.Usage(prompt_tokens=-1), pb.Usage(llm_calls=-5), pb.Usage(completion_tokens=-(2**63))]
)
def test_usage_below_nothing_is_a_typed_error(usage: pb.Usage) -> None:
    with pytest.raises(InvalidMessage, match="usage"):
        codec.decode_usage(usage)


def test_every_typed_error_of_the_codec_is_an_aixgo_error() -> None:
    assert issubclass(InvalidMessage, AixgoError)


def test_usage_on_a_request_does_not_count() -> None:
    wire = codec.encode_message(Message("x", usage=Usage(prompt_tokens=3)))
    assert codec.decode_message(wire).usage == Usage(prompt_tokens=3)
    assert codec.decode_message(wire, usage_counts=False).usage == Usage()
