"""Hedging between two processes: who answers, what becomes of the other one, and whose calls are never hedged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aixgo import CallOptions, DistributedRuntime, Usage
from aixgo.message import new_id

from tests.contract.replicas import (
    BOUND,
    CAST,
    TRANSPORTS,
    asked,
    by_host_name,
    calling,
    looking_into,
    two_hosts,
)
from tests.contract.requirements import promise
from tests.support import POLL, Fleet, fleet

NAMES = ("racer", "plodder", "writer", "paid-racer", "journal")
SOON = 0.05
"""Seconds after which the calls of these tests are hedged; an answer that has to wait never comes before."""
HEDGED = CallOptions(timeout=BOUND, hedge_after=SOON)


@pytest.fixture(scope="module", params=TRANSPORTS)
def racers(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """Two processes with the same agents."""
    with fleet(NAMES, NAMES, cast=CAST, transport=request.param) as running:
        yield running


@promise("fleet.hedged", "fleet.hedged_usage")
@pytest.mark.parametrize(("name", "stream"), [("paid-racer", False), ("racer", True)])
@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_answer_counts_and_the_other_instance_is_stopped(
    racers: Fleet, winner: int, name: str, stream: bool
) -> None:
    key, won, lost = new_id(), racers.hosts[winner], racers.hosts[1 - winner]
    async with calling(racers) as runtime, looking_into(won) as winning, looking_into(lost) as losing:
        call = asyncio.create_task(asked(runtime, name, key, stream=stream, options=HEDGED))
        for seen in (winning, losing):
            assert await seen.noted(key, 1) == ["started"]
        await winning.release(key)
        reply = await call
        assert reply.payload == str(won.pid)
        assert await losing.noted(key, 2) == ["started", "cancelled"]
        assert await winning.noted(key, 2) == ["started", "answered"]
    paid = 0 if stream else 1  # calls of a model on the way to an answer, of one token each way
    spent = (reply.usage.llm_calls, reply.usage.total_tokens)
    assert spent == (2 * paid, 4 * paid) or (reply.usage.incomplete and spent == (paid, 2 * paid))


@promise("fleet.hedged_idempotent")
async def test_an_agent_that_is_not_idempotent_runs_once_however_long_it_takes(racers: Fleet) -> None:
    """A call that is hedged after the same time, and begun later, is at both instances before the first one may end."""
    key, later = new_id(), new_id()
    both = {"plodder": SOON, "racer": SOON}
    runtime = DistributedRuntime(control_plane=[racers.control_plane], transport=racers.transport, hedged=both)
    async with runtime, looking_into(racers.hosts[0]) as one, looking_into(racers.hosts[1]) as other:
        call = asyncio.create_task(asked(runtime, "plodder", key))
        begun = [asyncio.create_task(seen.noted(key, 1)) for seen in (one, other)]
        await asyncio.wait(begun, return_when=asyncio.FIRST_COMPLETED)
        hedged = asyncio.create_task(asked(runtime, "racer", later))
        for seen in (one, other):
            await seen.noted(later, 1)
        for seen in (one, other):
            await seen.release(later)
        await hedged
        for seen in (one, other):
            await seen.release(key)
        await call
        assert await one.noted(key, 0) + await other.noted(key, 0) == ["started", "answered"]
        for waiting in begun:
            waiting.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


@promise("fleet.hedged", "fleet.hedged_usage")
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_instance_that_stands_still_is_overtaken_and_what_it_was_asked_stops_when_it_moves_on(
    transport: str,
) -> None:
    keys: list[str] = []
    with two_hosts(("racer", "journal")) as (frozen, alive):
        async with (
            by_host_name((frozen, alive), "racer", transport) as runtime,
            looking_into(frozen) as standing,
            looking_into(alive) as going,
        ):

            async def call(*, stream: bool) -> tuple[int, Usage]:
                keys.append(new_id())
                await going.release(keys[-1])
                reply = await asked(runtime, "racer", keys[-1], stream=stream, options=HEDGED)
                return int(reply.text), reply.usage

            async def answered_by_frozen() -> None:
                key, pid = "", 0
                while pid != frozen.pid:
                    key = new_id()
                    for seen in (standing, going):
                        await seen.release(key)
                    pid = int((await asked(runtime, "racer", key)).text)

            async with asyncio.timeout(BOUND):
                await answered_by_frozen()  # so that there is a connection
                frozen.freeze()
                try:
                    for stream in (False, True):
                        usage = Usage()
                        while not usage.incomplete:  # as of one that was hedged: the frozen one does not say
                            pid, usage = await call(stream=stream)
                            assert pid == alive.pid
                finally:
                    frozen.thaw()
                await answered_by_frozen()
                for key in keys:
                    while await standing.noted(key, 0) not in ([], ["started", "cancelled"]):  # noqa: ASYNC110
                        await asyncio.sleep(POLL)
