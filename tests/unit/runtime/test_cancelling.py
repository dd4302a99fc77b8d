"""Cancelling the task of a call: whoever does it learns what the task has spent, also when cancelled meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from aixgo import LocalRuntime, Message, Parallel, Usage, agent
from aixgo import call as ambient
from aixgo.runtime.entry import cancel_task

SPENT = Usage(7, llm_calls=1)


@pytest.mark.parametrize("cancellations", [0, 1, 3])
async def test_what_a_cancelled_task_spends_is_waited_for_however_often_the_waiter_is_cancelled(
    cancellations: int,
) -> None:
    state = ambient.root_entry("a", 60, "")
    stopping, stopped = asyncio.Event(), asyncio.Event()

    async def spends_at_its_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await stopped.wait()
            state.ledger.record(SPENT)

    task = asyncio.create_task(spends_at_its_end())
    await asyncio.sleep(0)
    waiter = asyncio.create_task(cancel_task(task, state))
    await stopping.wait()
    for _ in range(cancellations):
        waiter.cancel()
        await asyncio.sleep(0)
    stopped.set()
    await asyncio.wait({waiter})
    assert waiter.cancelled() == (cancellations > 0)
    assert state.ledger.usage == SPENT


async def test_a_streaming_orchestrator_that_is_cancelled_twice_still_knows_what_its_members_spent() -> None:
    """As by a caller that breaks off its RPC and sends a Cancel after it."""
    begun, stopping, stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @agent
    async def member(message: Message) -> Message:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await stopped.wait()
            now = ambient.current()
            assert now is not None
            now.ledger.record(SPENT)
        return message

    runtime = LocalRuntime()
    runtime.register(member)
    panel = Parallel("panel", ["member"])
    runtime.register(panel)
    state = ambient.root_entry("panel", 60, "")

    async def read() -> None:
        with ambient.entered(state):
            async for _ in panel.stream(Message("x")):
                pass

    reader = asyncio.create_task(read())
    await begun.wait()
    reader.cancel()
    await stopping.wait()
    reader.cancel()
    await asyncio.sleep(0)
    stopped.set()
    await asyncio.wait({reader})
    assert state.ledger.usage == SPENT
