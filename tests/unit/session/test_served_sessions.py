"""The callee's side of sessions: a real server, and a caller that writes frames by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from aixgo import Agent, AgentServer, Delta, Event, LocalRuntime, Message, Usage, agent
from aixgo import call as ambient
from aixgo.server.server import ServerLimits
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceStub

from tests.support import eventually


@agent
async def echo(message: Message) -> Message:
    return message


class Slow(Agent):
    """Works until it is cancelled, and has spent 7 tokens by then; `stubborn` ones go on all the same."""

    name = "slow"

    def __init__(self) -> None:
        self.running = 0
        self.release = asyncio.Event()

    async def execute(self, message: Message) -> Message:
        state = ambient.current()
        assert state is not None
        state.ledger.record(Usage(7, llm_calls=1))
        self.running += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            if message.text != "stubborn":
                raise
            await self.release.wait()
        finally:
            self.running -= 1
        return message


class Counts(Agent):
    """Streams without end, and counts what it was asked for; executed, it makes a reply of 100 KB."""

    name = "counts"

    def __init__(self) -> None:
        self.streamed = self.executed = 0

    async def execute(self, message: Message) -> Message:
        self.executed += 1
        return Message("x" * 100_000)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        while True:
            yield Delta(str(self.streamed))
            self.streamed += 1


class Caller:
    """A raw session."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self._read: list[pb.Frame] = []

    async def send(self, *frames: pb.Frame) -> None:
        await self.stream.write(pb.SessionRequest(frames=frames))

    async def frame(self) -> pb.Frame | None:
        """The next frame, but for words on how busy the server is; None at the end."""
        while not self._read:
            message = await self.stream.read()
            if message is grpc.aio.EOF:
                return None
            self._read = [frame for frame in message.frames if not frame.HasField("load")]
        return self._read.pop(0)


class Served:
    def __init__(self, server: AgentServer, slow: Slow, counts: Counts) -> None:
        self.server, self.slow, self.counts = server, slow, counts

    @asynccontextmanager
    async def caller(self, *metadata: tuple[str, str]) -> AsyncIterator[Caller]:
        async with grpc.aio.insecure_channel(self.server.address) as channel:
            stream: Any = AgentServiceStub(channel).Session(metadata=metadata)
            yield Caller(stream)
            stream.cancel()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    slow, counts, runtime = Slow(), Counts(), LocalRuntime()
    for one in (echo, slow, counts):
        runtime.register(one)
    async with AgentServer(runtime, limits=ServerLimits(max_concurrent_calls=20, drain_timeout=5)) as server:
        yield Served(server, slow, counts)
        slow.release.set()


def opens(number: int, agent: str, text: str = "x", **more: Any) -> pb.Frame:
    frame = pb.Frame(call=number, open=pb.OpenFrame(agent=agent, message={"text": text}, **more))
    frame.open.context.call_id = f"id-{number}"
    return frame


def cancels(number: int) -> pb.Frame:
    return pb.Frame(call=number, cancel=pb.CancelFrame())


async def test_calls_are_answered_under_their_numbers(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(*(opens(number, "echo", f"text {number}") for number in range(1, 11)))
        frames = [await caller.frame() for _ in range(10)]
    assert {f.call: f.result.message.text for f in frames if f} == {n: f"text {n}" for n in range(1, 11)}


@pytest.mark.parametrize(
    ("opening", "error"),
    [
        (opens(1, ""), "InvalidInput"),
        (opens(1, "nobody"), "AgentNotFound"),
        (pb.Frame(call=1, open=pb.OpenFrame(agent="echo", message={"json": b"{"})), "InvalidMessage"),
    ],
    ids=["no agent", "unknown agent", "broken JSON"],
)
async def test_what_is_wrong_with_one_call_ends_that_call_only(served: Served, opening: pb.Frame, error: str) -> None:
    async with served.caller() as caller:
        await caller.send(opening, opens(2, "echo"))
        frames = {frame.call: frame for frame in [await caller.frame(), await caller.frame()] if frame}
    assert frames[1].error.error_class == error
    assert frames[2].result.message.text == "x"


async def test_cancelling_one_call_tells_what_it_spent_and_leaves_the_others(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "slow", "first"), opens(2, "slow", "second"))
        await eventually(lambda: served.slow.running == 2)
        await caller.send(cancels(1))
        answer = await caller.frame()
        assert answer is not None
        assert (answer.call, answer.error.error_class, answer.error.usage.prompt_tokens) == (1, "CallCancelled", 7)
        assert served.slow.running == 1
        served.slow.release.set()
        last = await caller.frame()
        assert last is not None
        assert (last.call, last.result.message.text) == (2, "second")


