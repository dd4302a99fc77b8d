"""What only the session store in memory does: it is bounded. What it shares with others is in tests/integration."""

from __future__ import annotations

import asyncio

import pytest
from aixgo.conversation import Turn
from aixgo.errors import InvalidInput
from aixgo.sessions.contract import SessionLimits
from aixgo.sessions.in_memory import InMemorySessions
from aixgo.sessions.queues import Queues
from hypothesis import given
from hypothesis import strategies as st


async def remember(store: InMemorySessions, session: str, text: str = "x") -> None:
    async with store.hold(session, "a") as held:
        await held.add([Turn("user", text), Turn("assistant", text)])


async def turns(store: InMemorySessions, session: str) -> int:
    async with store.hold(session, "a") as held:
        return len(held.turns)


async def test_the_session_that_was_used_longest_ago_is_forgotten_first():
    store = InMemorySessions(SessionLimits(max_sessions=2))
    for session in ("one", "two", "one", "three"):
        await remember(store, session)
    assert [await turns(store, session) for session in ("one", "two", "three")] == [4, 0, 2]


async def test_a_session_that_is_held_is_not_forgotten():
    store = InMemorySessions(SessionLimits(max_sessions=1))
    await remember(store, "one")
    async with store.hold("one", "a") as held:
        await remember(store, "two")
        await held.add([Turn("user", "y"), Turn("assistant", "y")])
    assert await turns(store, "one") == 4
    await remember(store, "three")
    assert len(store) == 1


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 5), st.integers(2, 6))
async def test_it_never_keeps_more_than_its_limits(sessions: list[int], max_sessions: int, max_turns: int):
    store = InMemorySessions(SessionLimits(max_sessions=max_sessions, max_turns=max_turns))
    for session in sessions:
        await remember(store, str(session))
        assert len(store) <= max_sessions
        assert 2 <= await turns(store, str(session)) <= max_turns


async def test_sessions_whose_time_has_passed_give_their_room_back():
    now = 0.0
    store = InMemorySessions(SessionLimits(ttl=10.0), clock=lambda: now)
    for session in "abc":
        await remember(store, session)
        now += 4
    assert await turns(store, "c") == 2  # at 12 s
    assert len(store) == 2


@pytest.mark.parametrize(
    ("limits", "told"), [({"ttl": 0.0}, "sessions.ttl"), ({"max_turns": 1}, "sessions.max_turns: 1 is too few")]
)
def test_limits_that_keep_nothing_are_refused(limits: dict[str, float], told: str):
    with pytest.raises(InvalidInput, match=told):
        SessionLimits(**limits)  # pyright: ignore[reportArgumentType]


async def test_a_queue_is_forgotten_when_the_last_has_left_it():
    queues, order = Queues(), list[str]()

    async def member(name: str) -> None:
        async with queues.turn("key"):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(member(name))
        cancelled = group.create_task(member("d"))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert "key" in queues
    assert order == ["a", "b", "c"]
    assert "key" not in queues
