"""Ensemble: who votes, what wins, what happens when nothing does, and what a failure in the middle leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date
from fractions import Fraction
from typing import Any

import pytest
from aixgo import Agent, Delta, Limits, LocalRuntime, MemberFinished, Message, Result, Usage, agent
from aixgo import call as ambient
from aixgo.agents.llm import LLMAgent
from aixgo.config.spec import AgentSpec
from aixgo.errors import (
    AllMembersFailed,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    InvalidReply,
    NoAgreement,
)
from aixgo.orchestration.base import DEFAULT_LIMITS
from aixgo.orchestration.catalog import build
from aixgo.orchestration.ensemble import Ensemble
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel


class Diagnosis(BaseModel):
    disease: str
    reason: str = ""
    confidence: float = 0.5


def says(name: str, payload: Any, *, tokens: int = 0, **metadata: Any) -> Agent:
    """An agent that answers this, whatever it is asked; an exception is raised."""

    @agent(name=name)
    async def answer(_: Message) -> Message:
        if tokens:
            state = ambient.current()
            assert state is not None
            state.ledger.record(Usage(completion_tokens=tokens, llm_calls=1))
        if isinstance(payload, Exception):
            raise payload
        return Message(payload, metadata)

    return answer


def voters(*payloads: Any) -> list[Agent]:
    return [says(f"v{at}", payload) for at, payload in enumerate(payloads)]


class Asked(Agent):
    """Notes what it is asked, and answers by a function of it."""

    def __init__(self, name: str, answer: Any) -> None:
        self.name, self.answer = name, answer
        self.messages: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.messages.append(message)
        return Message(self.answer(message) if callable(self.answer) else self.answer)


async def reply(ensemble: Ensemble, content: Any = "what is it?") -> Message:
    async with running(ensemble) as runtime:
        return await runtime.call(ensemble.name, content)


async def test_the_majority_of_normalised_answers_wins() -> None:
    answer = await reply(Ensemble("e", voters("Flu.", "cold", "flu")))
    assert answer.payload == "Flu."
    known = answer.metadata
    assert (known["pattern"], known["agent_count"], known["strategy"]) == ("ensemble", 3, "majority")
    assert (known["answer"], known["agreement"], known["used_fallback"]) == ("Flu.", 2 / 3, False)
    assert known["votes"] == {"Flu.": 2.0, "cold": 1.0}
    assert known["voters"] == {"Flu.": ["v0", "v2"], "cold": ["v1"]}
    assert "parallel_errors" not in known


async def test_answers_can_be_compared_as_they_are() -> None:
    with pytest.raises(NoAgreement):
        await reply(Ensemble("e", voters("Flu", "cold", "flu"), normalise=False))


async def test_weights_count_for_a_member_each_time_it_is_there() -> None:
    runtime = LocalRuntime()
    for each in (says("expert", "x"), says("novice", "y")):
        runtime.register(each)
    members = ["novice", "novice", "expert"]
    runtime.register(Ensemble("e", members, strategy="weighted", weights={"expert": 3}))
    answer = await runtime.call("e", "?")
    assert (answer.payload, answer.metadata["agreement"]) == ("x", 0.6)
    assert answer.metadata["voters"]["y"] == ["novice", "novice#2"]


async def test_a_weight_is_that_of_each_time_a_member_is_there() -> None:
    runtime = LocalRuntime()
    for each in (says("expert", "x"), says("novice", "y")):
        runtime.register(each)
    members = ["expert", "novice", "expert", "novice"]
    runtime.register(Ensemble("e", members, strategy="weighted", weights={"expert": 3}))
    assert (await runtime.call("e", "?")).metadata["votes"] == {"x": 6, "y": 2}


async def test_no_more_members_are_asked_at_once_than_is_allowed() -> None:
    running_now, most = 0, 0

    @agent
    async def counts(_: Message) -> str:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        for _turn in range(9):
            await asyncio.sleep(0)
        running_now -= 1
        return "x"

    await reply(Ensemble("e", [counts] * 5, concurrency=2))
    assert most == 2


async def test_the_surest_answer_wins_by_confidence() -> None:
    members = [says("a", "x", confidence=0.9), says("b", "y", confidence=0.3), says("c", "y", confidence=0.3)]
    assert (await reply(Ensemble("e", members, strategy="confidence"))).payload == "x"


async def test_bytes_are_voted_on_as_text_and_answered_as_they_are() -> None:
    answer = await reply(Ensemble("e", voters(b"yes", "yes")))
    assert (answer.payload, answer.metadata["answer"]) == (b"yes", "yes")


async def test_a_field_is_voted_on_and_the_whole_answer_of_the_first_who_won_is_the_reply() -> None:
    members = voters({"team": "a", "why": 1}, '{"team": "B", "why": 2}', {"team": "b", "why": 3})
    answer = await reply(Ensemble("e", members, field="team"))
    assert (answer.payload, answer.metadata["answer"]) == ('{"team": "B", "why": 2}', "B")


async def test_an_answer_without_the_field_is_no_vote() -> None:
    answer = await reply(Ensemble("e", voters({"team": "a"}, "a?", {"team": "a"}), field="team", strategy="unanimous"))
    assert answer.metadata["parallel_errors"]["v1"]["class"] == "InvalidReply"
    assert answer.metadata["agreement"] == 1.0


async def test_saying_nothing_is_no_vote() -> None:
    answer = await reply(Ensemble("e", voters("", " \n", None, "x")))
    assert (answer.payload, answer.metadata["agreement"]) == ("x", 1.0)
    assert {each["class"] for each in answer.metadata["parallel_errors"].values()} == {"InvalidReply"}
    with pytest.raises(AllMembersFailed, match="the answer of 'v0' is empty"):
        await reply(Ensemble("e", voters("")))


# schema


async def test_members_are_asked_by_the_schema_and_what_does_not_fit_is_no_vote() -> None:
    good = Asked("good", {"disease": "flu", "reason": "r", "confidence": 0.8})
    bad = Asked("bad", {"reason": "none"})
    answer = await reply(Ensemble("e", [bad, good], schema=Diagnosis, field="disease"))
    assert answer.payload == {"disease": "flu", "reason": "r", "confidence": 0.8}
    assert good.messages[0].metadata["response_schema"]["required"] == ["disease", "reason", "confidence"]
    assert len(bad.messages) == 2
    assert answer.metadata["parallel_errors"]["bad"]["class"] == "InvalidReply"


async def test_the_own_confidence_of_an_answer_is_not_part_of_what_is_voted_on() -> None:
    members = voters({"disease": "flu", "confidence": 0.9}, {"disease": "flu", "confidence": 0.4})
    assert (await reply(Ensemble("e", members, schema=Diagnosis, strategy="unanimous"))).metadata["agreement"] == 1


async def test_ready_agents_follow_the_schema() -> None:
    model = ScriptedModel([{"disease": "flu", "reason": "", "confidence": 1}] * 2)
    models = scripted_models(m=model)
    members = [LLMAgent(AgentSpec(name=name, role="llm", model=("test/m",)), models=models) for name in "ab"]
    answer = await reply(Ensemble("e", members, schema=Diagnosis, field="disease"))
    assert answer.metadata["answer"] == "flu"
    assert answer.usage.llm_calls == 2


# nothing decided


@pytest.mark.parametrize(
    ("strategy", "answers", "more"),
    [
        ("majority", ["a", "b"], {}),
        ("majority", ["a", "a", "b", "c"], {}),
        ("unanimous", ["a", "a", "b"], {}),
        ("majority", ["a", "a", "b"], {"min_agreement": 0.7}),
        ("confidence", ["a", "b"], {}),
    ],
)
async def test_without_a_decision_the_fallback_answers_else_it_fails(
    strategy: Any, answers: list[str], more: dict[str, Any]
) -> None:
    with pytest.raises(NoAgreement) as caught:
        await reply(Ensemble("e", voters(*answers), strategy=strategy, **more))
    assert set(caught.value.fields["votes"]) == set(answers)
    human = Asked("human", "let me see")
    answer = await reply(Ensemble("e", voters(*answers), strategy=strategy, fallback=human, **more))
    assert (answer.payload, answer.metadata["answer"]) == ("let me see", "let me see")
    assert (answer.metadata["used_fallback"], answer.metadata["agent_count"]) == (True, len(answers))
    assert human.messages[0].text == "what is it?"
    assert human.messages[0].metadata["votes"] == caught.value.fields["votes"]
    assert human.messages[0].metadata["voters"] == answer.metadata["voters"]


async def test_the_fallback_follows_the_schema_too() -> None:
    human = Asked("human", {"disease": "measles"})
    members = voters({"disease": "flu"}, {"disease": "cold"})
    answer = await reply(Ensemble("e", members, schema=Diagnosis, field="disease", fallback=human))
    assert answer.payload == {"disease": "measles", "reason": "", "confidence": 0.5}
    assert answer.metadata["answer"] == "measles"


# the judge


async def test_the_judge_picks_one_of_the_different_answers_without_knowing_whose_it_is() -> None:
    judge = Asked("judge", {"choice": "2", "reason": "better"})
    answer = await reply(Ensemble("e", voters("x", "Y", "y.", "x"), strategy="judge", judge=judge))
    assert answer.payload == "Y"
    assert (answer.metadata["agreement"], answer.metadata["reason"]) == (0.5, "better")
    asked = judge.messages[0]
    assert "what is it?" in asked.text
    assert "Answer 1:\nx" in asked.text
    assert "Answer 2:\nY" in asked.text
    assert "v1" not in asked.text
    assert asked.metadata["candidates"] == {"1": "x", "2": "Y"}
    assert asked.metadata["response_schema"]["properties"]["choice"]["enum"] == ["1", "2"]


async def test_a_judge_that_cannot_choose_is_asked_again_and_leads_to_the_fallback() -> None:
    judge = Asked("judge", {"choice": "9", "reason": "?"})
    with pytest.raises(InvalidReply, match="agent 'judge' was asked 2 times"):
        await reply(Ensemble("e", voters("x", "y"), strategy="judge", judge=judge))
    assert len(judge.messages) == 2
    answer = await reply(Ensemble("e", voters("x", "y"), strategy="judge", judge=judge, fallback=says("f", "z")))
    assert (answer.payload, answer.metadata["used_fallback"]) == ("z", True)


async def test_the_judge_sees_the_answers_in_the_order_of_the_members() -> None:
    judge = Asked("judge", {"choice": "1", "reason": "first"})
    answer = await reply(Ensemble("e", voters("x", "y", "y"), strategy="judge", judge=judge))
    assert judge.messages[0].metadata["candidates"] == {"1": "x", "2": "y"}
    assert answer.payload == "x"


async def test_a_budget_that_a_judge_has_spent_is_no_case_for_the_fallback() -> None:
    judge = says("judge", BudgetExceeded("spent"))
    with pytest.raises(BudgetExceeded):
        await reply(Ensemble("e", voters("x", "y"), strategy="judge", judge=judge, fallback=says("f", "z")))


async def test_agreement_that_is_just_enough_is_enough() -> None:
    judge = Asked("judge", {"choice": "1", "reason": "so"})
    answer = await reply(Ensemble("e", voters("x", "y"), strategy="judge", judge=judge, min_agreement=0.5))
    assert answer.metadata["agreement"] == 0.5


class Appointment(BaseModel):
    day: date


async def test_an_answer_by_a_schema_is_json() -> None:
    member = Asked("m", {"day": "2026-11-22"})
    assert (await reply(Ensemble("e", [member], schema=Appointment))).payload == {"day": "2026-11-22"}


async def test_the_judges_choice_needs_the_agreement_that_was_asked_for() -> None:
    judge = Asked("judge", {"choice": "2", "reason": "it is"})
    with pytest.raises(NoAgreement):
        await reply(Ensemble("e", voters("x", "y", "x"), strategy="judge", judge=judge, min_agreement=0.5))


async def test_nobody_is_offered_to_hand_over_what_is_voted_on() -> None:
    voter, judge = Asked("v", "x"), Asked("judge", {"choice": "1", "reason": ""})
    message = Message("?", {"handoffs": {"other": ""}, "kept": 1})
    await reply(Ensemble("e", [voter], strategy="judge", judge=judge), message)
    for asked in (voter.messages[0], judge.messages[0]):
        assert "handoffs" not in asked.metadata
        assert asked.metadata["kept"] == 1


# failures in the middle


async def test_a_member_that_fails_is_absent() -> None:
    members = [*voters("x", ValueError("no"), "x"), says("v9", "y")]
    answer = await reply(Ensemble("e", members))
    assert (answer.payload, answer.metadata["agreement"]) == ("x", 2 / 3)
    assert answer.metadata["parallel_errors"]["v1"]["class"] == "AgentFailed"


async def test_without_any_answer_all_members_have_failed_and_what_they_spent_is_told() -> None:
    members = [says("a", ValueError("no"), tokens=3), says("b", ValueError("neither"), tokens=4)]
    with pytest.raises(AllMembersFailed) as caught:
        await reply(Ensemble("e", members, fallback=says("f", "z")))
    assert set(caught.value.fields["errors"]) == {"a", "b"}
    assert caught.value.usage.total_tokens == 7


async def test_a_spent_budget_is_never_an_absent_member() -> None:
    with pytest.raises(BudgetExceeded):
        await reply(Ensemble("e", voters("x", BudgetExceeded("spent"), "x"), fallback=says("f", "z")))


async def test_its_own_deadline_ends_it_and_leaves_no_task() -> None:
    @agent
    async def hangs(_: Message) -> None:
        await asyncio.Event().wait()

    answer = await reply(Ensemble("e", [says("a", "x"), hangs], limits=Limits(timeout=0.8)))
    assert answer.payload == "x"
    assert answer.metadata["parallel_errors"]["hangs"]["class"] == "DeadlineExceeded"
    with pytest.raises(DeadlineExceeded):
        await reply(Ensemble("e", [hangs, hangs], limits=Limits(timeout=0.05)))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_members_stream_between_their_start_and_end() -> None:
    models = scripted_models(m=ScriptedModel(lambda _: "one two"))
    members = [LLMAgent(AgentSpec(name=name, role="llm", model=("test/m",)), models=models) for name in "ab"]
    async with running(Ensemble("e", members)) as runtime, runtime.stream("e", "?") as events:
        seen = [event async for event in events]
    for name in "ab":
        own = [event for event in seen if event.path == ("e", name)]
        assert "".join(event.text for event in own if isinstance(event, Delta)) == "one two"
        assert isinstance(own[-1], MemberFinished)
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.payload == "one two"


# as configured


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"strategy": "majorty"}, "strategy of ensemble 'e' is 'majorty', which is not known; did you mean 'majority'"),
        ({"strategy": "judge"}, "strategy judge and a judge belong together"),
        ({"judge": "j"}, "strategy judge and a judge belong together"),
        ({"weights": {"a": 2}}, "weights are only counted by strategy weighted"),
        ({"strategy": "weighted", "weights": {"c": 2}}, "weights.c: there is no such member"),
        ({"strategy": "weighted", "weights": {"a": -2}}, "weight of voter 'a' is -2"),
        ({"min_agreement": 1.5}, "min_agreement of ensemble 'e' is 1.5"),
        ({"concurrency": 0}, "concurrency of ensemble 'e' is 0"),
        ({"schema": Diagnosis, "field": "diseas"}, "schema Diagnosis has no field 'diseas'"),
    ],
)
def test_what_cannot_be_used_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        Ensemble("e", ["a", "b"], **more)


def test_an_ensemble_needs_voters() -> None:
    with pytest.raises(InvalidInput, match="has no members"):
        Ensemble("e", [], fallback="f")


def test_yaml_says_the_same() -> None:
    config = {
        "strategy": "weighted", "weights": {"a": 2}, "fallback": "f", "min_agreement": 0.5, "field": "disease",
        "schema": f"{__name__}:Diagnosis", "normalise": False, "concurrency": 2,
    }  # fmt: skip
    made = build("ensemble", "e", ["a", "b"], config, DEFAULT_LIMITS)
    assert (made.agents, made.agent_count) == (("a", "b", "f"), 2)
    for config, told in (
        ({"schema": "asyncio:Lock"}, "config.schema: asyncio:Lock is no pydantic model"),
        ({"schema": "no.such:Thing"}, "config.schema: no.such:Thing cannot be imported"),
        ({"strategy": "vote"}, "config.strategy"),
    ):
        with pytest.raises(ConfigError, match=told):
            build("ensemble", "e", ["a", "b"], config, DEFAULT_LIMITS)
    with pytest.raises(ConfigError, match="has no `agents`"):
        build("ensemble", "e", [], {}, DEFAULT_LIMITS)


# its law

ANSWERS = st.lists(st.sampled_from(["x", "X.", "y", None]), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(ANSWERS, st.sampled_from(["majority", "weighted", "unanimous"]), st.lists(st.integers(0, 4), min_size=6))
async def test_votes_equal_a_brute_force_count_of_those_who_answered(
    answers: Sequence[str | None], strategy: Any, weights: list[int]
) -> None:
    members = voters(*(ValueError("no") if answer is None else answer for answer in answers))
    given_weights = {f"v{at}": weight for at, weight in enumerate(weights[: len(answers)])}
    more: dict[str, Any] = {"weights": given_weights} if strategy == "weighted" else {}
    counts = {"x": 0, "y": 0}
    for at, answer in enumerate(answers):
        if answer is not None:
            counts[answer[0].lower()] += weights[at] if strategy == "weighted" else 1
    total, best = sum(counts.values()), max(counts, key=lambda key: counts[key])
    given_answers = {answer[0].lower() for answer in answers if answer is not None}
    wins = len(given_answers) == 1 if strategy == "unanimous" else counts[best] * 2 > total
    ensemble = Ensemble("e", members, strategy=strategy, **more)
    if not given_answers:
        with pytest.raises(AllMembersFailed):
            await reply(ensemble)
    elif not wins:
        with pytest.raises(NoAgreement):
            await reply(ensemble)
    else:
        answer = await reply(ensemble)
        assert answer.text[0].lower() == best
        assert answer.metadata["agreement"] == float(Fraction(counts[best], total))
