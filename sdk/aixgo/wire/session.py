"""The session protocol: many calls over one stream, as two state machines without I/O, one for each end.

A machine is told what arrives (`receive`) and what its own side wants (open, cancel, result, ...), and says what is to
be written (`take`) and what is to be known. Above it lie `runtime/session.py`, which opens streams, and
`server/session.py`, which serves them; nothing below but the frames of aixgo.v1.

A call                                              A session

    idle --open--> open --result|error--> ended         running --drain--> draining --+
                    |                       ^              |                          |
                  cancel                    |              +--stream lost, violation--+--> closed
                    v                       |
                cancelling --result|error---+

Rules
    * The caller numbers its calls 1, 2, 3, ...; no number is used twice. A frame for a call that has ended is dropped,
      because a cancel may cross a result; a frame for one that was never opened is a violation.
    * A call ends with exactly one result or error of the callee's. A cancelled one does too: the answer carries what
      was spent. Events of a cancelling call are dropped.
    * Each event of a call uses up one credit, and the caller grants as many as its reader has taken: a slow reader
      holds up its own call only. Results and errors need no credit.
    * The callee sends its headers at once, and the caller nothing before they have come: whoever refuses sessions has
      accepted no call. They say SERVED: a refusal can look like headers that say nothing.
    * After a drain the caller opens no more calls, and closes its side when the running ones have ended. A callee may
      end the stream when all that it knows of have ended, so what is then still open was never accepted.
    * When the stream is lost, every open call has ended. One whose OpenFrame was never taken was not accepted; of the
      others nothing is known.
    * A violation ends the session. Kinds of frames that this version does not know are skipped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum

from aixgo.errors import AixgoError, InstanceDraining, InternalError, InvalidInput, MessageTooLarge, WrongState
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.wire.fields import has_more_fields, header, varint

WINDOW = 256
"""Events that a callee may be ahead of the reader of a stream. Credit goes by halves of it, and a message that carries
few events costs more than they do."""
MAX_CREDIT = 2**20
"""Events that a callee lets itself be granted at once; more is a violation."""
MAX_BATCH = 256 * 1024
"""Bytes of the frames that go into one message. A larger frame goes alone."""
MAX_BYTES_HEADER = "aixgo-max-message-bytes"
"""Metadata of a session's stream: the largest message that the caller takes, in bytes; without it, 4 MiB."""
SERVED = ("aixgo-session", "1")
"""What the callee's headers say."""
TURN = 32
"""Frames that are worked on at once. A message costs as much as a dozen frames, whatever it holds."""
MAX_TURN = 1024
"""The most frames that are worked on at once: a message of 4 MiB can hold two million empty ones."""
MAX_FRAMES = 2**16
"""Frames of one message; more is a violation. MAX_BATCH holds fewer that say anything."""
MIN_BYTES = 16 * 1024
"""The least that a caller must take in one message: any error, and the frames of a session itself, fit."""
FRAMING = 64
"""Bytes that a message may be larger than the frame in it."""

_FRAMES = 1 << 3 | 2
"""The key of `frames` in SessionRequest and SessionResponse: field 1, length-delimited."""
_CALL, _OPEN, _EVENT, _RESULT = b"\x08", 2 << 3 | 2, 3 << 3 | 2, 4 << 3 | 2
"""The keys of `call` (field 1, varint), `open`, `event` and `result` (fields 2 to 4, length-delimited) in Frame."""
_MESSAGE = 1 << 3 | 2
"""The key of `message` in Result: field 1, length-delimited."""
_FROM_CALLER = frozenset(("open", "cancel", "credit"))
_FROM_CALLEE = frozenset(("event", "result", "error"))
_OF_SESSION = frozenset(("error", "drain", "load"))


class CallStage(Enum):
    """Where a call stands that has left idle."""

    OPEN = 1
    CANCELLING = 2
    ENDED = 3


class SessionStage(Enum):
    """Where a session stands."""

    RUNNING = 1
    DRAINING = 2
    CLOSED = 3


_RUNNING = SessionStage.RUNNING  # a member of an Enum is looked up each time it is named
_OPENED, _ENDED = CallStage.OPEN, CallStage.ENDED


