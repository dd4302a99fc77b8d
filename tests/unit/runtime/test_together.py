"""Jobs beside each other: order, room, stopping when there is enough, and shares of a budget, in any interleaving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from aixgo import call as ambient
from aixgo.call import Budget, CallState
from aixgo.errors import BudgetExceeded, CallCancelled, DeadlineExceeded, InvalidInput, WrongState
from aixgo.message import Message
from aixgo.runtime.contract import Outcome, Outcomes
from aixgo.runtime.parallel import Job, together
from aixgo.usage import Usage
from hypothesis import given
from hypothesis import strategies as st


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def after(turns: int, answer: Any = "", error: Exception | None = None) -> Any:
    async def work() -> Message:
        for _ in range(turns):
            await asyncio.sleep(0)
        if error is not None:
            raise error
        return Message(answer)

    return work


def good(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.ok for outcome in outcomes)


def budgeted(tokens: int | None, usd: Decimal | None = None) -> tuple[CallState, Budget]:
    state = ambient.root(60).child("parent")
    state.budget = Budget(tokens, usd)
    return state, state.budget


async def test_labels_may_be_anything_and_stand_in_the_order_of_the_jobs() -> None:
    jobs: list[Job] = [("a", after(5, 1)), ("a", after(0, error=WrongState("two"))), ("b", after(1, 3))]
    outcomes = await together(jobs)
    assert [outcome.target for outcome in outcomes] == ["a", "a", "b"]
    assert [outcome.message and outcome.message.payload for outcome in outcomes] == [1, None, 3]


async def test_no_jobs_have_no_outcomes_and_too_little_room_is_refused() -> None:
    assert len(await together([])) == 0
    with pytest.raises(InvalidInput, match="concurrency is 0; pass 1 or more, or leave it out"):
        await together([("a", after(0))], 0)


async def test_enough_hears_the_outcomes_as_they_come_and_stops_the_rest() -> None:
    heard: list[list[str]] = []

    def enough(outcomes: Sequence[Outcome]) -> bool:
        heard.append([outcome.target for outcome in outcomes])
        return len(outcomes) == 2

    jobs: list[Job] = [("slow", never), ("b", after(9)), ("a", after(3, error=WrongState("x"))), ("slower", never)]
    outcomes = await together(jobs, None, enough)
    assert heard == [["a"], ["a", "b"]]
    assert [type(outcome.error) for outcome in outcomes] == [CallCancelled, type(None), WrongState, CallCancelled]


async def test_what_waits_for_room_never_begins_once_there_is_enough() -> None:
    begun: list[str] = []

    def job(name: str) -> Job:
        async def work() -> Message:
            begun.append(name)
            return await after(1)()

        return name, work

    outcomes = await together([job(name) for name in "abcdef"], 2, lambda outcomes: good(outcomes) >= 3)
    assert begun in (["a", "b", "c"], ["a", "b", "c", "d"])
    assert [outcome.ok for outcome in outcomes][3:] == [False] * 3


async def test_a_job_that_finishes_although_it_is_stopped_has_its_own_outcome() -> None:
    async def stubborn() -> Message:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise WrongState("cleaned up") from None
        raise AssertionError

    outcomes = await together([("a", after(2)), ("b", stubborn)], None, lambda outcomes: good(outcomes) >= 1)
    assert [type(outcome.error) for outcome in outcomes] == [type(None), WrongState]


async def test_what_is_not_done_by_the_deadline_is_too_late_and_what_is_done_stays() -> None:
    deadlines: list[float] = []

    async def looks() -> Message:
        state = ambient.current()
        assert state is not None
        deadlines.append(state.deadline)
        return Message("")

    deadline = asyncio.get_running_loop().time() + 0.02
    with ambient.entered(ambient.root(60)):
        outcomes = await together([("a", looks), ("b", never), ("c", looks), ("d", never)], 2, None, deadline)
    assert [type(outcome.error) for outcome in outcomes] == [
        type(None), DeadlineExceeded, type(None), DeadlineExceeded,
    ]  # fmt: skip
    assert deadlines == [deadline, deadline]


async def test_a_deadline_after_the_calls_own_changes_nothing() -> None:
    async def looks() -> Message:
        state = ambient.current()
        assert state is not None
        return Message(state.deadline)

    state = ambient.root(60)
    with ambient.entered(state):
        (outcome,) = await together([("a", looks)], None, None, state.deadline + 60)
    assert outcome.message is not None
    assert outcome.message.payload == state.deadline


@dataclass
class Plan:
    """One job: turns before it reserves, what it reserves and spends, turns before it ends; it may fail."""

    before: int
    reserves: int
    spends: int
    held: int
    fails: bool


PLANS = st.lists(
    st.builds(Plan, st.integers(0, 4), st.integers(0, 60), st.integers(0, 60), st.integers(0, 4), st.booleans()),
    max_size=7,
)


class Watched:
    """Runs plans as LLM calls do: reserve, hold, settle. Watches that nothing is ever overspent."""

    def __init__(self, budget: Budget, tokens: int) -> None:
        self.budget, self.tokens = budget, tokens
        self.running = self.peak = self.spent = self.reserved = 0
        self.usd = Decimal()

    def job(self, number: int, plan: Plan) -> Job:
        return str(number), lambda: self._do(plan)

    async def _do(self, plan: Plan) -> Message:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            for _ in range(plan.before):
                await asyncio.sleep(0)
            await self._call_a_model(plan)
        finally:
            self.running -= 1
        if plan.fails:
            raise WrongState("planned")
        return Message("")

    async def _call_a_model(self, plan: Plan) -> None:
        state = ambient.current()
        assert state is not None
        assert state.budget is not None
        share = state.budget
        reservation = share.reserve(plan.reserves, Decimal(plan.reserves) / 1000)
        self.reserved += plan.reserves
        usage = Usage()
        try:
            self._check()
            for _ in range(plan.held):
                await asyncio.sleep(0)
            spends = min(plan.spends, plan.reserves)
            usage = Usage(spends, llm_calls=1, cost_usd=Decimal(spends) / 1000)
        finally:
            self.reserved -= plan.reserves
            self.spent += usage.total_tokens
            self.usd += usage.cost_usd or Decimal()
            share.repay(reservation, usage)
            self._check()

    def _check(self) -> None:
        left = self.budget.left()[0]
        assert left is not None
        assert left >= 0
        assert self.spent + self.reserved <= self.tokens


@given(
    plans=PLANS,
    concurrency=st.none() | st.integers(1, 8),
    wanted=st.none() | st.integers(1, 4),
    tokens=st.integers(0, 200),
    cancel_at=st.none() | st.integers(0, 8),
)
def test_in_any_interleaving_room_and_budget_are_kept_and_what_is_unspent_comes_back(
    plans: list[Plan], concurrency: int | None, wanted: int | None, tokens: int, cancel_at: int | None
) -> None:
    async def run() -> tuple[Watched, Outcomes | None]:
        state, budget = budgeted(tokens, Decimal(tokens) / 1000)
        watched = Watched(budget, tokens)
        jobs = [watched.job(at, plan) for at, plan in enumerate(plans)]
        before = asyncio.all_tasks()
        with ambient.entered(state):
            enough = None if wanted is None else lambda outcomes: good(outcomes) >= wanted
            task = asyncio.create_task(together(jobs, concurrency, enough))
        for _ in range(0 if cancel_at is None else cancel_at):
            await asyncio.sleep(0)
        if cancel_at is not None:
            task.cancel()
        (outcomes,) = await asyncio.gather(task, return_exceptions=True)
        assert asyncio.all_tasks() == before
        assert watched.running == watched.reserved == 0
        left_tokens, left_usd = budget.left()
        assert left_tokens == tokens - watched.spent
        assert left_usd is not None
        assert abs(left_usd - (Decimal(tokens) / 1000 - watched.usd)) < Decimal("1e-20")
        if isinstance(outcomes, asyncio.CancelledError):
            return watched, None
        assert isinstance(outcomes, Outcomes), outcomes
        return watched, outcomes

    watched, outcomes = asyncio.run(run())
    assert watched.peak <= (concurrency or len(plans))
    if outcomes is None:
        assert cancel_at is not None
        return
    assert [outcome.target for outcome in outcomes] == [str(at) for at in range(len(plans))]
    stopped = [outcome for outcome in outcomes if isinstance(outcome.error, CallCancelled)]
    if stopped:
        assert wanted is not None
        assert good(outcomes) >= wanted
    for outcome, plan in zip(outcomes, plans, strict=True):
        if outcome.ok:
            assert not plan.fails
        elif outcome not in stopped:
            assert isinstance(outcome.error, (WrongState, BudgetExceeded) if plan.fails else BudgetExceeded)


@pytest.mark.parametrize(("concurrency", "jobs", "first"), [(2, 4, 60), (8, 2, 60), (None, 3, 40), (1, 5, 120)])
async def test_a_share_is_what_is_left_by_those_that_run_beside_it(
    concurrency: int | None, jobs: int, first: int
) -> None:
    shares: list[int | None] = []

    async def looks() -> Message:
        state = ambient.current()
        assert state is not None
        assert state.budget is not None
        shares.append(state.budget.left()[0])
        return await after(2)()

    state, _ = budgeted(120)
    with ambient.entered(state):
        await together([("a", looks)] * jobs, concurrency)
    assert shares[0] == first
    assert len(shares) == jobs


async def test_a_job_that_awaits_what_was_cancelled_is_a_failure_of_its_own() -> None:
    async def awaits() -> Message:
        work = asyncio.ensure_future(never())
        asyncio.get_running_loop().call_soon(work.cancel)
        return await work

    cancelled, other = await together([("a", awaits), ("b", after(9))])
    assert isinstance(cancelled.error, CallCancelled)
    assert cancelled.error.message == "it awaited something that was cancelled"
    assert other.ok


async def test_a_job_that_fails_in_the_moment_of_a_cancellation_does_not_take_its_place() -> None:
    async def fails_when_stopped() -> Message:
        try:
            return await never()
        except asyncio.CancelledError:
            raise ZeroDivisionError from None

    asked = asyncio.ensure_future(together([("a", fails_when_stopped)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()


async def test_a_failure_that_is_no_typed_error_ends_the_others_and_is_raised_where_nobody_cancels() -> None:
    def fails() -> Message:
        raise ZeroDivisionError

    async def fails_later() -> Message:
        await asyncio.sleep(0)
        return fails()

    with pytest.raises(ExceptionGroup) as caught:
        await together([("a", fails_later), ("b", never)])
    assert caught.group_contains(ZeroDivisionError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_outside_of_a_budget_there_is_none_to_share() -> None:
    seen: list[Any] = []

    async def looks() -> Message:
        state = ambient.current()
        seen.append(None if state is None else state.budget)
        return Message("")

    await together([("a", looks)])
    with ambient.entered(ambient.root(60)):
        await together([("a", looks)])
    assert seen == [None, None]
