"""Several calls at once: order, bounds, shares of the budget."""

from __future__ import annotations

import asyncio

import pytest
from aixgo import Message, Usage
from aixgo import call as ambient
from aixgo.call import Budget, CallState
from aixgo.errors import InvalidInput, WrongState
from aixgo.runtime.parallel import gather


async def after(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def with_budget(tokens: int) -> CallState:
    state = ambient.root(60).child("parent")
    state.budget = Budget(tokens)
    return state


async def test_outcomes_stand_in_the_order_of_the_targets() -> None:
    async def invoke(target: str) -> Message:
        await after(10 - int(target))
        if target == "2":
            raise WrongState("two")
        return Message(target)

    outcomes = await gather(["0", "1", "2", "3"], invoke)
    assert [outcome.target for outcome in outcomes] == ["0", "1", "2", "3"]
    assert [outcome.ok for outcome in outcomes] == [True, True, False, True]
    assert [message.payload for message in outcomes.results] == ["0", "1", "3"]
    assert [type(error) for error in outcomes.errors] == [WrongState]
    assert [outcome.target for outcome in outcomes[1:3]] == ["1", "2"]
    assert outcomes.by_name["3"].message is outcomes[3].message


async def test_no_target_is_no_outcome() -> None:
    async def invoke(target: str) -> Message:
        raise AssertionError

    assert len(await gather([], invoke)) == 0


@pytest.mark.parametrize(("concurrency", "most"), [(None, 9), (3, 3), (1, 1), (50, 9)])
async def test_no_more_run_at_once_than_is_allowed(concurrency: int | None, most: int) -> None:
    running = peak = 0

    async def invoke(target: str) -> Message:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await after(3)
        running -= 1
        return Message(target)

    outcomes = await gather([str(n) for n in range(9)], invoke, concurrency)
    assert (peak, len(outcomes.results)) == (most, 9)


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_a_concurrency_below_one_is_refused(concurrency: int) -> None:
    async def invoke(target: str) -> Message:
        raise AssertionError

    with pytest.raises(InvalidInput, match=f"concurrency is {concurrency}; pass 1 or more"):
        await gather(["a"], invoke, concurrency)


async def test_each_gets_its_share_and_what_is_left_comes_back() -> None:
    shares: list[int | None] = []

    async def invoke(target: str) -> Message:
        state = ambient.current()
        assert state is not None
        assert state.budget is not None
        shares.append(state.budget.left()[0])
        reserved = state.budget.reserve(20)
        state.budget.repay(reserved, Usage(15, llm_calls=1))
        return Message(target)

    state = with_budget(100)
    with ambient.entered(state):
        await gather(["a", "b", "c"], invoke)
    assert shares == [33, 33, 34]
    assert state.budget is not None
    assert state.budget.left() == (55, None)


async def test_shares_come_back_even_from_calls_that_were_cancelled_before_they_began() -> None:
    async def invoke(target: str) -> Message:
        await asyncio.Event().wait()
        return Message(target)

    for steps in range(4):
        state = with_budget(100)
        with ambient.entered(state):
            task = asyncio.create_task(gather(["a", "b", "c"], invoke, 1))
        await after(steps)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert state.budget is not None
        assert state.budget.left() == (100, None)


async def test_a_defect_is_not_taken_for_an_outcome_and_cancels_the_others() -> None:
    cancelled: list[str] = []

    async def invoke(target: str) -> Message:
        if target == "bad":
            raise KeyError(target)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(target)
            raise
        return Message(target)

    with pytest.raises(ExceptionGroup) as caught:
        await gather(["a", "bad"], invoke)
    assert isinstance(caught.value.exceptions[0], KeyError)
    assert cancelled == ["a"]
