"""Debate: rounds, positions, consensus, the moderator and the vote, and what a failure in the middle leaves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aixgo import Agent, Delta, Limits, MemberFinished, Message, Result, Usage
from aixgo import call as ambient
from aixgo.agents.llm import LLMAgent
from aixgo.config.spec import AgentSpec
from aixgo.errors import (
    AllMembersFailed,
    BudgetExceeded,
    ConfigError,
    InvalidInput,
    InvalidReply,
    NoAgreement,
    RateLimited,
    TooFewSucceeded,
)
from aixgo.orchestration.base import DEFAULT_LIMITS
from aixgo.orchestration.catalog import build
from aixgo.orchestration.debate import Debate
from aixgo.orchestration.statements import read_text
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given, settings
from hypothesis import strategies as st


class Speaker(Agent):
    """Says one thing after the other, and notes what it is asked; the last is said again, an exception is raised."""

    def __init__(self, name: str, *said: Any, tokens: int = 0) -> None:
        self.name, self.said, self.tokens = name, said, tokens
        self.messages: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.messages.append(message)
        if self.tokens:
            state = ambient.current()
            assert state is not None
            state.ledger.record(Usage(completion_tokens=self.tokens, llm_calls=1))
        say = self.said[min(len(self.messages), len(self.said)) - 1]
        if isinstance(say, Exception):
            raise say
        return say if isinstance(say, Message) else Message(say)


def holds(position: str, argument: str = "because", **more: Any) -> dict[str, Any]:
    return {"position": position, "argument": argument, **more}


def rules(answer: str = "so be it", *, consensus: bool = False, summary: str = "they argued") -> dict[str, Any]:
    return {"consensus": consensus, "answer": answer, "summary": summary}


async def reply(debate: Debate, content: Any = "tea or coffee?") -> Message:
    async with running(debate) as runtime:
        return await runtime.call(debate.name, content)


async def test_it_ends_when_all_hold_the_same_position() -> None:
    a = Speaker("a", holds("Tea"), holds("Tea"))
    b = Speaker("b", holds("coffee"), holds("tea.", "you are right", confidence=0.7))
    answer = await reply(Debate("d", [a, b], rounds=5))
    assert answer.payload == "Tea"
    known = answer.metadata
    assert (known["pattern"], known["agent_count"], known["rounds"], known["ended"]) == ("debate", 2, 2, "consensus")
    assert (known["consensus"], known["diversity"], known["verdict_by"]) == (1.0, 0.5, "vote")
    assert known["by_round"] == [{"consensus": 0.5, "diversity": 1.0}, {"consensus": 1.0, "diversity": 0.5}]
    assert known["positions"] == {"a": "Tea", "b": "tea."}
    assert known["voters"] == {"Tea": ["a", "b"]}
    assert known["transcript"][0] == {"round": 1, "agent": "a", "position": "Tea", "argument": "because"}
    assert known["transcript"][-1]["confidence"] == 0.7
    assert "debate_errors" not in known


async def test_the_share_that_counts_as_consensus_can_be_lower() -> None:
    debaters = [Speaker(name, holds(position)) for name, position in zip("abc", ("x", "y", "x"), strict=True)]
    answer = await reply(Debate("d", debaters, consensus=0.6))
    assert (answer.metadata["rounds"], answer.metadata["consensus"]) == (1, pytest.approx(2 / 3))


async def test_debaters_begin_with_their_position_and_then_see_what_the_others_said() -> None:
    a, b, c = (Speaker(name, holds(f"{name}1", f"{name}-why"), holds("same")) for name in "abc")
    message = Message("tea or coffee?", {"conversation": [{"role": "user", "content": "hello"}], "mine": 1})
    await reply(Debate("d", [a, b, c], positions={"a": "tea is best"}, rounds=2), message)
    first, second = a.messages
    assert first.text == "tea or coffee?\n\nArgue for this position: tea is best"
    assert first.metadata["assigned_position"] == "tea is best"
    assert b.messages[0].text.endswith("Take a position on it, and argue.")
    assert set(first.metadata["response_schema"]["required"]) == {"position", "argument", "confidence"}
    for said in ("Round 2 of 2.", "b says:\nb-why\nPosition: b1", "c says:\nc-why\nPosition: c1", "tea or coffee?"):
        assert said in second.text
    assert "a says" not in second.text
    assert second.metadata["round"] == 2
    assert [each["agent"] for each in second.metadata["transcript"]] == ["a", "b", "c"]
    assert second.metadata["mine"] == 1
    assert second.metadata["conversation"] == [
        {"role": "user", "content": "hello"},
        {"role": "user", "content": first.text},
        {"role": "assistant", "content": "a-why\n\nPosition: a1", "name": "a"},
    ]
    assert first.id != second.id


async def test_ready_agents_debate() -> None:
    model = ScriptedModel([holds("x", confidence=None), holds("y", confidence=1), *[holds("y", confidence=1)] * 2])
    models = scripted_models(m=model)
    debaters = [LLMAgent(AgentSpec(name=name, role="llm", model=("test/m",)), models=models) for name in "ab"]
    answer = await reply(Debate("d", debaters))
    assert (answer.payload, answer.metadata["rounds"]) == ("y", 2)
    assert answer.usage.llm_calls == 4
    asked = model.requests[2].messages
    assert [turn.role for turn in asked] == ["user", "assistant", "user"]


# the moderator


async def test_the_moderator_sums_up_each_round_and_its_answer_counts() -> None:
    a, b = Speaker("a", holds("tea")), Speaker("b", holds("coffee"))
    chair = Speaker("chair", rules(summary="tea is cheaper"), rules("Have both."))
    answer = await reply(Debate("d", [a, b], moderator=chair, rounds=2))
    assert (answer.payload, answer.metadata["verdict_by"]) == ("Have both.", "moderator")
    assert (answer.metadata["ended"], answer.metadata["summary"]) == ("rounds", "they argued")
    assert answer.metadata["agent_count"] == 2
    assert "The moderator sums up: tea is cheaper" in a.messages[1].text
    assert "a says:\nbecause\nPosition: tea" in chair.messages[0].text
    assert chair.messages[1].metadata["positions"] == {"a": "tea", "b": "coffee"}


async def test_the_moderator_may_see_a_consensus_that_words_do_not_show() -> None:
    chair = Speaker("chair", rules(), rules("Tea", consensus=True))
    debate = Debate("d", [Speaker("a", holds("tea")), Speaker("b", holds("a cup of tea"))], moderator=chair)
    answer = await reply(debate)
    assert (answer.metadata["rounds"], answer.metadata["ended"]) == (2, "consensus")
    assert answer.metadata["consensus"] == 0.5


async def test_with_a_moderator_the_verdict_can_still_be_a_vote() -> None:
    debaters = [Speaker(name, holds(position)) for name, position in zip("abc", ("x", "y", "y"), strict=True)]
    answer = await reply(Debate("d", debaters, moderator=Speaker("chair", rules()), verdict="vote", rounds=1))
    assert (answer.payload, answer.metadata["verdict_by"]) == ("y", "vote")


async def test_a_moderator_that_fails_in_between_is_noted_and_matters_in_the_last_round() -> None:
    debaters = [Speaker("a", holds("x")), Speaker("b", holds("y"))]
    chair = Speaker("chair", RateLimited("later"), rules("z"))
    answer = await reply(Debate("d", debaters, moderator=chair, rounds=2))
    assert answer.payload == "z"
    assert [(each["round"], each["agent"]) for each in answer.metadata["debate_errors"]] == [(1, "chair")]
    late = Speaker("chair", rules("z"), RateLimited("later"))
    with pytest.raises(RateLimited):
        await reply(Debate("d", debaters, moderator=late, rounds=2))
    again = Speaker("chair", RateLimited("later"))
    answer = await reply(Debate("d", debaters, moderator=again, rounds=1, fallback=Speaker("f", "w")))
    assert (answer.payload, answer.metadata["verdict_by"]) == ("w", "fallback")


async def test_a_moderator_that_answers_no_ruling_is_asked_again() -> None:
    chair = Speaker("chair", "who knows", rules("z"))
    answer = await reply(Debate("d", [Speaker("a", holds("x")), Speaker("b", holds("x"))], moderator=chair))
    assert answer.payload == "z"
    assert len(chair.messages) == 2


# the vote


async def test_a_tie_goes_to_the_fallback_else_it_fails() -> None:
    def debaters() -> list[Agent]:
        return [Speaker("a", holds("x")), Speaker("b", holds("y"))]

    with pytest.raises(NoAgreement) as caught:
        await reply(Debate("d", debaters(), rounds=2))
    assert caught.value.fields["votes"] == {"x": 1.0, "y": 1.0}
    human = Speaker("human", "z")
    answer = await reply(Debate("d", debaters(), rounds=2, fallback=human))
    assert (answer.payload, answer.metadata["verdict_by"], answer.metadata["rounds"]) == ("z", "fallback", 2)
    assert human.messages[0].text == "tea or coffee?"
    assert human.messages[0].metadata["positions"] == {"a": "x", "b": "y"}
    assert len(human.messages[0].metadata["transcript"]) == 4


async def test_the_most_frequent_position_wins_without_a_majority() -> None:
    debaters = [Speaker(name, holds(position)) for name, position in zip("abce", "xyzx", strict=True)]
    assert (await reply(Debate("d", debaters, rounds=1))).payload == "x"


# free words


async def test_debaters_may_speak_in_free_words() -> None:
    a = Speaker("a", "Tea, of course.\nPosition: **tea**", "Still.\nPosition: tea")
    b = Speaker("b", "No!\nPosition: coffee", Message("Fine, tea it is.", {"position": "Tea"}))
    answer = await reply(Debate("d", [a, b], structured=False))
    assert (answer.payload, answer.metadata["rounds"]) == ("tea", 2)
    assert "response_schema" not in a.messages[0].metadata
    assert "Position:" in a.messages[0].text
    assert "b says:\nNo!\nPosition: coffee" in a.messages[1].text


@pytest.mark.parametrize(
    ("answer", "position", "argument"),
    [
        (Message("Tea."), "Tea.", ""),
        (Message("Position: a\nno:\nposition: b"), "b", "no:"),
        (Message("**Position:** green tea**"), "green tea", ""),
        (Message({"position": "tea", "argument": "why", "more": 1}), "tea", "why"),
        (Message('{"position": "tea"}'), "tea", ""),
        (Message("> ## POSITION: tea"), "tea", ""),
        (Message("The position: unclear"), "The position: unclear", ""),
        (Message("long words", {"position": " tea "}), "tea", "long words"),
        (Message(b"tea"), "tea", ""),
    ],
)
def test_the_position_of_free_words(answer: Message, position: str, argument: str) -> None:
    found = read_text(answer)
    assert (found.position, found.argument) == (position, argument)


def test_saying_nothing_is_no_statement() -> None:
    empty: list[Any] = ["", " \n", b""]
    for nothing in empty:
        with pytest.raises(InvalidReply):
            read_text(Message(nothing))


# failures in the middle


async def test_a_debater_that_fails_is_absent_in_that_round() -> None:
    a, b = Speaker("a", holds("x")), Speaker("b", holds("y"), ValueError("no"), holds("x"))
    c = Speaker("c", holds("z"), holds("z"), holds("x"))
    answer = await reply(Debate("d", [a, b, c]))
    assert [(each["round"], each["agent"], each["class"]) for each in answer.metadata["debate_errors"]] == [
        (2, "b", "AgentFailed")
    ]
    assert [each["diversity"] for each in answer.metadata["by_round"]] == [1.0, 1.0, pytest.approx(1 / 3)]
    assert "b says:\nbecause\nPosition: y" in a.messages[2].text


async def test_one_debater_alone_and_none_at_all_fail_with_what_was_spent() -> None:
    a, b = Speaker("a", holds("x"), tokens=3), Speaker("b", holds("y"), ValueError("no"), tokens=4)
    with pytest.raises(TooFewSucceeded) as caught:
        await reply(Debate("d", [a, b], fallback=Speaker("f", "z")))
    fields = caught.value.fields
    assert (fields["succeeded"], fields["required"], fields["round"]) == (1, 2, 2)
    assert fields["errors"]["b"]["class"] == "AgentFailed"
    assert caught.value.usage.total_tokens == 14
    with pytest.raises(AllMembersFailed):
        await reply(Debate("d", [Speaker("a", ValueError("no")), Speaker("b", "no JSON")]))


async def test_a_spent_budget_ends_it() -> None:
    with pytest.raises(BudgetExceeded):
        await reply(Debate("d", [Speaker("a", holds("x")), Speaker("b", holds("x")), Speaker("c", BudgetExceeded(""))]))
    debaters = [Speaker("a", holds("x")), Speaker("b", holds("x"))]
    with pytest.raises(BudgetExceeded):
        await reply(Debate("d", debaters, moderator=Speaker("m", BudgetExceeded("")), verdict="vote"))


async def test_its_own_deadline_ends_it_and_leaves_no_task() -> None:
    class Hangs(Agent):
        name = "hangs"

        async def execute(self, message: Message) -> Message:
            await asyncio.Event().wait()
            return message

    with pytest.raises(TooFewSucceeded, match="hangs: DeadlineExceeded"):
        await reply(Debate("d", [Speaker("a", holds("x")), Hangs()], limits=Limits(timeout=0.05)))
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_members_stream_in_every_round() -> None:
    models = scripted_models(m=ScriptedModel(lambda request: f"words {len(request.messages)} and more"))
    debaters = [LLMAgent(AgentSpec(name=name, role="llm", model=("test/m",)), models=models) for name in "ab"]
    debate = Debate("d", [*debaters, Speaker("c", "other")], structured=False, rounds=2)
    async with running(debate) as runtime, runtime.stream("d", "?") as events:
        seen = [event async for event in events]
    own = [event for event in seen if event.path == ("d", "a")]
    assert "".join(event.text for event in own if isinstance(event, Delta)) == "words 1 and morewords 3 and more"
    assert sum(isinstance(event, MemberFinished) for event in own) == 2
    assert isinstance(seen[-1], Result)


async def test_a_message_that_asks_for_another_shape_does_not_reach_the_debaters() -> None:
    a, b = Speaker("a", "x"), Speaker("b", "x")
    message = Message("?", {"response_schema": {"type": "object"}, "handoffs": {"q": ""}})
    await reply(Debate("d", [a, b], structured=False), message)
    assert not {"response_schema", "handoffs"} & set(a.messages[0].metadata)


# as configured


@pytest.mark.parametrize(
    ("members", "more", "told"),
    [
        (["a"], {}, "debate 'd' has 1 members; name at least 2"),
        (["a", "b"], {"rounds": 11}, "rounds of debate 'd' is 11; pass 1 to 10, or raise limits.max_iterations"),
        (["a", "b"], {"rounds": 0}, "rounds of debate 'd' is 0"),
        (["a", "b"], {"verdict": "votes"}, "verdict of debate 'd' is 'votes', which is not known; did you mean 'vote'"),
        (["a", "b"], {"verdict": "moderator"}, "verdict is moderator and there is none"),
        (["a", "b"], {"consensus": 0}, "consensus of debate 'd' is 0"),
        (["alice", "bob"], {"positions": {"alise": "x"}}, "positions.alise: there is no such member; did you mean"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(members: list[str], more: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        Debate("d", members, **more)


def test_yaml_says_the_same() -> None:
    config = {
        "positions": {"a": "x"}, "rounds": 2, "moderator": "m", "verdict": "vote", "consensus": 0.5, "fallback": "f",
        "structured": False,
    }  # fmt: skip
    made = build("debate", "d", ["a", "b"], config, DEFAULT_LIMITS)
    assert (made.agents, made.agent_count) == (("a", "b", "m", "f"), 2)
    with pytest.raises(ConfigError, match=r"config\.verdict"):
        build("debate", "d", ["a", "b"], {"verdict": "judge"}, DEFAULT_LIMITS)


async def test_the_same_agent_may_stand_on_both_sides() -> None:
    from aixgo import LocalRuntime

    speaker = Speaker("a", holds("x"))
    runtime = LocalRuntime()
    runtime.register(speaker)
    runtime.register(Debate("d", ["a", "a"], positions={"a": "for", "a#2": "against"}, rounds=1))
    assert (await runtime.call("d", "?")).metadata["positions"] == {"a": "x", "a#2": "x"}
    assert [message.metadata["assigned_position"] for message in speaker.messages] == ["for", "against"]


# its law

SAID = st.sampled_from(["x", "y", "z"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(SAID, min_size=4, max_size=4), min_size=2, max_size=4),
    st.integers(1, 4),
    st.sampled_from([0.5, 0.75, 1.0]),
)
async def test_it_ends_in_the_first_round_of_enough_consensus_and_never_after_the_last(
    said: list[list[str]], rounds: int, enough: float
) -> None:  # fmt: skip
    def shares(number: int) -> tuple[float, float]:
        held = [each[number] for each in said]
        return max(held.count(one) for one in held) / len(held), len(set(held)) / len(held)

    ends = next((number for number in range(rounds) if shares(number)[0] >= enough), rounds - 1)
    debaters = [Speaker(f"s{at}", *(holds(one) for one in each)) for at, each in enumerate(said)]
    answer = await reply(Debate("d", debaters, rounds=rounds, consensus=enough, fallback=Speaker("f", "tied")))
    assert answer.metadata["rounds"] == ends + 1
    assert all(len(speaker.messages) == ends + 1 for speaker in debaters)
    assert answer.metadata["by_round"] == [
        {"consensus": shares(number)[0], "diversity": shares(number)[1]} for number in range(ends + 1)
    ]
    held = [each[ends] for each in said]
    best = [one for one in "xyz" if held.count(one) == max(held.count(other) for other in held)]
    assert answer.payload == (best[0] if len(best) == 1 else "tied")