class OpenCall:
    """One call on a session. `credit`: events that may still come; `taken`: its OpenFrame is on its way.

    `begins` is how the callee's frames of a stream begin: with its number.
    """

    # How every call begins, and most of it stays so for those that are no streams, stands in the class.
    stage = CallStage.OPEN
    credit = 0
    consumed = 0
    taken = False
    begins = b""


class Outbox:
    """Frames that wait to be written, in order, none of them too large for a message of `max_bytes`.

    They are kept encoded, as fields of a message: that is when their size is known, and a message is then made by
    joining them.
    """

    def __init__(self, max_bytes: int) -> None:
        self._frames: deque[tuple[bytes, OpenCall | None]] = deque()
        self._max_bytes = max_bytes
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: pb.Frame, opens: OpenCall | None = None) -> None:
        """Add a frame; `opens` is the call that it opens. Raises MessageTooLarge."""
        self.put_encoded(frame.SerializeToString(), opens)

    def put_encoded(self, encoded: bytes, opens: OpenCall | None = None) -> None:
        """`put`, for a frame that is encoded already."""
        size = len(encoded)
        if size + FRAMING > self._max_bytes:
            raise self._too_large(size)
        field = header(_FRAMES, size) + encoded
        self._frames.append((field, opens))
        self.bytes += len(field)

    def _too_large(self, size: int) -> MessageTooLarge:
        most = self._max_bytes - FRAMING
        return MessageTooLarge(
            f"the message has {size} bytes and {most} are allowed on a session;"
            " send less, or raise max_message_bytes on both sides",
            fields={"limit": most},
        )

    def take(self, limit: int = MAX_BATCH) -> bytes:
        """The next frames, out of the box, as an encoded SessionRequest or SessionResponse.

        As many as `limit` bytes hold, and at least one if there is any; b"" when there is none.
        """
        message: list[bytes] = []
        frames, room, left = self._frames, min(limit, self._max_bytes), self.bytes
        while frames:
            field, opens = frames[0]
            size = len(field)
            if size > room and message:
                break
            frames.popleft()
            left -= size
            if opens is not None:
                if opens.stage is _ENDED:  # withdrawn before anybody saw it
                    continue
                opens.taken = True
            room -= size
            message.append(field)
        self.bytes = left
        return b"".join(message)

    def clear(self) -> None:
        """Drop everything."""
        self._frames.clear()
        self.bytes = 0


