"""Which of two processes gets a call: the less loaded one, not the one that refuses, not the one that is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import pytest
from aixgo import DistributedRuntime
from aixgo.errors import Overloaded
from aixgo.message import new_id
from aixgo.runtime.balancer import REPORT_COUNTS, RETRY_CAPACITY, RETRY_DEPOSIT

from tests.contract.replicas import (
    BOUND,
    CAST,
    TRANSPORTS,
    asked,
    by_host_name,
    calling,
    looking_into,
    start_again,
    straight_to,
    two_hosts,
)
from tests.contract.requirements import promise
from tests.contract.served import busy, refused, serving, write_file
from tests.integration.secured import Running
from tests.support import Fleet, Load, eventually, fleet, start_host

NAMES = ("racer", "plodder", "single", "upper", "journal")
OF_REPLICAS = "aixgo.runtime.replicas"
"""The log that says who was ejected, and who is healthy again."""


async def occupied(stack: AsyncExitStack, runtime: DistributedRuntime, name: str, text: str) -> None:
    """Make a call that ends, cancelled, with the stack."""
    call = asyncio.create_task(asked(runtime, name, text))

    async def end() -> None:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    stack.push_async_callback(end)


@promise("fleet.ejected")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_instance_that_refuses_connections_is_left_out_until_its_health_is_back(
    transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, OF_REPLICAS)

    def told(word: str) -> int:
        return sum(word in record.message for record in caplog.records)

    with two_hosts(["upper"]) as hosts, ExitStack() as stack:
        gone, left = hosts
        async with (
            by_host_name(hosts, "upper", transport) as runtime,
            Load(lambda: runtime.call("upper", "x", timeout=BOUND)) as load,
        ):

            def answered() -> set[int]:
                return {reply.metadata["pid"] for reply in load.replies}

            await eventually(lambda: answered() == {gone.pid, left.pid}, BOUND)
            gone.kill()
            await eventually(lambda: told("is ejected") == 1, BOUND)
            load.replies.clear()
            await load.more(200)
            assert answered() == {left.pid}
            assert (told("is ejected"), told("is healthy again")) == (1, 0)
            back = stack.enter_context(start_again(["upper"], gone.address))
            await asyncio.to_thread(back.wait_ready)
            await eventually(lambda: back.pid in answered(), BOUND)
            assert told("is healthy again") == 1
        assert load.errors == []


@promise("fleet.least_loaded")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_calls_go_to_the_instance_that_has_fewer_of_this_caller(transport: str) -> None:
    with fleet(NAMES, NAMES, cast=CAST, transport=transport) as running:
        busy, free = running.hosts
        key = new_id()
        async with calling(running) as runtime, looking_into(busy) as holding, looking_into(free) as letting_go:
            calls = [asyncio.create_task(asked(runtime, "plodder", key)) for _ in range(8)]
            for seen in (holding, letting_go):
                assert await seen.noted(key, 4) == ["started"] * 4  # half of them each, as they came
            await letting_go.release(key)
            await asyncio.wait(calls, timeout=BOUND, return_when=asyncio.FIRST_COMPLETED)
            await eventually(lambda: sum(call.done() for call in calls) == 4, BOUND)
            pids = {(await runtime.call("upper", "x", timeout=BOUND)).metadata["pid"] for _ in range(50)}
            assert pids == {free.pid}
            await holding.release(key)
            await asyncio.gather(*calls)


@promise("fleet.least_loaded")
async def test_calls_go_to_the_instance_that_says_that_it_has_fewer_of_others() -> None:
    with fleet(NAMES, NAMES, cast=CAST, transport="session") as running:
        busy, free = running.hosts
        key = new_id()
        async with (
            calling(running) as runtime,
            straight_to(busy, ["plodder"], "session") as other,
            looking_into(busy) as seen,
            AsyncExitStack() as stack,
        ):
            for _ in range(20):
                await occupied(stack, other, "plodder", key)
            await seen.noted(key, 20)
            until = monotonic() + 3 * REPORT_COUNTS  # it says nothing anew as long as nothing has changed
            pids: list[int] = []
            while monotonic() < until or len(pids) < 100:
                pids.append((await runtime.call("upper", "x", timeout=BOUND)).metadata["pid"])
            assert pids.count(busy.pid) * 4 < pids.count(free.pid)


@promise("fleet.rests", "limits.elsewhere")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_one_instance_refuses_another_takes_and_only_of_that_agent(transport: str) -> None:
    with fleet(NAMES, NAMES, cast=CAST, transport=transport) as running:
        full, free = running.hosts
        held = new_id()
        async with (
            calling(running) as runtime,
            straight_to(full, ["single"], transport) as other,
            looking_into(full) as seen,
            looking_into(free) as letting_go,
            AsyncExitStack() as stack,
        ):
            await occupied(stack, other, "single", held)
            await seen.noted(held, 1)
            for number in range(30):
                key = new_id()
                await letting_go.release(key)
                reply = await asked(runtime, "single", key, stream=number % 2 == 1)
                assert reply.payload == str(free.pid)
            pids = {(await runtime.call("upper", "x", timeout=BOUND)).metadata["pid"] for _ in range(50)}
            assert pids == {full.pid, free.pid}


@promise("fleet.drain", "limits.queue")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_calls_that_wait_at_an_instance_that_drains_are_taken_by_another(transport: str) -> None:
    """There they would wait for longer than a drain lasts; none has begun, so they may go elsewhere."""
    with fleet(["timed", "journal"], cast=CAST, transport=transport) as running, ExitStack() as stack:
        (old,) = running.hosts
        held, key = new_id(), new_id()
        async with (
            calling(running) as runtime,
            straight_to(old, ["timed"], transport) as other,
            looking_into(old) as seen,
            AsyncExitStack() as calls,
        ):
            await occupied(calls, other, "timed", f"{held} {10 * BOUND}")
            await seen.noted(held, 1)
            waiting = [asyncio.create_task(asked(runtime, "timed", f"{key} 0")) for _ in range(5)]
            new = stack.enter_context(
                start_host(["timed", "journal"], control_plane=[running.control_plane], cast=CAST)
            )
            await asyncio.to_thread(new.wait_ready)
            assert await seen.noted(key, 0) == []
            assert not any(call.done() for call in waiting)
            assert await asyncio.to_thread(old.drain) == 0
            assert [(await call).payload for call in waiting] == [f"{key} 0"] * 5
            async with looking_into(new) as there:
                assert await there.noted(key, 5) == ["started"] * 5


LONG = 2.0
"""Seconds that the first call of a desk takes: who is refused after it comes again after as long."""


@contextmanager
def two_desks(folder: Path, transport: str) -> Generator[tuple[Fleet, Running, Running]]:
    """Two processes of `aixgo serve` with the agents of the file, and the control plane that lists them."""
    write_file(folder)
    with fleet(transport=transport) as running, ExitStack() as processes:
        environment = {"AIXGO_CONTROL_PLANE": running.control_plane, "AIXGO_TRANSPORT": transport}
        one, other = (processes.enter_context(serving(folder, **environment)) for _ in range(2))
        yield running, one, other


async def keep_busy(stack: AsyncExitStack, desk: Running, transport: str, *, first: float = 0.0) -> None:
    """Make a call to a desk that takes longer than the test, after one that takes `first` seconds."""
    connect = {"desk": desk.ready["address"]}
    runtime = await stack.enter_async_context(DistributedRuntime(connect=connect, transport=transport))
    if first:
        await asked(runtime, "desk", str(first))
    await occupied(stack, runtime, "desk", str(10 * BOUND))
    await busy(desk, 1)


async def heard(runtime: DistributedRuntime) -> None:
    """Return when a runtime knows both processes."""
    pids: set[str] = set()
    async with asyncio.timeout(BOUND):
        while len(pids) < 2:
            pids.add((await asked(runtime, "who", "")).text)


@promise("fleet.rests")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_was_refused_comes_again_when_the_instance_has_said(transport: str, tmp_path: Path) -> None:
    """Of calls that take no time, many fit in a rest; without one, every second of them would be refused first."""
    with two_desks(tmp_path, transport) as (running, full, free):
        async with AsyncExitStack() as stack:
            await keep_busy(stack, full, transport, first=LONG)
            runtime = await stack.enter_async_context(calling(running))
            await heard(runtime)
            pids = [(await asked(runtime, "desk", "0")).text for _ in range(150)]
            assert len(set(pids)) == 1
            assert 0 < await refused(full, "queue") < len(pids) / 4
            assert await refused(free, "queue") == 0


@promise("fleet.retry_budget", "limits.queue")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_retries_cannot_double_the_calls_of_instances_that_are_full(transport: str, tmp_path: Path) -> None:
    calls = 600
    with two_desks(tmp_path, transport) as (running, *desks):
        async with AsyncExitStack() as stack:
            for desk in desks:
                await keep_busy(stack, desk, transport)
            runtime = await stack.enter_async_context(calling(running))
            await heard(runtime)
            for _ in range(calls):
                with pytest.raises(Overloaded, match="max_queue") as caught:
                    await asked(runtime, "desk", "0")
                assert not caught.value.accepted
            attempts = sum([await refused(desk, "queue") for desk in desks])
            assert calls < attempts <= calls + RETRY_CAPACITY + calls * RETRY_DEPOSIT
