"""Streaming through three levels of patterns over processes: every delta in order, under its path, then one Result."""

from __future__ import annotations

from itertools import pairwise

from aixgo import Delta, MemberFinished, MemberStarted, Result
from aixgo.runtime.base import BaseRuntime

BOUND = 30.0
TOP = "top"
PATHS = (
    ("top", "middle", "bottom", "leaf"),
    ("top", "middle", "bottom", "leaf-2"),
    ("top", "middle", "leaf"),
    ("top", "leaf-2"),
)
"""The leaves of the three levels, in the order in which they speak."""


async def test_three_levels_stream_every_delta_in_order_under_its_path(runtime: BaseRuntime) -> None:
    async with runtime.stream(TOP, "one two three four", timeout=BOUND) as events:
        seen = [event async for event in events]
    replies = {event.path: event.message.text for event in seen if isinstance(event, MemberFinished) and event.message}
    for path in PATHS:
        said = "".join(event.text for event in seen if isinstance(event, Delta) and event.path == path)
        assert said == replies[path]
    assert [type(event) for event in seen].count(Result) == 1
    assert isinstance(seen[-1], Result)
    assert seen[-1].path == (TOP,)


async def test_a_members_deltas_lie_between_its_beginning_and_its_end(runtime: BaseRuntime) -> None:
    async with runtime.stream(TOP, "one two three four", timeout=BOUND) as events:
        seen = [event async for event in events]
    for path in PATHS:
        own = [event for event in seen if event.path == path]
        assert isinstance(own[0], MemberStarted)
        assert isinstance(own[-1], MemberFinished)
        assert all(isinstance(event, Delta) for event in own[1:-1])
        assert len(own) > 3
    begun = [event.path for event in seen if isinstance(event, MemberStarted) and event.path in PATHS]
    assert begun == list(PATHS)
    assert all(a != b for a, b in pairwise(begun))