async def test_a_call_that_does_not_stop_is_answered_all_the_same(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "slow", "stubborn"))
        await eventually(lambda: served.slow.running == 1)
        await caller.send(cancels(1))
        answer = await caller.frame()
        assert answer is not None
        assert (answer.error.error_class, answer.error.usage.incomplete) == ("CallCancelled", True)
        assert served.slow.running == 1


async def test_a_cancel_in_the_message_of_its_call_is_answered(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "slow"), cancels(1), opens(2, "echo"))
        frames = {frame.call: frame for frame in [await caller.frame(), await caller.frame()] if frame}
    assert frames[1].error.error_class == "CallCancelled"
    assert frames[2].HasField("result")


async def test_losing_the_stream_stops_every_call_of_it(served: Served) -> None:
    async with served.caller() as caller, served.caller() as other:
        await caller.send(*(opens(number, "slow") for number in range(1, 6)))
        await other.send(opens(1, "slow"))
        await eventually(lambda: served.slow.running == 6)
        caller.stream.cancel()
        await eventually(lambda: served.slow.running == 1)


@pytest.mark.parametrize(
    "frame",
    [opens(1, "echo"), pb.Frame(call=9, credit=pb.CreditFrame(events=1)), pb.Frame(drain=pb.DrainFrame())],
    ids=["a number that was used", "credit for nobody", "a frame of the callee's"],
)
async def test_a_caller_that_breaks_the_rules_is_told_and_its_calls_stop(served: Served, frame: pb.Frame) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "slow"))
        await eventually(lambda: served.slow.running == 1)
        await caller.send(frame)
        told = await caller.frame()
        assert told is not None
        assert (told.call, told.error.error_class) == (0, "InvalidInput")
        assert await caller.frame() is None
        await eventually(lambda: served.slow.running == 0)


async def test_as_many_calls_as_may_run_and_the_others_are_refused_at_once(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(*(opens(number, "slow") for number in range(1, 501)))
        frames = [await caller.frame() for _ in range(480)]
        assert {frame.error.error_class for frame in frames if frame} == {"Overloaded"}
        assert all(frame.error.not_accepted for frame in frames if frame)
        assert served.slow.running == 20


async def test_a_stream_goes_as_far_as_its_credit_and_holds_up_nobody(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "counts", stream=True, credit=3), opens(2, "echo"))
        frames = [await caller.frame() for _ in range(4)]
        assert sorted(frame.call for frame in frames if frame) == [1, 1, 1, 2]
        assert served.counts.streamed == 3
        await caller.send(pb.Frame(call=1, credit=pb.CreditFrame(events=2)))
        more = [await caller.frame() for _ in range(2)]
        assert [frame.event.delta.text for frame in more if frame] == ["3", "4"]
        await caller.send(cancels(1))
        last = await caller.frame()
        assert last is not None
        assert last.error.error_class == "CallCancelled"


async def test_a_stream_that_is_never_at_a_loss_for_words_holds_up_nobody(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "counts", stream=True, credit=2000), opens(2, "echo"))
        before = 0
        while (frame := await caller.frame()) is not None and frame.call == 1:
            before += 1
        assert before < 1000
        assert frame is not None
        assert frame.result.message.text == "x"


async def test_a_deadline_that_passes_while_a_stream_waits_for_credit_is_told_as_one(served: Served) -> None:
    async with served.caller() as caller:
        opening = opens(1, "counts", stream=True, credit=1)
        opening.open.context.timeout_ms = 100
        await caller.send(opening)
        frames = [await caller.frame() for _ in range(2)]
    assert [frame.WhichOneof("kind") for frame in frames if frame] == ["event", "error"]
    assert frames[1] is not None
    assert frames[1].error.error_class == "DeadlineExceeded"