class CallerSession:
    """The caller's end. Numbers calls, grants credit, and knows what of an ended session was never accepted.

    `max_bytes` is the largest message that the callee takes, `window` how many events may be ahead of a reader.
    """

    def __init__(self, max_bytes: int, *, window: int = WINDOW) -> None:
        self.stage = SessionStage.RUNNING
        self.outbox = Outbox(max_bytes)
        self._window = window
        self._calls: dict[int, OpenCall] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def drained(self) -> bool:
        """Whether there is nothing more to say: the callee drains, and every call has ended."""
        return self.stage is SessionStage.DRAINING and not self._calls and not self.outbox

    def open(self, request: bytes, *, stream: bool) -> int:
        """Open a call and return its number. Raises InstanceDraining, WrongState, MessageTooLarge.

        `request` is an encoded ExecuteRequest or ExecuteStreamRequest: an OpenFrame has the same fields, and two more.
        """
        if self.stage is not _RUNNING:
            raise _refusal(self.stage)
        number = self._last + 1
        call = OpenCall()
        if stream:
            call.credit = self._window
            request += pb.OpenFrame(stream=True, credit=self._window).SerializeToString()
        self.outbox.put_encoded(_CALL + varint(number) + header(_OPEN, len(request)) + request, call)
        self._calls[number] = call
        self._last = number
        return number

    def cancel(self, number: int) -> bool:
        """Ask the callee to stop a call. False when there is nothing to wait for: it has ended, or was never sent."""
        call = self._calls.get(number)
        if call is None:
            return False
        if not call.taken:
            self.forget(number)
            return False
        if call.stage is CallStage.OPEN:
            call.stage = CallStage.CANCELLING
            self.outbox.put(pb.Frame(call=number, cancel=pb.CancelFrame()))
        return True

    def forget(self, number: int) -> None:
        """Wait for a call no longer: whatever still comes for it is dropped."""
        call = self._calls.pop(number, None)
        if call is not None:
            call.stage = CallStage.ENDED

    def consumed(self, number: int, events: int = 1) -> bool:
        """The reader of a stream has taken so many more events. True when that grants the callee more."""
        call = self._calls.get(number)
        if call is None or call.stage is not CallStage.OPEN:
            return False
        call.consumed += events
        if call.consumed * 2 < self._window:
            return False
        self.outbox.put(pb.Frame(call=number, credit=pb.CreditFrame(events=call.consumed)))
        call.credit += call.consumed
        call.consumed = 0
        return True

    def receive(self, frame: pb.Frame) -> str:
        """Take a frame of the callee's, and return its kind, or "" when nobody needs it.

        `result` and `error` have ended their call, `error` on number 0 the session. Raises InternalError for a
        violation.
        """
        kind, number = frame.WhichOneof("kind"), frame.call
        call = self._calls.get(number)
        if kind == "event" and call is not None:  # first, because most frames are
            return self._event(number, call)
        if kind is None or self.stage is SessionStage.CLOSED:
            return ""
        if number == 0:
            return self._of_session(kind)
        if kind not in _FROM_CALLEE:
            raise _violated(f"a callee sent a frame of the kind {kind!r} for call {number}")
        if call is None:
            if number > self._last:
                raise _violated(f"a frame came for call {number}, which was never opened")
            return ""
        del self._calls[number]
        call.stage = _ENDED
        return kind

    def closed(self, *, clean: bool) -> dict[int, bool]:
        """The stream has ended; `clean`: because the callee ended it. Every open call has ended with it.

        Returns them by number, True for each that the callee may have accepted.
        """
        drained = clean and self.stage is SessionStage.DRAINING
        self.stage = SessionStage.CLOSED
        self.outbox.clear()
        ended = {number: call.taken and not drained for number, call in self._calls.items()}
        for number in ended:
            self.forget(number)
        return ended

    def _of_session(self, kind: str) -> str:
        if kind not in _OF_SESSION:
            raise _violated(f"a callee sent a frame of the kind {kind!r} for no call")
        if kind == "drain":
            self.stage = SessionStage.DRAINING
        return kind

    def _event(self, number: int, call: OpenCall) -> str:
        if call.credit == 0:
            raise _violated(f"an event came for call {number} beyond its credit")
        call.credit -= 1
        return "event" if call.stage is _OPENED else ""


