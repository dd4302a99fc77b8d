"""Whatever bytes come as a SessionRequest, the protocol takes them or refuses them by type, and holds little."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo.errors import InternalError, InvalidInput, MessageTooLarge
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2 as types
from aixgo.wire.fields import has_more_fields, varint
from aixgo.wire.session import (
    MAX_BATCH,
    MAX_CREDIT,
    MAX_FRAMES,
    MAX_TURN,
    TURN,
    CalleeSession,
    CallerSession,
    Outbox,
    read_request,
    turn_of,
)
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

NUMBERS = st.one_of(st.integers(0, 6), st.integers(0, 2**64 - 1))
COUNTS = st.one_of(st.integers(0, 70), st.integers(0, 2**32 - 1))
MAX_BYTES = 64 * 1024


def frames() -> st.SearchStrategy[pb.Frame]:
    """Frames of every kind, of callers and callees, with numbers near and far."""
    opening = st.builds(pb.OpenFrame, agent=st.text(max_size=20), stream=st.booleans(), credit=COUNTS)
    bodies: list[st.SearchStrategy[dict[str, Any]]] = [
        st.fixed_dictionaries({"open": opening}),
        st.fixed_dictionaries({"credit": st.builds(pb.CreditFrame, events=COUNTS)}),
        st.just({"cancel": pb.CancelFrame()}),
        st.just({"event": types.Event()}),
        st.just({"result": types.Result()}),
        st.just({"error": types.Error(code=2)}),
        st.just({"drain": pb.DrainFrame()}),
        st.just({"load": pb.LoadFrame()}),
        st.just({}),
    ]
    return st.builds(frame, NUMBERS, st.one_of(bodies))


def frame(number: int, body: dict[str, Any]) -> pb.Frame:
    """A frame of a call with this body."""
    return pb.Frame(call=number, **body)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """An encoded SessionRequest, as it is, with some of its bytes changed, cut short, or of random bytes alone."""
    whole = bytearray(pb.SessionRequest(frames=draw(st.lists(frames(), max_size=12))).SerializeToString())
    for position, byte in draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4)):
        if position < len(whole):
            whole[position] = byte
    cut = draw(st.one_of(st.none(), st.integers(0, 200)))
    return draw(st.one_of(st.just(bytes(whole[:cut])), st.binary(max_size=200)))


def receive(callee: CalleeSession, data: bytes, opened: set[int]) -> bool:
    """Take one message as `server/session.py` does; False when it has ended the session."""
    try:
        request = read_request(data)
        for frame in request.frames:
            if callee.receive(frame) == "open":
                assert frame.call not in opened
                opened.add(frame.call)
    except (DecodeError, InvalidInput):
        callee.closed(types.Error(code=3))
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(st.lists(requests(), max_size=6))
def test_any_bytes_are_taken_or_end_the_session_with_one_typed_error(messages: list[bytes]) -> None:
    callee, opened = CalleeSession(MAX_BYTES), set[int]()
    going = all(receive(callee, data, opened) for data in messages)
    assert len(callee) == (len(opened) if going else 0)
    written = pb.SessionResponse.FromString(callee.outbox.take())
    assert [frame.WhichOneof("kind") for frame in written.frames] == ([] if going else ["error"])


@settings(max_examples=200, deadline=None)
@given(st.lists(requests(), max_size=6), st.integers(0, 300))
def test_a_callee_never_sends_beyond_the_credit_that_hostile_frames_can_grant(
    messages: list[bytes], events: int
) -> None:
    callee, opened = CalleeSession(MAX_BYTES), set[int]()
    for data in messages:
        if not receive(callee, data, opened):
            break
    for number in opened:
        sent = 0
        while number in callee and callee.may_send(number) and sent < events:
            callee.event(number, types.Event().SerializeToString())
            sent += 1
        assert sent <= min(events, MAX_CREDIT)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_of_a_callee_are_taken_by_the_caller_or_end_the_session_typed(data: bytes) -> None:
    caller = CallerSession(MAX_BYTES)
    number = caller.open(pb.ExecuteRequest(agent="a").SerializeToString(), stream=False)
    caller.outbox.take()
    try:
        for frame in pb.SessionResponse.FromString(data).frames:
            caller.receive(frame)
    except (DecodeError, InternalError):
        pass  # typed: anything else fails the test
    assert set(caller.closed(clean=False)) <= {number}


def test_a_message_of_nothing_but_empty_frames_is_a_violation() -> None:
    with pytest.raises(InvalidInput, match=f"{MAX_FRAMES + 1} frames came in one message"):
        read_request(b"\x0a\x00" * (MAX_FRAMES + 1))
    assert len(read_request(b"\x0a\x00" * MAX_FRAMES).frames) == MAX_FRAMES


@pytest.mark.parametrize("field", [b"\x0a\x00", b"\x7a\x01x", b"\x78\x05", b"\x7b\x7c", b"\x7d1234", b"\x7912345678"])
def test_a_message_of_nothing_but_fields_is_refused_before_they_are_objects(field: bytes) -> None:
    with pytest.raises(InvalidInput, match=f"more than {MAX_FRAMES} frames came in one message"):
        read_request(b"\x0a\x00" + field * 2_000_000)


def test_one_large_frame_comes_alone_and_passes() -> None:
    opening = pb.OpenFrame(agent="a", message=types.Message(data=b"\x0a\x00" * MAX_BATCH))
    request = pb.SessionRequest(frames=[pb.Frame(call=1, open=opening)])
    assert read_request(request.SerializeToString()) == request


@given(
    st.lists(st.tuples(st.integers(1, 2**29 - 1), st.sampled_from([0, 1, 2, 5]), st.binary(max_size=200)), max_size=9)
)
def test_fields_are_counted_as_a_parser_does(made: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(varint(number << 3 | kind) + _value(kind, value) for number, kind, value in made)
    assert not has_more_fields(data, len(made))
    assert not made or has_more_fields(data, len(made) - 1)


def _value(kind: int, value: bytes) -> bytes:
    if kind == 0:
        return varint(int.from_bytes(value[:8]))
    return (
        varint(len(value)) + value if kind == 2 else value[:1] * (8 if kind == 1 else 4) or bytes(8 if kind == 1 else 4)
    )


@pytest.mark.parametrize(("count", "turn"), [(0, TURN), (100, 50), (2 * MAX_TURN, MAX_TURN), (MAX_FRAMES, MAX_TURN)])
def test_however_many_frames_come_only_so_many_are_worked_on_at_once(count: int, turn: int) -> None:
    assert turn_of(count) == turn


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3_000), max_size=200), st.integers(4_096, 40_000))
def test_no_message_is_larger_than_the_other_side_takes(sizes: list[int], limit: int) -> None:
    outbox, sent = Outbox(limit), 0
    for size in sizes:
        try:
            outbox.put(pb.Frame(call=1, event=types.Event(delta=types.Delta(text="x" * size))))
            sent += 1
        except MessageTooLarge:
            assert size + 100 > limit
    received = 0
    while outbox:
        message = outbox.take()
        assert len(message) <= limit
        received += len(pb.SessionResponse.FromString(message).frames)
    assert received == sent