async def test_a_caller_that_reads_nothing_is_not_worked_for_without_end(served: Served) -> None:
    async with served.caller() as caller:

        async def flood() -> None:
            for number in range(1, 2001):
                await caller.send(opens(number, "counts"))

        flooding = asyncio.create_task(flood())
        before = -1
        while before != served.counts.executed:
            before = served.counts.executed
            await asyncio.sleep(0.3)  # long enough for hundreds of calls, if nothing held them back
        assert 0 < before < 500  # replies of 100 KB: what may wait, and what gRPC holds
        flooding.cancel()


async def test_a_reply_that_the_caller_cannot_take_fails_alone(served: Served) -> None:
    async with served.caller(("aixgo-max-message-bytes", "50000")) as caller:
        await caller.send(opens(1, "counts"), opens(2, "echo"))
        frames = {frame.call: frame for frame in [await caller.frame(), await caller.frame()] if frame}
    assert frames[1].error.error_class == "MessageTooLarge"
    assert list(frames[1].error.agent_path) == ["counts"]
    assert frames[2].HasField("result")


async def test_a_drain_is_announced_and_the_stream_ends_when_the_running_calls_have(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "slow", "to the end"))
        await eventually(lambda: served.slow.running == 1)
        drain = asyncio.create_task(served.server.drain())
        told = await caller.frame()
        assert told is not None
        assert told.HasField("drain")
        await caller.send(opens(2, "echo"))
        refused = await caller.frame()
        assert refused is not None
        assert (refused.error.error_class, refused.error.not_accepted) == ("InstanceDraining", True)
        served.slow.release.set()
        done = await caller.frame()
        assert done is not None
        assert done.result.message.text == "to the end"
        assert await caller.frame() is None
        assert await caller.stream.code() is grpc.StatusCode.OK
        await drain


async def test_how_busy_the_server_is_goes_along_with_answers(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(*(opens(number, "slow") for number in range(1, 4)))
        await eventually(lambda: served.slow.running == 3)
        await caller.send(opens(4, "echo"))
        message = await caller.stream.read()
    (load,) = (frame.load for frame in message.frames if frame.HasField("load"))
    assert (load.running, load.limit) == (3, 20)


async def test_what_is_no_message_ends_the_session_and_not_the_server(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.server.address) as channel:
        session: Any = channel.stream_stream("/aixgo.v1.AgentService/Session", None, None)
        stream = session()
        await stream.write(b"\xff" * 100)
        (told,) = pb.SessionResponse.FromString(await stream.read()).frames
        assert told.error.error_class == "InvalidInput"
        assert await stream.read() is grpc.aio.EOF
    async with served.caller() as caller:
        await caller.send(opens(1, "echo"))
        assert await caller.frame() is not None


async def test_the_result_of_a_stream_needs_no_credit(served: Served) -> None:
    async with served.caller() as caller:
        await caller.send(opens(1, "echo", stream=True, credit=0))
        frame = await caller.frame()
    assert frame is not None
    assert frame.result.message.text == "x"


@pytest.mark.parametrize("least", ["0", "100"])
async def test_a_caller_that_could_not_take_its_own_errors_is_refused_and_holds_up_no_drain(served: Served, least: str):
    async with served.caller(("aixgo-max-message-bytes", least)) as caller:
        with pytest.raises(grpc.aio.AioRpcError, match="16384 bytes at least") as caught:
            await caller.frame()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await served.server.drain()


async def test_two_million_empty_frames_end_their_session_and_nothing_else(served: Served):
    async with served.caller() as hostile, served.caller() as honest:
        await hostile.stream.write(pb.SessionRequest.FromString(b"\x0a\x00" * 2_000_000))
        last = await hostile.frame()
        assert last is not None
        assert "frames came in one message" in last.error.message
        await honest.send(pb.Frame(call=1, open=pb.OpenFrame(agent="echo")))
        answer = await honest.frame()
        assert answer is not None
        assert answer.HasField("result")
