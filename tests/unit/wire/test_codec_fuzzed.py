"""Whatever bytes come as a request, what is made of them is a call within bounds, or a typed refusal."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo.call import DEFAULT_TIMEOUT
from aixgo.errors import AixgoError, InvalidInput, InvalidMessage
from aixgo.server.incoming import (
    MAX_ID,
    MAX_NAME,
    MAX_PATH,
    MAX_PATH_TEXT,
    MAX_SESSION_ID,
    MAX_TIMEOUT,
    MAX_TRACE,
    read_call,
)
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import registry_pb2 as registry
from aixgo.v1 import types_pb2 as types
from aixgo.wire.codec import decode_error, decode_event, decode_usd, encode_error, encode_event, encode_grant
from aixgo.wire.instances import read_announcement
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

TEXT = st.text(max_size=30)
JSON = st.one_of(st.binary(max_size=60), st.sampled_from([b"{}", b"[1]", b"null", b"[" * 2_000, b'{"a":1e999}']))
MESSAGES = st.builds(types.Message, id=TEXT, json=JSON, metadata=JSON, session_id=TEXT)
GRANTS = st.builds(
    types.Grant, tokens=st.integers(-(2**63), 2**63 - 1), cost_usd=st.one_of(TEXT, st.decimals().map(str))
)
CONTEXTS = st.builds(
    types.CallContext,
    call_id=TEXT,
    timeout_ms=st.integers(-(2**63), 2**63 - 1),
    depth=st.integers(0, 2**32 - 1),
    agent_path=st.lists(TEXT, max_size=5),
    grant=GRANTS,
)
REQUESTS = st.builds(pb.ExecuteRequest, agent=TEXT, message=MESSAGES, context=CONTEXTS)


@st.composite
def encoded(draw: st.DrawFn, messages: st.SearchStrategy[Any]) -> bytes:
    """An encoded message, as it is, with some of its bytes changed, or of random bytes alone."""
    whole = bytearray(draw(messages).SerializeToString())
    for position, byte in draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4)):
        if position < len(whole):
            whole[position] = byte
    return draw(st.one_of(st.just(bytes(whole)), st.binary(max_size=150)))


@settings(max_examples=500, deadline=None)
@given(encoded(REQUESTS), st.one_of(st.none(), st.floats(0, 1e6)))
def test_any_request_becomes_a_call_within_bounds_or_a_typed_refusal(data: bytes, timeout: float | None) -> None:
    try:
        call = read_call(pb.ExecuteRequest.FromString(data), timeout)
    except (DecodeError, InvalidInput, InvalidMessage):
        return
    assert 0 <= call.timeout <= MAX_TIMEOUT
    assert len(call.path) <= MAX_PATH
    if call.budget is not None:
        assert encode_grant(call.budget).ByteSize() < 200


@settings(max_examples=300, deadline=None)
@given(encoded(st.builds(types.Event, agent_path=st.lists(TEXT, max_size=3), delta=st.builds(types.Delta, text=TEXT))))
def test_any_event_is_read_or_refused_by_type(data: bytes) -> None:
    try:
        event = decode_event(types.Event.FromString(data))
    except (DecodeError, AixgoError):
        return
    assert decode_event(encode_event(event)) is not None


@settings(max_examples=300, deadline=None)
@given(encoded(st.builds(types.Error, code=st.integers(-5, 20), message=TEXT, error_class=TEXT, fields=JSON)))
def test_any_error_of_a_peer_becomes_a_typed_error_that_can_be_sent_on(data: bytes) -> None:
    try:
        error = decode_error(types.Error.FromString(data))
    except DecodeError:
        return
    assert isinstance(error, AixgoError)
    assert encode_error(error).ByteSize() < 8_192


@settings(max_examples=300, deadline=None)
@given(
    encoded(
        st.builds(
            registry.Instance,
            instance_id=TEXT,
            address=st.one_of(TEXT, st.just("127.0.0.1:1")),
            seq=st.integers(0, 2**64 - 1),
            agents=st.lists(st.builds(pb.AgentDescriptor, name=st.one_of(TEXT, st.just("a")), role=TEXT), max_size=3),
            state=st.integers(0, 5),
        )
    )
)
def test_any_announcement_is_listed_or_refused_by_type(data: bytes) -> None:
    try:
        instance = read_announcement(registry.Instance.FromString(data))
    except (DecodeError, InvalidInput):
        return
    assert instance.instance_id
    assert instance.agents


def with_context(**fields: Any) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(agent="a", context=types.CallContext(**fields))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExecuteRequest(agent="n" * (MAX_NAME + 1)), "agent"),
        (pb.ExecuteRequest(agent="a", message=types.Message(id="i" * (MAX_ID + 1))), "message.id"),
        (pb.ExecuteRequest(agent="a", message=types.Message(session_id="s" * (MAX_SESSION_ID + 1))), "message.session"),
        (with_context(call_id="c" * (MAX_ID + 1)), "context.call_id"),
        (with_context(session_id="s" * (MAX_SESSION_ID + 1)), "context.session_id"),
        (with_context(agent_path=["a"] * (MAX_PATH + 1)), "context.agent_path"),
        (with_context(agent_path=["a" * 200] * (MAX_PATH_TEXT // 200 + 1)), "context.agent_path"),
        (with_context(traceparent="00-1", baggage="b" * (MAX_TRACE + 1)), "context.baggage"),
        (with_context(traceparent="0" * (MAX_TRACE + 1)), "context.traceparent"),
    ],
)
def test_what_is_too_long_is_refused_by_the_name_of_its_field(request_: pb.ExecuteRequest, field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}.* at most "):
        read_call(request_)


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(2**63 - 1, MAX_TIMEOUT), (-1, DEFAULT_TIMEOUT), (0, DEFAULT_TIMEOUT), (1_500, 1.5)]
)
def test_a_deadline_is_cut_to_what_can_be_handed_on(milliseconds: int, seconds: float) -> None:
    assert read_call(with_context(timeout_ms=milliseconds)).timeout == seconds


@pytest.mark.parametrize("amount", ["1e-999999", "0e-999999999", "1e999999999", "0." + "1" * 100, "NaN", "-1", "x"])
def test_an_amount_that_would_not_fit_on_the_wire_again_is_refused(amount: str) -> None:
    with pytest.raises(InvalidMessage, match="cost_usd is"):
        decode_usd(amount)
