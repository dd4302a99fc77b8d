"""Processes that end in good order: nobody's call fails."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from aixgo import DistributedRuntime

from tests.contract.requirements import promise
from tests.support import Load, eventually, fleet, start_host

BOUND = 15.0


@promise("fleet.drain")
async def test_a_rolling_restart_under_load_fails_no_call_though_the_agent_is_not_idempotent(transport: str) -> None:
    with fleet(["worker"], ["worker"]) as running, ExitStack() as stack:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            async with Load(lambda: runtime.call("worker", "x", timeout=BOUND)) as load:
                await load.more(100)
                for old in running.hosts:
                    assert await asyncio.to_thread(old.drain) == 0, old.log()
                    new = stack.enter_context(start_host(["worker"], control_plane=[running.control_plane]))
                    await asyncio.to_thread(new.wait_ready)
                    await eventually(lambda pid=new.pid: load.replies[-1].metadata["pid"] == pid)
                await load.more(100)
            assert load.errors == []


@promise("fleet.drain", "stream.terminal")
async def test_streams_that_run_when_a_drain_begins_come_to_their_end(transport: str) -> None:
    text = " ".join(["word"] * 300)
    with fleet(["words"], ["words"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:

            async def events() -> int:
                async with runtime.stream("words", text, timeout=BOUND) as stream:
                    return len([event async for event in stream])

            async with Load(events) as load:
                await load.more(20)
                assert await asyncio.to_thread(running.hosts[0].drain) == 0
                await load.more(20)
            assert load.errors == []
            assert set(load.replies) == {301}


@promise("fleet.drain")
async def test_a_process_without_calls_drains_at_once_and_is_no_longer_listed(transport: str) -> None:
    with fleet(["upper"], ["reverse"]) as running:
        async with DistributedRuntime(control_plane=[running.control_plane], transport=transport) as runtime:
            await runtime.call("upper", "x", timeout=BOUND)
            assert await asyncio.to_thread(running.hosts[0].drain) == 0
            await eventually(lambda: runtime.list_agents() == ["reverse"])
