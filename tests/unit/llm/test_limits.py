"""How many requests are out at a vendor at once, and how fast they go."""

from __future__ import annotations

import asyncio

import pytest
from aixgo import errors
from aixgo.call import entered, root
from aixgo.llm.contract import ChatMessage, Chunk, CompletionRequest
from aixgo.llm.limits import Gate, VendorLimits
from aixgo.llm.metering import Metered
from aixgo.llm.pricing import Prices
from aixgo.llm.retrying import Retrying, Tries
from aixgo.llm.scripted import Reply, ScriptedClient, ScriptedModel

ASKED = CompletionRequest((ChatMessage("user", "x"),), model="m")


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_requests_are_out_than_may_be():
    gate = Gate("openai", VendorLimits(max_concurrency=2))
    out: list[int] = []
    go = asyncio.Event()

    async def ask(number: int) -> None:
        async with gate.passed():
            out.append(number)
            await go.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(ask(number))
        await turns()
        assert out == [0, 1]
        go.set()
    assert out == [0, 1, 2, 3, 4]


async def test_who_stops_waiting_takes_no_place():
    gate = Gate("openai", VendorLimits(max_concurrency=1))
    async with gate.passed():
        waiting = asyncio.create_task(gate.passed().__aenter__())
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with gate.passed():
        pass


@pytest.mark.parametrize("limits", [VendorLimits(max_concurrency=1), VendorLimits(requests_per_minute=1)])
async def test_waiting_ends_at_the_deadline_and_says_which_limit_it_was(limits: VendorLimits):
    gate = Gate("openai", limits)
    async with gate.passed():
        with entered(root(timeout=0.01)), pytest.raises(errors.ProviderTimeout, match="AIXGO_OPENAI_MAX_CONCURRENCY"):
            async with gate.passed():
                pass


async def test_a_place_is_given_back_when_pacing_stops_the_request():
    gate = Gate("openai", VendorLimits(max_concurrency=2, requests_per_minute=1))
    async with gate.passed():
        pass
    for _ in range(3):
        with entered(root(timeout=0.01)), pytest.raises(errors.ProviderTimeout):
            await gate.passed().__aenter__()
    assert gate._places is not None
    assert not gate._places.locked()


async def test_a_second_of_requests_may_go_at_once_and_the_next_waits():
    gate = Gate("openai", VendorLimits(requests_per_minute=120))
    for _ in range(2):
        async with gate.passed():
            pass
    with entered(root(timeout=0.01)), pytest.raises(errors.ProviderTimeout):
        await gate.passed().__aenter__()


async def test_whoever_takes_time_over_a_finished_stream_keeps_nobody_waiting():
    model = ScriptedModel([Reply("x"), Reply("y")])
    tries = Tries(Gate("test", VendorLimits(max_concurrency=1)))
    provider = Retrying(Metered(ScriptedClient({"m": model}), Prices()), tries)
    stream = provider.stream(ASKED)
    last: Chunk | None = None
    while last is None or last.completion is None:
        last = await anext(stream)
    async with asyncio.timeout(5):
        assert (await provider.complete(ASKED)).text == "y"
