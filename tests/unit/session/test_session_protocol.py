"""The rules of the session protocol, one machine at a time."""

from __future__ import annotations

import pytest
from aixgo.errors import InstanceDraining, InternalError, InvalidInput, MessageTooLarge, WrongState
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.wire.session import MAX_CREDIT, CalleeSession, CallerSession, SessionStage

MAX = 10_000


def request(text: str = "x") -> bytes:
    return pb.ExecuteRequest(agent="a", message={"text": text}, context={"call_id": "id"}).SerializeToString()


def opened(number: int, *, credit: int = 2, stream: bool = True) -> pb.Frame:
    return pb.Frame(call=number, open=pb.OpenFrame(agent="a", stream=stream, credit=credit))


def event(number: int, text: str = "e") -> pb.Frame:
    return pb.Frame(call=number, event=types_pb2.Event(delta={"text": text}))


def result(number: int, text: str = "") -> pb.Frame:
    return pb.Frame(call=number, result=types_pb2.Result(message={"text": text}))


def reply(text: str = "") -> bytes:
    return types_pb2.Message(text=text).SerializeToString()


def taken(session: CallerSession | CalleeSession, limit: int = MAX) -> list[pb.Frame]:
    """The frames of the next message, as the other side reads it."""
    return list(pb.SessionRequest.FromString(session.outbox.take(limit)).frames)


def kinds(frames: list[pb.Frame]) -> list[str | None]:
    return [frame.WhichOneof("kind") for frame in frames]


