"""Work that is cancelled gets its time to end, whatever holds it up; of what is left behind, nothing is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from aixgo import Usage, errors
from aixgo.call import Budget, CallState, entered, root
from aixgo.errors import DeadlineExceeded
from aixgo.llm.contract import ChatMessage, Chunk, Completion, CompletionRequest
from aixgo.llm.metering import Metered, estimate_prompt
from aixgo.llm.price import Price
from aixgo.llm.pricing import Prices
from aixgo.runtime import entry
from aixgo.runtime.entry import bounded

ASKED = CompletionRequest((ChatMessage("user", "hello there"),), "m", max_tokens=50)
PROMPT = estimate_prompt(ASKED)
PRICES = Prices({"vendor/m": Price(Decimal(1000), Decimal(2000))})
MOST = Usage(unsettled_tokens=PROMPT + 50, unsettled_usd=Decimal(PROMPT + 100))
TOOK = Usage(PROMPT, 7, llm_calls=1, cost_usd=Decimal(PROMPT + 14))


class Deaf:
    """A vendor's client that answers when it is let, and does not hear that it is cancelled."""

    vendor = "vendor"

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = asyncio.Event()

    async def complete(self, request: CompletionRequest) -> Completion:
        self.asked.set()
        while not self.may_answer.is_set():
            try:
                await self.may_answer.wait()
            except asyncio.CancelledError:
                continue
        return Completion("done", request.model, Usage(PROMPT, 7))

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        yield Chunk(completion=await self.complete(request))

    async def close(self) -> None: ...


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Deaf:
    monkeypatch.setattr(entry, "CANCEL_GRACE", 0.012)
    return Deaf()


def calling(budget: Budget | None) -> CallState:
    state = root(60.0)
    state.budget = budget
    return state.child("a")


async def left_behind(client: Deaf, state: CallState) -> asyncio.Task[Completion]:
    """A call to a model whose agent was left behind while it was out."""
    with entered(state):
        made: list[asyncio.Task[Completion]] = []

        async def asks() -> Completion:
            made.append(asyncio.current_task())  # pyright: ignore[reportArgumentType]  # this runs in a task
            return await Metered(client, PRICES).complete(ASKED)

        caller = asyncio.create_task(bounded(asks(), state))
        await client.asked.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
    return made[0]


async def test_an_llm_call_that_was_left_behind_is_unsettled_while_nobody_knows_what_it_takes(client: Deaf) -> None:
    state = calling(Budget(1000, Decimal(1000)))
    task = await left_behind(client, state)
    assert state.ledger.above is not None
    assert state.ledger.usage == state.ledger.above.usage
    assert state.ledger.usage.incomplete
    assert state.ledger.usage.held_tokens == MOST.held_tokens
    assert state.ledger.usage.held_usd == MOST.held_usd
    assert state.budget is not None
    assert state.budget.left() == (1000 - MOST.held_tokens, 1000 - MOST.held_usd)
    client.may_answer.set()
    await task


async def test_what_it_took_replaces_what_was_unsettled_once_it_ends_after_all(client: Deaf) -> None:
    state = calling(Budget(1000, Decimal(1000)))
    task = await left_behind(client, state)
    client.may_answer.set()
    await task
    assert state.ledger.above is not None
    assert state.ledger.usage == state.ledger.above.usage
    assert state.ledger.usage.incomplete
    assert state.ledger.usage.total_tokens == TOOK.total_tokens
    assert state.ledger.usage.cost_usd == TOOK.cost_usd
    assert state.ledger.usage.held_tokens == TOOK.held_tokens
    assert state.budget is not None
    assert state.budget.left() == (1000 - TOOK.held_tokens, 1000 - TOOK.held_usd)


async def test_without_a_budget_the_usage_of_what_was_left_behind_is_incomplete(client: Deaf) -> None:
    state = calling(None)
    task = await left_behind(client, state)
    assert state.ledger.usage == Usage(incomplete=True)
    client.may_answer.set()
    await task
    assert state.ledger.usage.total_tokens == TOOK.total_tokens


async def test_an_llm_call_that_has_ended_is_not_written_off(client: Deaf) -> None:
    state = calling(Budget(1000, Decimal(1000)))
    client.may_answer.set()
    with entered(state):
        await Metered(client, PRICES).complete(ASKED)
    state.ledger.write_off()
    assert state.ledger.usage.held_tokens == TOOK.held_tokens


async def test_time_in_which_nothing_could_run_does_not_count_as_time_to_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(entry, "CANCEL_GRACE", 0.0012)
    ended: list[str] = []

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            time.sleep(0.005)  # noqa: ASYNC251  # it holds up the event loop, which is what this is about
            for _ in range(4):
                await asyncio.sleep(0)
            ended.append("work")

    with caplog.at_level(logging.WARNING), pytest.raises(DeadlineExceeded):
        await bounded(works(), root(0.01).child("a"))
    assert ended == ["work"]
    assert "did not stop" not in caplog.text


async def test_a_call_that_is_cancelled_twice_waits_for_the_end_of_its_work() -> None:
    order: list[str] = []
    begun, ending = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            for _ in range(4):
                await asyncio.sleep(0)
            order.append("work")

    caller = asyncio.create_task(bounded(works(), root(60.0).child("a")))
    await begun.wait()
    caller.cancel()
    await ending.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert order == ["work"]


async def test_a_failure_of_a_call_that_was_left_behind_takes_back_what_was_unsettled(client: Deaf) -> None:
    class Failing(Deaf):
        async def complete(self, request: CompletionRequest) -> Completion:
            await super().complete(request)
            raise errors.RateLimited("later")

    failing, state = Failing(), calling(Budget(1000, Decimal(1000)))
    task = await left_behind(failing, state)
    failing.may_answer.set()
    with pytest.raises(errors.RateLimited):
        await task
    assert state.ledger.usage.held_tokens == 0
    assert state.budget is not None
    assert state.budget.left() == (1000, 1000)