class CalleeSession:
    """The callee's end. Holds callers to the rules, and its own events to the credit that they grant.

    `max_bytes` is the largest message that the caller takes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.stage = SessionStage.RUNNING
        self.outbox = Outbox(max_bytes)
        self._calls: dict[int, OpenCall] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, number: int) -> bool:
        return number in self._calls

    def receive(self, frame: pb.Frame) -> str:
        """Take a frame of the caller's, and return its kind, or "" when there is nothing to do about it.

        Raises InvalidInput for a violation.
        """
        kind = frame.WhichOneof("kind")
        if kind is None or self.stage is SessionStage.CLOSED:
            return ""
        if kind not in _FROM_CALLER:
            raise _misused(f"a caller sent a frame of the kind {kind!r}; send open, cancel and credit only")
        if kind == "open":
            return self._open(frame.call, frame.open)
        call = self._calls.get(frame.call)
        if call is None:
            if frame.call > self._last or frame.call == 0:
                raise _misused(f"a frame came for call {frame.call}, which was never opened")
            return ""
        if kind == "credit":
            return self._credit(call, frame.credit.events)
        if call.stage is CallStage.CANCELLING:
            return ""
        call.stage = CallStage.CANCELLING
        return kind

    def may_send(self, number: int) -> bool:
        """Whether the next event of a call can go now: there is credit, or nobody wants it any more."""
        call = self._calls.get(number)
        return call is None or call.credit > 0 or call.stage is CallStage.CANCELLING

    def event(self, number: int, event: bytes) -> bool:
        """Send an event, encoded as `codec.event_bytes` does; one that nobody wants any more is dropped.

        Returns what `may_send` says of the next. Raises WrongState when `may_send` is false, and MessageTooLarge.
        """
        call = self._calls.get(number)
        if call is None or call.stage is not _OPENED:
            return True
        if call.credit == 0:
            raise WrongState(f"call {number} has no credit for another event; wait until more is granted")
        self.outbox.put_encoded(call.begins + header(_EVENT, len(event)) + event)
        call.credit -= 1
        return call.credit > 0

    def result(self, number: int, message: bytes) -> None:
        """End a call with its reply, an encoded Message; only the first end counts. Raises MessageTooLarge."""
        start = header(_MESSAGE, len(message))
        size = len(start) + len(message)
        self._end(number, _CALL + varint(number) + header(_RESULT, size) + start + message)

    def fail(self, number: int, error: types_pb2.Error) -> None:
        """End a call with its error; only the first end counts. Raises MessageTooLarge."""
        self._end(number, pb.Frame(call=number, error=error).SerializeToString())

    def _end(self, number: int, frame: bytes) -> None:
        call = self._calls.get(number)
        if call is not None:
            self.outbox.put_encoded(frame)
            call.stage = _ENDED
            del self._calls[number]

    def load(self, running: int, limit: int) -> None:
        """Say how busy the instance is."""
        self.outbox.put(pb.Frame(load=pb.LoadFrame(running=running, limit=limit)))

    def drain(self) -> None:
        """Ask for no more calls; those that come all the same are still answered."""
        if self.stage is SessionStage.RUNNING:
            self.stage = SessionStage.DRAINING
            self.outbox.put(pb.Frame(drain=pb.DrainFrame()))

    def closed(self, error: types_pb2.Error | None = None) -> Iterable[int]:
        """The session has ended: with `error` because of a violation, which the caller is told; else with the stream.

        Returns the numbers of the calls that have to be stopped.
        """
        self.stage = SessionStage.CLOSED
        self.outbox.clear()
        if error is not None:
            self.outbox.put(pb.Frame(error=error))
        ended, self._calls = self._calls, {}
        for call in ended.values():
            call.stage = CallStage.ENDED
        return tuple(ended)

    def _open(self, number: int, opening: pb.OpenFrame) -> str:
        if number <= self._last:
            raise _misused(f"call {number} was opened after call {self._last}; numbers grow and are used once")
        if opening.credit > MAX_CREDIT:
            raise _misused(f"call {number} grants {opening.credit} events; at most {MAX_CREDIT} are allowed")
        self._last = number
        call = self._calls[number] = OpenCall()
        if opening.stream:
            call.credit, call.begins = opening.credit, _CALL + varint(number)
        return "open"

    def _credit(self, call: OpenCall, events: int) -> str:
        if call.credit + events > MAX_CREDIT:
            raise _misused(f"more than {MAX_CREDIT} events were granted; grant what the reader has taken")
        call.credit += events
        return "credit" if call.stage is CallStage.OPEN else ""


def turn_of(frames: int) -> int:
    """After how many of the frames of a message the calls that they woke get their turn: half of them, at least TURN
    and at most MAX_TURN.

    What those calls say then leaves while the other half is worked on, so that neither process waits for the other.
    """
    return min(max(TURN, frames // 2), MAX_TURN)


def read_request(data: bytes) -> pb.SessionRequest:
    """A caller's message out of its bytes. Raises DecodeError for what is none.

    Raises InvalidInput when it has too many frames, where it is larger than a batch before they are made objects: those
    of two million empty ones take a hundred megabytes.
    """
    if len(data) > MAX_BATCH and has_more_fields(data, MAX_FRAMES):
        raise _misused(f"more than {MAX_FRAMES} frames came in one message; at most {MAX_FRAMES} are allowed")
    request = pb.SessionRequest.FromString(data)
    if len(request.frames) > MAX_FRAMES:
        raise _misused(f"{len(request.frames)} frames came in one message; at most {MAX_FRAMES} are allowed")
    return request


def _refusal(stage: SessionStage) -> AixgoError:
    if stage is SessionStage.DRAINING:
        return InstanceDraining("this instance is draining and takes no new calls")
    error = WrongState("the session is closed; open another one")
    error.accepted = False
    return error


def _violated(what: str) -> InternalError:
    return InternalError(f"the session protocol was violated: {what}")


def _misused(what: str) -> InvalidInput:
    return InvalidInput(f"the session protocol was violated: {what}")