class TestCaller:
    def test_calls_are_numbered_from_one_and_carry_the_request(self) -> None:
        caller = CallerSession(MAX, window=8)
        assert [caller.open(request("one"), stream=False), caller.open(request("two"), stream=True)] == [1, 2]
        one, two = taken(caller)
        assert (one.call, one.open.agent, one.open.message.text, one.open.context.call_id) == (1, "a", "one", "id")
        assert (one.open.stream, one.open.credit) == (False, 0)
        assert (two.open.stream, two.open.credit) == (True, 8)

    def test_frames_are_packed_up_to_a_limit_and_a_larger_one_goes_alone(self) -> None:
        caller = CallerSession(MAX)
        for text in ("a" * 100, "b" * 100, "c" * 5_000, "d"):
            caller.open(request(text), stream=False)
        sizes = []
        while frames := taken(caller, 300):
            sizes.append([frame.call for frame in frames])
        assert sizes == [[1, 2], [3], [4]]
        assert caller.outbox.bytes == 0

    @pytest.mark.parametrize("size", [0, 50, 127, 128, 5_000, 16_383, 16_384, 70_000, 2_200_000])
    def test_a_frame_of_any_size_is_read_as_it_was_written(self, size: int) -> None:
        caller = CallerSession(10_000_000)
        texts = ["x" * size, "y" * max(0, size - 20)]  # around the size itself, with what else is in a frame
        for text in texts:
            caller.open(request(text), stream=False)
        assert [frame.open.message.text for frame in taken(caller, 10_000_000)] == texts

    def test_a_result_ends_a_call_and_what_comes_after_it_is_dropped(self) -> None:
        caller = CallerSession(MAX)
        number = caller.open(request(), stream=True)
        taken(caller)
        assert caller.receive(event(number)) == "event"
        assert caller.receive(result(number)) == "result"
        assert caller.receive(event(number)) == ""
        assert caller.receive(result(number)) == ""
        assert len(caller) == 0

    def test_a_cancel_is_answered_with_the_terminal_frame_and_events_on_the_way_are_dropped(self) -> None:
        caller = CallerSession(MAX)
        number = caller.open(request(), stream=True)
        taken(caller)
        assert caller.cancel(number)
        assert caller.cancel(number)
        assert kinds(taken(caller)) == ["cancel"]
        assert caller.receive(event(number)) == ""
        assert caller.receive(pb.Frame(call=number, error=types_pb2.Error(code=1))) == "error"

    def test_a_cancel_that_crosses_the_result_has_nothing_to_wait_for(self) -> None:
        caller = CallerSession(MAX)
        number = caller.open(request(), stream=False)
        taken(caller)
        caller.receive(result(number))
        assert not caller.cancel(number)
        assert kinds(taken(caller)) == []

    def test_a_call_that_is_cancelled_before_it_left_never_leaves(self) -> None:
        caller = CallerSession(MAX)
        number = caller.open(request(), stream=False)
        assert not caller.cancel(number)
        assert taken(caller) == []
        assert caller.closed(clean=False) == {}

    def test_credit_is_granted_as_the_reader_takes_events(self) -> None:
        caller = CallerSession(MAX, window=4)
        number = caller.open(request(), stream=True)
        taken(caller)
        for _ in range(3):
            caller.receive(event(number))
        assert [caller.consumed(number) for _ in range(3)] == [False, True, False]
        (grant,) = taken(caller)
        assert (grant.call, grant.credit.events) == (number, 2)

    def test_an_ended_call_grants_nothing(self) -> None:
        caller = CallerSession(MAX, window=2)
        number = caller.open(request(), stream=True)
        taken(caller)
        caller.receive(event(number))
        caller.receive(result(number))
        assert not caller.consumed(number)
        assert taken(caller) == []

    def test_a_lost_stream_tells_calls_that_left_from_those_that_did_not(self) -> None:
        caller = CallerSession(MAX)
        sent = caller.open(request(), stream=False)
        taken(caller)
        waiting = caller.open(request(), stream=False)
        assert caller.closed(clean=False) == {sent: True, waiting: False}
        assert caller.stage is SessionStage.CLOSED
        assert taken(caller) == []
        with pytest.raises(WrongState) as caught:
            caller.open(request(), stream=False)
        assert not caught.value.accepted

    def test_after_a_drain_no_call_is_opened_and_what_is_open_at_the_end_was_not_accepted(self) -> None:
        caller = CallerSession(MAX)
        crossing = caller.open(request(), stream=False)
        taken(caller)
        assert caller.receive(pb.Frame(drain=pb.DrainFrame())) == "drain"
        with pytest.raises(InstanceDraining) as caught:
            caller.open(request(), stream=False)
        assert not caught.value.accepted
        assert caller.closed(clean=True) == {crossing: False}

    def test_a_drain_does_not_make_a_stream_that_breaks_a_clean_end(self) -> None:
        caller = CallerSession(MAX)
        number = caller.open(request(), stream=False)
        taken(caller)
        caller.receive(pb.Frame(drain=pb.DrainFrame()))
        assert caller.closed(clean=False) == {number: True}

    def test_a_frame_that_no_message_holds_is_refused_and_opens_nothing(self) -> None:
        caller = CallerSession(500)
        with pytest.raises(MessageTooLarge, match="436 are allowed"):
            caller.open(request("x" * 500), stream=False)
        assert (len(caller), len(caller.outbox), caller.open(request(), stream=False)) == (0, 0, 1)

    @pytest.mark.parametrize(
        "frame",
        [
            event(2),
            result(99),
            pb.Frame(call=1, open=pb.OpenFrame()),
            pb.Frame(call=1, drain=pb.DrainFrame()),
            pb.Frame(open=pb.OpenFrame()),
            pb.Frame(event=types_pb2.Event()),
        ],
        ids=["event of nobody", "result of nobody", "open", "drain of a call", "open of the session", "event of none"],
    )
    def test_violations_of_a_callee_are_typed(self, frame: pb.Frame) -> None:
        caller = CallerSession(MAX)
        caller.open(request(), stream=True)
        taken(caller)
        with pytest.raises(InternalError, match="the session protocol was violated"):
            caller.receive(frame)

    def test_more_events_than_were_granted_are_a_violation(self) -> None:
        caller = CallerSession(MAX, window=1)
        number = caller.open(request(), stream=True)
        caller.receive(event(number))
        with pytest.raises(InternalError, match="beyond its credit"):
            caller.receive(event(number))

    def test_an_event_for_a_call_that_wants_none_is_a_violation(self) -> None:
        caller = CallerSession(MAX)
        with pytest.raises(InternalError, match="beyond its credit"):
            caller.receive(event(caller.open(request(), stream=False)))

    def test_kinds_of_later_versions_are_skipped(self) -> None:
        assert CallerSession(MAX).receive(pb.Frame(call=7)) == ""


