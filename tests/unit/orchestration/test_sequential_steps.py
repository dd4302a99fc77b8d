"""Steps of a sequence that fail or are conditional, and which metadata travel from step to step."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from aixgo.agent import Agent, agent
from aixgo.errors import (
    AgentFailed,
    AllMembersFailed,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
)
from aixgo.message import Message
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits
from aixgo.orchestration.catalog import build
from aixgo.orchestration.conditions import Condition
from aixgo.orchestration.sequential import Sequential
from aixgo.testing import running
from hypothesis import given
from hypothesis import strategies as st


class Step(Agent):
    """Adds its name to the text; keeps what it was asked."""

    def __init__(self, name: str, error: Exception | None = None, **metadata: Any) -> None:
        self.name, self.error, self.metadata = name, error, metadata
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        if self.error is not None:
            raise self.error
        return Message(message.text + self.name, self.metadata)


async def ask(made: Sequential, *agents: Agent, content: Any = "", timeout: float | None = None) -> Message:
    async with running(*agents, made) as runtime:
        return await runtime.call(made.name, content, timeout=timeout)


def broken(name: str) -> Step:
    return Step(name, ValueError("no"))


async def test_a_failed_step_is_skipped_its_input_goes_on_and_the_reply_says_so() -> None:
    reply = await ask(Sequential("s", [Step("a"), broken("b"), Step("c")], on_error="skip"))
    assert reply.payload == "ac"
    (skipped,) = reply.metadata["skipped_steps"]
    assert (skipped["step"], skipped["agent"], skipped["reason"]) == (2, "b", "error")
    assert skipped["class"] == "AgentFailed"
    assert "raised ValueError: no" in skipped["message"]
    assert reply.metadata["step_count"] == 3


async def test_when_the_last_step_fails_the_reply_is_that_of_the_one_before() -> None:
    reply = await ask(Sequential("s", [Step("a", k=1), broken("b")], on_error="skip"))
    assert (reply.payload, reply.metadata["k"], len(reply.metadata["skipped_steps"])) == ("a", 1, 1)


@pytest.mark.parametrize("when", [None, {"1": lambda _: False}])
async def test_when_nothing_succeeded_and_something_failed_it_fails(when: Any) -> None:
    with pytest.raises(AllMembersFailed, match=r"no step succeeded: .*b: AgentFailed") as caught:
        await ask(Sequential("s", [broken("a"), broken("b")], on_error="skip", when=when))
    assert set(caught.value.fields["errors"]) == ({"b"} if when else {"a", "b"})


async def test_an_agent_that_fails_at_two_steps_is_told_of_twice() -> None:
    with pytest.raises(AllMembersFailed) as caught:
        await ask(Sequential("s", ["broken", "broken"], on_error="skip"), broken("broken"))
    assert set(caught.value.fields["errors"]) == {"broken", "broken#2"}


async def test_a_sequence_whose_steps_are_all_left_out_answers_what_it_was_asked() -> None:
    reply = await ask(Sequential("s", [Step("a")], when={"a": lambda _: False}), content=Message("x", {"k": 1}))
    assert (reply.payload, reply.metadata["k"]) == ("x", 1)
    assert reply.metadata["skipped_steps"] == [{"step": 1, "agent": "a", "reason": "condition"}]


@pytest.mark.parametrize("error", [BudgetExceeded("spent"), ValueError("no")])
async def test_a_spent_budget_is_never_skipped(error: Exception) -> None:
    made = Sequential("s", [Step("a"), Step("b", error), Step("c")], on_error="skip")
    if isinstance(error, BudgetExceeded):
        with pytest.raises(BudgetExceeded) as caught:
            await ask(made)
        assert caught.value.fields["step"] == 2
    else:
        assert (await ask(made)).payload == "ac"


async def test_a_steps_own_timeout_is_skipped_and_the_sequences_is_not() -> None:
    @agent
    async def hangs(message: Message) -> None:
        await asyncio.Event().wait()

    inner = Sequential("inner", [hangs], limits=Limits(timeout=0.01))
    assert (await ask(Sequential("s", [Step("a"), inner], on_error="skip"))).payload == "a"
    whole = Sequential("s", [Step("a"), hangs.renamed("h2")], on_error="skip", limits=Limits(timeout=0.01))
    with pytest.raises(DeadlineExceeded):
        await ask(whole)


async def test_conditions_see_what_the_step_would_get() -> None:
    when = {"short": Condition({"text": {"contains": "ab"}}), "3": lambda message: message.text == "a"}
    made = Sequential("s", [Step("a"), Step("short"), Step("c")], when=when)
    assert (await ask(made)).payload == "ac"
    made = Sequential("s", [Step("ab"), Step("short"), Step("c")], when=when)
    reply = await ask(made)
    assert (reply.payload, [one["step"] for one in reply.metadata["skipped_steps"]]) == ("abshort", [3])


async def test_a_condition_by_number_beats_the_one_by_name() -> None:
    twice = Step("a")
    made = Sequential("s", [twice, twice, "a"], when={"a": lambda _: False, "2": lambda _: True})
    reply = await ask(made)
    assert (reply.payload, [one["step"] for one in reply.metadata["skipped_steps"]]) == ("a", [1, 3])


@pytest.mark.parametrize(
    ("step", "hint"), [("draftt", "did you mean 'draft'?"), ("3", "known are: 1, 2, draft"), ("", "known are: 1, 2")]
)
def test_a_condition_on_no_step_is_refused_when_it_is_made(step: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Sequential("s", ["draft", Step("")], when={step: lambda _: True})
    assert f"when.{step}: sequential 's' has no such step; {hint}" in caught.value.message


async def test_a_condition_that_raises_fails_the_sequence() -> None:
    def asks(message: Message) -> bool:
        raise KeyError("k")

    with pytest.raises(AgentFailed, match="agent 's' raised KeyError"):
        await ask(Sequential("s", [Step("a")], when={"a": asks}))


@given(st.lists(st.sampled_from(["fine", "broken", "left out"]), min_size=1, max_size=8))
def test_the_reply_is_what_the_steps_that_succeeded_made_in_order(kinds: list[str]) -> None:
    steps = [broken(f"{at}") if kind == "broken" else Step(f"{at}") for at, kind in enumerate(kinds)]
    for step in steps:
        step.name = f"n{step.name}"
    when = {str(at): (lambda _: False) for at, kind in enumerate(kinds, 1) if kind == "left out"}
    made = Sequential("s", steps, on_error="skip", when=when)
    fine = [at for at, kind in enumerate(kinds) if kind == "fine"]
    if not fine and "broken" in kinds:
        with pytest.raises(AllMembersFailed):
            asyncio.run(ask(made))
        return
    reply = asyncio.run(ask(made))
    assert reply.payload == "".join(f"n{at}" for at in fine)
    skipped = {one["step"] - 1 for one in reply.metadata.get("skipped_steps", [])}
    assert skipped == set(range(len(kinds))) - set(fine)


# what travels


async def test_what_the_caller_wants_of_the_answer_is_for_the_last_step_and_the_rest_for_the_first() -> None:
    a, b, c = Step("a", language="en"), Step("b"), Step("c")
    wanted = {"response_schema": {"type": "object"}, "handoffs": {"x": ""}}
    given_ = {**wanted, "conversation": [], "k": 1}
    await ask(Sequential("s", [a, b, c]), content=Message("", given_))
    assert dict(a.asked[0].metadata) == {"conversation": [], "k": 1}
    assert dict(b.asked[0].metadata) == {"language": "en"}
    assert dict(c.asked[0].metadata) == wanted
    only = Step("only")
    await ask(Sequential("s", [only]), content=Message("", given_))
    assert dict(only.asked[0].metadata) == given_


async def test_what_a_reply_says_of_itself_is_no_order_to_the_next_step_but_stays_on_the_last_one() -> None:
    about = {"handoffs": [{"from": "x", "to": "y"}], "active_agent": "y", "handoff_to": "z", "conversation": [], "k": 1}
    a, b = Step("a", **about), Step("b", **about)
    reply = await ask(Sequential("s", [a, b]))
    assert dict(b.asked[0].metadata) == {"k": 1}
    assert {key: reply.metadata[key] for key in about} == about


# YAML


async def test_yaml_makes_the_same() -> None:
    config = {"on_error": "skip", "when": {"c": {"metadata.language": {"in": ["de", "fr"]}}}}
    made = build("sequential", "s", ["a", "b", "c"], config, DEFAULT_LIMITS)
    assert isinstance(made, Sequential)
    reply = await ask(made, Step("a", language="en"), broken("b"), Step("c"))
    assert (reply.payload, [one["reason"] for one in reply.metadata["skipped_steps"]]) == ("a", ["error", "condition"])


def test_an_unknown_way_with_errors_is_refused_by_name() -> None:
    with pytest.raises(
        InvalidInput, match="on_error of sequential 's' is 'skp', which is not known; did you mean 'skip'"
    ):
        Sequential("s", ["a"], on_error=cast("Any", "skp"))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"on_error": "ignore"}, "config.on_error: Input should be 'stop' or 'skip'"),
        ({"when": {"a": {"metdata.x": 1}}}, "config.when.a: path 'metdata.x' begins with none of text, payload, met"),
        ({"when": {"a": {"text": {"contain": "x"}}}}, "text: contain is no comparison; known are: equals, not, in,"),
        ({"when": {"a": {}}}, "a condition has at least one path"),
        ({"wen": {}}, "config.wen is not known; did you mean 'when'?"),
    ],
)
def test_a_wrong_config_names_the_key_and_the_fix(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("sequential", "s", ["a"], config, DEFAULT_LIMITS)
    assert text in caught.value.message
