"""How many members of a parallel must succeed, and what early stop does to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from aixgo.agent import Agent, agent
from aixgo.errors import AllMembersFailed, CallCancelled, ConfigError, InvalidInput, TooFewSucceeded
from aixgo.events import Delta, Event, MemberFinished, MemberStarted, Result
from aixgo.message import Message
from aixgo.orchestration.base import DEFAULT_LIMITS
from aixgo.orchestration.catalog import build
from aixgo.orchestration.parallel import Parallel
from aixgo.testing import running
from hypothesis import given
from hypothesis import strategies as st


class After(Agent):
    """Ends after so many turns of the event loop, well or badly; None: never. Says how it ended."""

    def __init__(self, name: str, turns: int | None, *, fails: bool = False) -> None:
        self.name, self.turns, self.fails = name, turns, fails
        self.ended = ""

    async def execute(self, message: Message) -> Message:
        try:
            if self.turns is None:
                await asyncio.Event().wait()
            for _ in range(self.turns or 0):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "failed" if self.fails else "answered"
        if self.fails:
            raise ValueError("no")
        return Message(self.name)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Delta(self.name)
        yield Result(await self.execute(message))


def fine(*turns: int | None) -> list[After]:
    return [After(f"f{at}", count) for at, count in enumerate(turns)]


def bad(*turns: int | None) -> list[After]:
    return [After(f"b{at}", count, fails=True) for at, count in enumerate(turns)]


async def call(made: Parallel) -> Message:
    async with running(made) as runtime:
        return await runtime.call("p", "x")


async def stream(made: Parallel) -> tuple[list[Event], Exception | None]:
    events: list[Event] = []
    async with running(made) as runtime, runtime.stream("p", "x") as coming:
        try:
            async for event in coming:
                events.append(event)
        except (AllMembersFailed, TooFewSucceeded) as error:
            return events, error
    return events, None


# how many are required


@pytest.mark.parametrize(
    ("require", "succeed", "fail", "enough"),
    [
        ("any", 1, 2, True), ("majority", 2, 1, True), ("majority", 2, 2, False), ("majority", 3, 2, True),
        ("majority", 1, 2, False), ("all", 3, 0, True), ("all", 2, 1, False), (2, 2, 3, True), (3, 2, 3, False),
        (1, 1, 0, True),
    ],
)  # fmt: skip
async def test_so_many_must_succeed(require: Any, succeed: int, fail: int, enough: bool) -> None:
    made = Parallel("p", [*fine(*[0] * succeed), *bad(*[0] * fail)], require=require)
    if enough:
        reply = await call(made)
        assert set(reply.payload) == {f"f{at}" for at in range(succeed)}  # type: ignore[arg-type]
        assert len(reply.metadata.get("parallel_errors", {})) == fail
        assert "parallel_cancelled" not in reply.metadata
    else:
        with pytest.raises(TooFewSucceeded) as caught:
            await call(made)
        required = caught.value.fields["required"]
        assert caught.value.message.startswith(f"{succeed} of {succeed + fail} agents succeeded and {required} are req")
        assert caught.value.fields["succeeded"] == succeed
        assert set(caught.value.fields["errors"]) == {f"b{at}" for at in range(fail)}


@pytest.mark.parametrize("require", ["any", "majority", "all", 2])
async def test_with_no_success_at_all_all_have_failed(require: Any) -> None:
    with pytest.raises(AllMembersFailed) as caught:
        await call(Parallel("p", bad(0, 0), require=require))
    assert set(caught.value.fields["errors"]) == {"b0", "b1"}


@pytest.mark.parametrize("require", [0, 3, -1])
def test_more_than_there_are_cannot_be_required(require: int) -> None:
    with pytest.raises(InvalidInput, match=f"require of parallel 'p' is {require}; pass 1 to 2"):
        Parallel("p", ["a", "b"], require=require)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"require": "majorty"}, "require of parallel 'p' is 'majorty', which is not known; did you mean 'majority'"),
        ({"concurrency": 0}, "concurrency of parallel 'p' is 0; pass 1 or more, or leave it out"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        Parallel("p", ["a", "b"], **settings)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"require": "most"}, "config.require"),
        ({"require": 0}, "config.require"),
        ({"early_stop": "maybe"}, "config.early_stop"),
    ],
)
def test_in_yaml_the_key_is_named(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("parallel", "p", ["a", "b"], config, DEFAULT_LIMITS)
    assert text in caught.value.message


async def test_yaml_makes_the_same() -> None:
    members = [*fine(0, 0), After("slow", None)]
    made = build("parallel", "p", members, {"require": "majority", "early_stop": True}, DEFAULT_LIMITS)
    assert isinstance(made, Parallel)
    reply = await call(made)
    assert (reply.payload, reply.metadata["parallel_cancelled"]) == ({"f0": "f0", "f1": "f1"}, ["slow"])


# early stop


async def test_without_early_stop_all_are_waited_for() -> None:
    members = fine(0, 20)
    assert set((await call(Parallel("p", members))).payload) == {"f0", "f1"}  # type: ignore[arg-type]


async def test_any_of_cancels_the_losers_and_names_them() -> None:
    members = [*fine(3), After("slow", None), After("slower", None)]
    reply = await call(Parallel("p", members, early_stop=True))
    assert reply.payload == {"f0": "f0"}
    assert reply.metadata["parallel_cancelled"] == ["slow", "slower"]
    assert "parallel_errors" not in reply.metadata
    assert [member.ended for member in members] == ["answered", "cancelled", "cancelled"]


async def test_it_stops_when_too_many_have_failed_to_succeed_still() -> None:
    members = [*bad(3), After("slow", None)]
    with pytest.raises(TooFewSucceeded, match="0 of 2 agents succeeded and 2 are required: b0: AgentFailed") as caught:
        await call(Parallel("p", members, require="all", early_stop=True))
    assert set(caught.value.fields["errors"]) == {"b0"}
    assert members[1].ended == "cancelled"


async def test_it_does_not_stop_while_enough_may_still_succeed() -> None:
    reply = await call(Parallel("p", [*bad(0, 0), *fine(5)], early_stop=True))
    assert (reply.payload, set(reply.metadata["parallel_errors"])) == ({"f0": "f0"}, {"b0", "b1"})


async def test_a_member_whose_own_work_was_cancelled_has_failed_and_was_not_stopped() -> None:
    @agent
    async def gave_up(_: Message) -> None:
        raise CallCancelled("my own member was not wanted any more")

    reply = await call(Parallel("p", [gave_up, *fine(5)], early_stop=True))
    assert reply.metadata["parallel_errors"]["gave_up"]["class"] == "CallCancelled"
    assert "parallel_cancelled" not in reply.metadata


async def test_those_that_wait_for_room_never_begin() -> None:
    members = fine(0, 0, 0)
    reply = await call(Parallel("p", members, concurrency=1, early_stop=True))
    assert reply.metadata["parallel_cancelled"] == ["f1", "f2"]
    assert [member.ended for member in members] == ["answered", "", ""]


async def test_the_reader_of_a_stream_sees_every_member_that_began_finish() -> None:
    members = [*fine(5), After("slow", None), After("slower", None)]
    events, error = await stream(Parallel("p", members, early_stop=True))
    assert error is None
    begun = [event.path[-1] for event in events if isinstance(event, MemberStarted)]
    finished = {event.path[-1]: event for event in events if isinstance(event, MemberFinished)}
    assert sorted(begun) == sorted(finished) == ["f0", "slow", "slower"]
    assert finished["f0"].error is None
    for name in ("slow", "slower"):
        told = finished[name].error
        assert isinstance(told, CallCancelled)
        assert "were enough" in told.message
    assert [type(event) for event in events].count(Result) == 1
    assert isinstance(events[-1], Result)


async def test_an_aggregator_is_asked_about_those_that_answered() -> None:
    class Judge(Agent):
        name = "judge"

        async def execute(self, message: Message) -> Message:
            return Message(sorted(message.metadata["parallel_results"]))

    reply = await call(Parallel("p", [*fine(0), After("slow", None)], aggregator=Judge(), early_stop=True))
    assert (reply.payload, reply.metadata["parallel_cancelled"]) == (["f0"], ["slow"])


KINDS = st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 12)), min_size=1, max_size=6)


@given(kinds=KINDS, data=st.data(), early_stop=st.booleans(), streaming=st.booleans())
def test_it_succeeds_exactly_when_enough_do_and_leaves_nothing_running(
    kinds: Sequence[tuple[bool, int | None]], data: st.DataObject, early_stop: bool, streaming: bool
) -> None:
    """By brute force: as many as are required answer in the end, whoever is the first."""
    if not early_stop:  # then those that never end would hold it up, as they should
        kinds = [(fails, turns or 0) for fails, turns in kinds]
    require = data.draw(st.sampled_from(["any", "majority", "all"]) | st.integers(1, len(kinds)))
    members = [After(f"m{at}", turns, fails=fails) for at, (fails, turns) in enumerate(kinds)]
    required = {"any": 1, "majority": len(kinds) // 2 + 1, "all": len(kinds)}.get(str(require), require)
    possible = sum(not fails and turns is not None for fails, turns in kinds)
    failing = sum(fails and turns is not None for fails, turns in kinds)
    decided = possible >= required or len(kinds) - failing < required
    if not decided:
        return  # it would wait for ever, for somebody who never ends

    async def run() -> tuple[Message | None, Exception | None]:
        made = Parallel("p", members, require=require, early_stop=early_stop)
        before = asyncio.all_tasks()
        try:
            if streaming:
                events, error = await stream(made)
                last = events[-1] if events else None
                reply = last.message if isinstance(last, Result) else None
            else:
                reply, error = await call(made), None
        except (AllMembersFailed, TooFewSucceeded) as caught:
            reply, error = None, caught
        assert asyncio.all_tasks() == before
        return reply, error

    reply, error = asyncio.run(run())
    answered = {member.name for member in members if member.ended == "answered"}
    if possible >= required:
        assert error is None
        assert reply is not None
        assert set(reply.payload) <= answered  # type: ignore[arg-type]
        assert len(reply.payload) >= required  # type: ignore[arg-type]
        counted = {*reply.payload, *reply.metadata.get("parallel_errors", {})}  # type: ignore[misc]
        assert counted.isdisjoint(reply.metadata.get("parallel_cancelled", []))
        assert counted | set(reply.metadata.get("parallel_cancelled", [])) == {member.name for member in members}
    else:
        assert isinstance(error, (AllMembersFailed, TooFewSucceeded))