class TestCallee:
    def test_events_go_as_far_as_the_credit_reaches(self) -> None:
        callee = CalleeSession(MAX)
        assert callee.receive(opened(1, credit=2)) == "open"
        for text in ("a", "b"):
            assert callee.may_send(1)
            callee.event(1, types_pb2.Event(delta={"text": text}).SerializeToString())
        assert not callee.may_send(1)
        with pytest.raises(WrongState, match="no credit"):
            callee.event(1, types_pb2.Event().SerializeToString())
        assert callee.receive(pb.Frame(call=1, credit=pb.CreditFrame(events=1))) == "credit"
        callee.event(1, types_pb2.Event(delta={"text": "c"}).SerializeToString())
        assert [frame.event.delta.text for frame in taken(callee)] == ["a", "b", "c"]

    def test_a_terminal_frame_needs_no_credit_and_only_the_first_one_counts(self) -> None:
        callee = CalleeSession(MAX)
        callee.receive(opened(1, credit=0))
        callee.result(1, reply("first"))
        callee.fail(1, types_pb2.Error(code=2))
        callee.event(1, types_pb2.Event().SerializeToString())
        assert [frame.result.message.text for frame in taken(callee)] == ["first"]

    def test_a_cancelling_call_sends_no_more_events_but_its_answer(self) -> None:
        callee = CalleeSession(MAX)
        callee.receive(opened(1, credit=0))
        assert callee.receive(pb.Frame(call=1, cancel=pb.CancelFrame())) == "cancel"
        assert callee.receive(pb.Frame(call=1, cancel=pb.CancelFrame())) == ""
        assert callee.may_send(1)  # or its agent would wait for ever
        callee.event(1, types_pb2.Event().SerializeToString())
        callee.fail(1, types_pb2.Error(code=1))
        assert kinds(taken(callee)) == ["error"]

    def test_frames_for_ended_calls_are_dropped(self) -> None:
        callee = CalleeSession(MAX)
        callee.receive(opened(1))
        callee.result(1, reply())
        assert callee.receive(pb.Frame(call=1, cancel=pb.CancelFrame())) == ""
        assert callee.receive(pb.Frame(call=1, credit=pb.CreditFrame(events=9))) == ""

    def test_a_drain_is_said_once_and_calls_that_cross_it_are_still_taken(self) -> None:
        callee = CalleeSession(MAX)
        callee.drain()
        callee.drain()
        assert kinds(taken(callee)) == ["drain"]
        assert callee.receive(opened(1)) == "open"

    def test_an_answer_that_no_message_holds_leaves_the_call_open_for_an_error(self) -> None:
        callee = CalleeSession(500)
        callee.receive(opened(1))
        with pytest.raises(MessageTooLarge):
            callee.result(1, reply("x" * 500))
        with pytest.raises(MessageTooLarge):
            callee.event(1, types_pb2.Event(delta={"text": "x" * 500}).SerializeToString())
        callee.fail(1, types_pb2.Error(code=8))
        assert kinds(taken(callee)) == ["error"]

    @pytest.mark.parametrize(
        ("frame", "says"),
        [
            (opened(2), "numbers grow"),
            (opened(1), "numbers grow"),
            (opened(0), "numbers grow"),
            (opened(3, credit=MAX_CREDIT + 1), "at most"),
            (pb.Frame(call=2, credit=pb.CreditFrame(events=MAX_CREDIT)), "grant what the reader has taken"),
            (pb.Frame(call=3, cancel=pb.CancelFrame()), "never opened"),
            (pb.Frame(cancel=pb.CancelFrame()), "never opened"),
            (result(2), "send open, cancel and credit only"),
            (pb.Frame(drain=pb.DrainFrame()), "send open, cancel and credit only"),
        ],
    )
    def test_violations_of_a_caller_are_typed(self, frame: pb.Frame, says: str) -> None:
        callee = CalleeSession(MAX)
        callee.receive(opened(2, credit=1))
        with pytest.raises(InvalidInput, match=says):
            callee.receive(frame)

    def test_after_a_violation_the_caller_is_told_and_heard_no_more(self) -> None:
        callee = CalleeSession(MAX)
        callee.receive(opened(1))
        callee.event(1, types_pb2.Event().SerializeToString())
        assert list(callee.closed(types_pb2.Error(code=3))) == [1]
        (told,) = taken(callee)
        assert (told.call, told.error.code) == (0, 3)
        assert callee.receive(opened(2)) == ""
