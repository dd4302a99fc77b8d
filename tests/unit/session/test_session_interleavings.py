"""The two ends of a session against each other, in any order of steps that two processes can take."""

from __future__ import annotations

from collections import deque

import pytest
from aixgo.errors import AixgoError, InstanceDraining, WrongState
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.wire.session import CalleeSession, CallerSession, SessionStage
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

MAX, WINDOW = 100_000, 4
LIMITS = st.sampled_from([1, 60, 200, MAX])


def read(message: bytes) -> list[pb.Frame]:
    return list(pb.SessionRequest.FromString(message).frames)


class Call:
    """What the test knows of one call, from both sides."""

    def __init__(self, *, stream: bool) -> None:
        self.stream = stream
        self.outcome = ""
        self.accepted = False
        self.cancelled = False
        self.sent = 0
        self.got: list[int] = []
        self.unread = 0


class Sessions(RuleBasedStateMachine):
    """A caller, a callee, and the frames on the way between them; the stream may break at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.caller = CallerSession(MAX, window=WINDOW)
        self.callee = CalleeSession(MAX)
        self.there: deque[pb.Frame] = deque()
        self.back: deque[pb.Frame] = deque()
        self.calls: dict[int, Call] = {}
        self.running: set[int] = set()
        self.over = False

    def pick(self, data: st.DataObject, numbers: list[int]) -> int:
        return data.draw(st.sampled_from(sorted(numbers)))

    def wanted(self) -> list[int]:
        return [number for number, call in self.calls.items() if not call.outcome]

    @precondition(lambda self: not self.over)
    @rule(stream=st.booleans())
    def open(self, stream: bool) -> None:
        request = pb.ExecuteRequest(agent="a", message={"text": "x" * 20}).SerializeToString()
        if self.caller.stage is SessionStage.DRAINING:
            with pytest.raises(InstanceDraining):
                self.caller.open(request, stream=stream)
            return
        number = self.caller.open(request, stream=stream)
        assert number not in self.calls
        self.calls[number] = Call(stream=stream)

    @precondition(lambda self: not self.over and self.wanted())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = self.pick(data, self.wanted())
        self.calls[number].cancelled = True
        if not self.caller.cancel(number):
            self.ended(number, "withdrawn")

    @precondition(lambda self: not self.over and self.wanted())
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        number = self.pick(data, self.wanted())
        self.caller.cancel(number)
        self.caller.forget(number)
        self.ended(number, "given up")

    @precondition(lambda self: any(call.unread for call in self.calls.values()))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        number = self.pick(data, [number for number, call in self.calls.items() if call.unread])
        self.calls[number].unread -= 1
        self.caller.consumed(number)

    @precondition(lambda self: not self.over)
    @rule(limit=LIMITS)
    def caller_writes(self, limit: int) -> None:
        self.there.extend(read(self.caller.outbox.take(limit)))

    @precondition(lambda self: not self.over)
    @rule(limit=LIMITS)
    def callee_writes(self, limit: int) -> None:
        self.back.extend(read(self.callee.outbox.take(limit)))

    @precondition(lambda self: self.there and not self.over)
    @rule()
    def callee_reads(self) -> None:
        frame = self.there.popleft()
        if self.callee.receive(frame) == "open":
            self.calls[frame.call].accepted = True
            self.running.add(frame.call)

    @precondition(lambda self: self.back and not self.over)
    @rule()
    def caller_reads(self) -> None:
        frame = self.back.popleft()
        kind, call = self.caller.receive(frame), self.calls.get(frame.call)
        if call is None:
            assert kind == "drain"
        elif kind == "event":
            assert not call.cancelled
            call.got.append(int(frame.event.delta.text))
            call.unread += 1
        elif kind:
            self.ended(frame.call, kind)

    @precondition(lambda self: self.running and not self.over)
    @rule(data=st.data())
    def event(self, data: st.DataObject) -> None:
        number = self.pick(data, list(self.running))
        call = self.calls[number]
        if not call.stream:
            return
        told = types_pb2.Event(delta={"text": str(call.sent)})
        if self.callee.may_send(number):
            self.callee.event(number, told.SerializeToString())
            call.sent += 1
        else:
            with pytest.raises(WrongState):
                self.callee.event(number, told.SerializeToString())

    @precondition(lambda self: self.running and not self.over)
    @rule(data=st.data(), ok=st.booleans())
    def finish(self, data: st.DataObject, ok: bool) -> None:
        number = self.pick(data, list(self.running))
        self.running.discard(number)
        if ok:
            self.callee.result(number, b"")
        else:
            self.callee.fail(number, types_pb2.Error(code=2))

    @precondition(lambda self: not self.over)
    @rule()
    def drain(self) -> None:
        self.callee.drain()

    @precondition(lambda self: not self.over)
    @rule()
    def stream_breaks(self) -> None:
        self.end_session(clean=False)
        assert set(self.callee.closed()) == self.running

    @precondition(lambda self: not self.over and self.callee.stage is SessionStage.DRAINING and not self.running)
    @rule()
    def callee_leaves(self) -> None:
        self.back.extend(read(self.callee.outbox.take(MAX)))
        while self.back:
            self.caller_reads()
        self.end_session(clean=True)

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def nothing_comes_after_the_end(self, data: st.DataObject) -> None:
        frame = pb.Frame(call=data.draw(st.integers(0, 5)), event=types_pb2.Event())
        assert self.caller.receive(frame) == ""
        assert self.caller.outbox.take(MAX) == b""

    def end_session(self, *, clean: bool) -> None:
        self.over = True
        for number, accepted in self.caller.closed(clean=clean).items():
            assert accepted or not self.calls[number].accepted, "a call was said not to have been accepted, and was"
            assert not (clean and accepted), "after a drain nothing is left in doubt"
            self.ended(number, "lost")

    def ended(self, number: int, outcome: str) -> None:
        assert not self.calls[number].outcome, "a call has ended twice"
        self.calls[number].outcome = outcome

    @invariant()
    def events_stay_in_order_and_within_the_window(self) -> None:
        for call in self.calls.values():
            assert call.got == list(range(len(call.got)))
            assert call.unread <= WINDOW
            if not call.cancelled and call.outcome != "given up":
                assert call.sent - len(call.got) + call.unread <= WINDOW

    @invariant()
    def whoever_waits_is_known_to_the_machine(self) -> None:
        assert len(self.caller) == len(self.wanted())
        assert len(self.callee) == (0 if self.over and self.callee.stage is SessionStage.CLOSED else len(self.running))

    @invariant()
    def the_outboxes_know_what_they_hold(self) -> None:
        for outbox in (self.caller.outbox, self.callee.outbox):
            assert (outbox.bytes == 0) == (len(outbox) == 0)

    def teardown(self) -> None:
        """Both sides come to an end when they are left alone: no call hangs."""
        while not self.over and (self.there or self.back or self.caller.outbox or self.callee.outbox or self.running):
            self.there.extend(read(self.caller.outbox.take(MAX)))
            self.back.extend(read(self.callee.outbox.take(MAX)))
            while self.there:
                self.callee_reads()
            for number in list(self.running):
                self.running.discard(number)
                self.callee.result(number, b"")
            while self.back:
                self.caller_reads()
        assert all(call.outcome for call in self.calls.values())


def test_every_call_ends_once_in_any_order_of_steps() -> None:
    run_state_machine_as_test(
        Sessions,
        settings=settings(
            max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@given(st.binary(max_size=300))
def test_no_bytes_make_either_end_raise_anything_but_a_typed_violation(data: bytes) -> None:
    for message, session in ((pb.SessionRequest, CalleeSession(MAX)), (pb.SessionResponse, CallerSession(MAX))):
        try:
            frames = message.FromString(data).frames
        except DecodeError:  # gRPC refuses what is no message before a machine sees it
            continue
        try:
            for frame in frames:
                session.receive(frame)
        except AixgoError:
            pass


FRAMES = st.builds(
    lambda number, kind: pb.Frame(call=number, **kind),
    st.integers(0, 4),
    st.sampled_from(
        [
            {"open": {"agent": "a", "stream": True, "credit": 2}},
            {"cancel": {}},
            {"credit": {"events": 2**32 - 1}},
            {"event": {}},
            {"result": {}},
            {"error": {}},
            {"drain": {}},
            {"load": {}},
            {},
        ]
    ),
)


@given(st.lists(FRAMES, max_size=30))
def test_a_hostile_peer_ends_its_own_session_and_leaves_no_call_behind(frames: list[pb.Frame]) -> None:
    callee, caller = CalleeSession(MAX), CallerSession(MAX)
    caller.open(pb.ExecuteRequest(agent="a").SerializeToString(), stream=True)
    for session in (callee, caller):
        try:
            for frame in frames:
                session.receive(frame)
        except AixgoError:
            pass
    callee.closed(types_pb2.Error(code=3))
    caller.closed(clean=False)
    assert (len(callee), len(caller)) == (0, 0)
    assert len(read(callee.outbox.take(MAX))) == 1
