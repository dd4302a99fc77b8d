"""Streams: events in order, exactly one end, and an agent that stops when nobody reads on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aixgo import AixgoError, Delta, Event, MemberFinished, MemberStarted, Message, Result
from aixgo.errors import AgentFailed, AgentNotFound, AgentUnavailable, InvalidReply, StreamBroken
from aixgo.message import Payload

from tests.contract.conftest import BOUND, Mesh
from tests.contract.failures import OutOfStock
from tests.contract.requirements import promise
from tests.contract.witnesses import Torrent


async def events_of(mesh: Mesh, target: str, message: Message | Payload) -> list[Event]:
    """All events of a call that succeeds."""
    async with mesh.runtime.stream(target, message, timeout=BOUND) as events:
        return [event async for event in events]


async def until_error(mesh: Mesh, target: str, message: Payload, error: type[AixgoError]) -> tuple[list[Event], Any]:
    """The events of a call that fails, and its error."""
    seen: list[Event] = []
    async with mesh.runtime.stream(target, message, timeout=BOUND) as events:
        with pytest.raises(error) as caught:  # noqa: PT012  # the loop is what raises
            async for event in events:
                seen.append(event)
        with pytest.raises(error):
            await anext(events)
    return seen, caught.value


@promise("stream.order", "stream.path")
async def test_events_come_in_order_with_their_path_and_the_result_last(mesh: Mesh) -> None:
    words = [f"w{number}" for number in range(500)]
    *deltas, last = await events_of(mesh, "words", " ".join(words))
    assert deltas == [Delta(word, ("words",)) for word in words]
    assert isinstance(last, Result)
    assert (last.message.payload, last.path) == (" ".join(words), ("words",))


@promise("stream.order")
async def test_the_stream_keeps_its_result(mesh: Mesh) -> None:
    async with mesh.runtime.stream("words", "a b") as events:
        assert events.result is None
        async for _ in events:
            pass
        assert events.result is not None
        assert events.result.payload == "a b"


@promise("stream.order", "usage.reply")
async def test_a_model_s_answer_is_streamed_in_pieces_and_counted(mesh: Mesh) -> None:
    *deltas, last = await events_of(mesh, "writer", "four words of text")
    assert "".join(delta.text for delta in deltas if isinstance(delta, Delta)) == "four words of text"
    assert len(deltas) == 4
    assert isinstance(last, Result)
    assert last.message.usage.total_tokens == 8


@promise("stream.default")
async def test_an_agent_that_does_not_stream_gives_one_result(mesh: Mesh) -> None:
    (result,) = await events_of(mesh, "upper", "x")
    assert isinstance(result, Result)
    assert result.message.payload == "X"


@promise("stream.terminal")
async def test_nothing_follows_the_first_result(mesh: Mesh) -> None:
    (result,) = await events_of(mesh, "goes-on", "x")
    assert isinstance(result, Result)
    assert result.message.payload == "first"


@promise("stream.terminal", "stream.errors")
async def test_a_stream_without_a_result_is_broken(mesh: Mesh) -> None:
    seen, error = await until_error(mesh, "no-result", "a b", StreamBroken)
    assert [event.text for event in seen if isinstance(event, Delta)] == ["a", "b"]
    assert error.agent_path == ("no-result",)


@promise("stream.terminal", "call.invalid_reply")
async def test_what_is_no_event_ends_the_stream(mesh: Mesh) -> None:
    seen, error = await until_error(mesh, "no-event", "x", InvalidReply)
    assert len(seen) == 1
    assert "yielded a str" in error.message


@promise("stream.errors", "errors.class")
async def test_an_error_is_raised_after_the_events_before_it(mesh: Mesh) -> None:
    seen, error = await until_error(mesh, "breaks-off", "a b c", OutOfStock)
    assert [event.text for event in seen if isinstance(event, Delta)] == ["a", "b", "c"]
    assert error.item == "words"


@promise("stream.terminal", "call.unknown", "call.unready")
@pytest.mark.parametrize(("name", "error"), [("nobody", AgentNotFound), ("unready", AgentUnavailable)])
async def test_a_stream_of_nobody_fails_like_a_call(mesh: Mesh, name: str, error: type[AixgoError]) -> None:
    seen, _ = await until_error(mesh, name, "x", error)
    assert seen == []


@promise("stream.bounded")
async def test_an_agent_waits_for_a_reader_that_stands_still(mesh: Mesh) -> None:
    async with mesh.runtime.stream("torrent", mesh.key, timeout=BOUND) as events:
        await anext(events)
        before, now = -1, len(await mesh.noted(1))
        while now != before:
            await asyncio.sleep(0.2)  # long enough for thousands of events, if nothing held them back
            before, now = now, len(await mesh.noted(1))
        assert now < Torrent.SIZE // 100 // 2
        rest = [event async for event in events]
    assert len(rest) == Torrent.SIZE


@promise("stream.alone")
async def test_a_reader_that_stands_still_does_not_hold_up_other_calls_of_the_same_process(mesh: Mesh) -> None:
    async with mesh.runtime.stream("torrent", mesh.key, timeout=BOUND) as still:
        await anext(still)
        async with mesh.runtime.stream("torrent", f"other {mesh.key}", timeout=BOUND) as events:
            assert len([event async for event in events]) == Torrent.SIZE + 1
        rest = [event async for event in still]
    assert len(rest) == Torrent.SIZE


@promise("stream.leave")
async def test_leaving_a_stream_early_stops_the_agent(mesh: Mesh) -> None:
    async with mesh.runtime.stream("endless", mesh.key, timeout=BOUND) as events:
        first = await anext(events)
    assert first == Delta("0", ("endless",))
    assert await mesh.noted(1) == ["closed"]


@promise("stream.leave")
async def test_a_reader_that_fails_stops_the_agent_and_keeps_its_own_error(mesh: Mesh) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # the block is what is tested
        async with mesh.runtime.stream("endless", mesh.key, timeout=BOUND) as events:
            async for _ in events:
                raise ZeroDivisionError
    assert await mesh.noted(1) == ["closed"]


@promise("stream.leave")
async def test_many_streams_run_side_by_side_without_mixing(mesh: Mesh) -> None:
    texts = [" ".join(f"{stream}.{number}" for number in range(40)) for stream in range(20)]
    streams = await asyncio.gather(*(events_of(mesh, "words", text) for text in texts))
    for text, events in zip(texts, streams, strict=True):
        assert [event.text for event in events if isinstance(event, Delta)] == text.split()


@promise("stream.members", "stream.path")
async def test_the_events_of_members_come_up_between_their_start_and_end(mesh: Mesh) -> None:
    events = await events_of(mesh, "streamed", "a b")
    words, upper = ("streamed", "words"), ("streamed", "upper")
    assert [(type(event).__name__, event.path) for event in events] == [
        ("MemberStarted", words),
        ("Delta", words),
        ("Delta", words),
        ("MemberFinished", words),
        ("MemberStarted", upper),
        ("MemberFinished", upper),
        ("Result", ("streamed",)),
    ]
    finished = [event.message for event in events if isinstance(event, MemberFinished)]
    assert [message.payload for message in finished if message] == ["a b", "A B"]


@promise("stream.members", "errors.class")
async def test_a_member_s_failure_comes_up_as_an_event_and_the_result_follows(mesh: Mesh) -> None:
    events = await events_of(mesh, "half-panel", "x")
    failed = [event for event in events if isinstance(event, MemberFinished) and event.error is not None]
    (event,) = failed
    assert isinstance(event.error, AgentFailed)
    assert event.path == ("half-panel", "boom")
    assert isinstance(events[-1], Result)


@promise("stream.members")
async def test_events_come_up_through_nested_patterns(mesh: Mesh) -> None:
    events = await events_of(mesh, "nested", "loud")
    started = {event.path for event in events if isinstance(event, MemberStarted)}
    assert ("nested", "nested/1", "words") in started
    assert ("nested", "triage", "upper") in started
    assert [event.text for event in events if isinstance(event, Delta)] == ["LOUD"]
