"""What is written by hand is what protobuf would have written."""

from __future__ import annotations

import pytest
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.wire.fields import header, varint
from aixgo.wire.session import CalleeSession, CallerSession
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.integers(0, 2**64 - 1) | st.integers(0, 64).map(lambda bits: min(2**bits, 2**64 - 1))


@given(NUMBERS)
def test_a_number_is_written_as_protobuf_writes_it(number: int) -> None:
    assert b"\x08" + varint(number) == (pb.Frame(call=number).SerializeToString() or b"\x08\x00")


@given(st.integers(0, 70_000))
def test_the_header_of_a_field_is_what_protobuf_writes_before_it(size: int) -> None:
    written = types_pb2.Message(data=b"\0" * size).SerializeToString()
    assert written == header(4 << 3 | 2, size) + b"\0" * size


@pytest.mark.parametrize("request_type", [pb.ExecuteRequest, pb.ExecuteStreamRequest])
def test_a_request_can_be_read_as_the_frame_that_opens_a_call(request_type: type[pb.ExecuteRequest]) -> None:
    opening = pb.OpenFrame.DESCRIPTOR.fields_by_number
    for field in request_type.DESCRIPTOR.fields:
        same = opening[field.number]
        assert (same.name, same.type, same.message_type) == (field.name, field.type, field.message_type)


@pytest.mark.parametrize("number", [1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28, 2**64 - 1])
@pytest.mark.parametrize("size", [0, 120, 127, 128, 16_370, 16_384, 70_000])
def test_replies_and_events_of_any_call_and_size_are_read_as_they_were_written(number: int, size: int) -> None:
    callee, message = CalleeSession(10_000_000), types_pb2.Message(text="x" * size)
    event = types_pb2.Event(delta={"text": "y" * size})
    callee.receive(pb.Frame(call=number, open=pb.OpenFrame(agent="a", stream=True, credit=1)))
    callee.event(number, event.SerializeToString())
    callee.result(number, message.SerializeToString())
    assert list(pb.SessionResponse.FromString(callee.outbox.take(10_000_000)).frames) == [
        pb.Frame(call=number, event=event),
        pb.Frame(call=number, result={"message": message}),
    ]


def test_calls_are_opened_as_protobuf_would_write_them_however_many_there_have_been() -> None:
    caller, request = CallerSession(10_000_000), pb.ExecuteRequest(agent="a", context={"call_id": "id"})
    for number in range(1, 20_000):
        assert caller.open(request.SerializeToString(), stream=False) == number
        opening = pb.OpenFrame(agent="a", context={"call_id": "id"})
        written = pb.SessionRequest(frames=[pb.Frame(call=number, open=opening)])
        assert caller.outbox.take() == written.SerializeToString()
