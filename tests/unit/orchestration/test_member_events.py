"""What whoever reads a stream is told of members that end badly: what each of them spent, the cancelled ones too."""

from __future__ import annotations

import asyncio

from aixgo import Agent, LocalRuntime, Message, Orchestrator, Parallel, Sequential
from aixgo.call import current
from aixgo.errors import AgentFailed, AixgoError, CallCancelled, DeadlineExceeded
from aixgo.events import MemberFinished
from aixgo.orchestration.base import Limits
from aixgo.usage import Usage


class Spender(Agent):
    """Spends its tokens, and then answers, raises or waits for ever."""

    def __init__(self, name: str, tokens: int, ends: str = "answers") -> None:
        self.name, self._tokens, self._ends = name, tokens, ends

    async def execute(self, message: Message) -> Message:
        state = current()
        assert state is not None
        state.ledger.record(Usage(self._tokens, llm_calls=1))
        if self._ends == "raises":
            raise ValueError("no")
        if self._ends == "waits":
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        return Message(self.name)


async def errors_of_members(made: Orchestrator) -> dict[str, AixgoError]:
    """The errors that a stream tells of, by the path of the member."""
    runtime, told = LocalRuntime(), dict[str, AixgoError]()
    runtime.register(made)
    async with runtime, runtime.stream(made.name, "x") as events:
        async for event in events:
            if isinstance(event, MemberFinished) and event.error is not None:
                told["/".join(event.path)] = event.error
    assert events.result is not None
    assert events.result.usage.total_tokens == 1 + sum(
        error.usage.total_tokens for path, error in told.items() if path.count("/") == 1
    )
    return told


async def test_a_member_that_was_cancelled_says_what_it_and_those_below_it_spent() -> None:
    below = Sequential("below", [Spender("first", 20), Spender("second", 300, "waits")])
    told = await errors_of_members(Parallel("p", [Spender("quick", 1), below], require=1, early_stop=True))
    error = told["p/below"]
    assert isinstance(error, CallCancelled)
    assert (error.usage.total_tokens, error.agent_path) == (320, ("p", "below"))


async def test_a_member_that_was_too_late_says_what_it_spent_and_not_what_all_did() -> None:
    made = Parallel("p", [Spender("quick", 1), Spender("late", 20, "waits")], limits=Limits(timeout=0.5))
    error = (await errors_of_members(made))["p/late"]
    assert isinstance(error, DeadlineExceeded)
    assert (error.usage.total_tokens, error.agent_path) == (20, ("p", "late"))


async def test_a_member_that_failed_says_what_it_spent() -> None:
    error = (await errors_of_members(Parallel("p", [Spender("quick", 1), Spender("bad", 20, "raises")])))["p/bad"]
    assert isinstance(error, AgentFailed)
    assert error.usage.total_tokens == 20
