"""Members that are asked for a structure: the schema they get, the second chance, and what counts as an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
from aixgo import call as ambient
from aixgo.agent import Agent
from aixgo.agents.llm import LLMAgent
from aixgo.config.spec import AgentSpec
from aixgo.errors import AgentFailed, AixgoError, InvalidCompletion, InvalidReply, RateLimited
from aixgo.message import Message, to_json
from aixgo.orchestration.asking import ATTEMPTS, ask, read_answer
from aixgo.orchestration.base import MemberCalls, Orchestrator
from aixgo.orchestration.sequential import Sequential
from aixgo.testing import ScriptedModel, running, scripted_models
from aixgo.usage import Usage
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

SPENT = Usage(3, 1, llm_calls=1)


class Score(BaseModel):
    score: float = Field(ge=0, le=1)
    why: str = ""


class Asks(Orchestrator):
    """Answers the score that its member gives."""

    pattern: ClassVar[str] = "asks"
    number: int | None = None
    read: Callable[[Message], Score] | None = None

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        answer, reply = await ask(calls, self._members[0], message, Score, number=self.number, read=self.read)
        return Message([answer.score, answer.why], {"raw": reply.payload})


class Critic(Agent):
    """Answers by a list, and spends something each time; keeps what it was asked."""

    name = "critic"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        state = ambient.current()
        assert state is not None
        state.ledger.record(SPENT)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return Message(answer)


async def asked(
    critic: Agent, content: Any = "text", number: int | None = None, read: Callable[[Message], Score] | None = None
) -> Message:
    made = Asks("o", [critic])
    made.number, made.read = number, read
    async with running(made) as runtime:
        return await runtime.call("o", content)


GOOD = {"score": 0.5, "why": "so"}


@pytest.mark.parametrize(
    "answer",
    [GOOD, to_json(GOOD).decode(), to_json(GOOD), f"```json\n{to_json(GOOD).decode()}\n```", {**GOOD, "more": 1}],
)
async def test_an_answer_may_be_json_or_text_that_holds_it(answer: Any) -> None:
    critic = Critic(answer)
    assert (await asked(critic)).payload == [0.5, "so"]
    assert len(critic.asked) == 1


async def test_the_schema_goes_with_the_question_and_the_question_stays_as_it_was() -> None:
    critic = Critic(GOOD)
    await asked(critic, Message("text", {"k": 1}, session_id="s1"))
    (question,) = critic.asked
    assert (question.payload, question.metadata["k"], question.session_id) == ("text", 1, "s1")
    schema = question.metadata["response_schema"]
    assert (set(schema["properties"]), schema["required"]) == ({"score", "why"}, ["score", "why"])
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        ({"score": 2}, "it is no Score: score: Input should be less than or equal to 1"),
        ({}, "it is no Score: score: Field required"),
        ("fine, I think", "a JSON object was asked for, and the answer is 'fine, I think'"),
        ([], "it is no Score: answer: Input should be a valid dictionary"),
        (b"\xff", "a JSON object was asked for"),
        (None, "it is no Score"),
        ("", "the answer is ''"),
    ],
)
async def test_an_answer_that_does_not_fit_is_asked_again_with_what_is_wrong(bad: Any, fault: str) -> None:
    critic = Critic(bad, GOOD)
    reply = await asked(critic)
    assert reply.payload == [0.5, "so"]
    assert reply.usage == SPENT + SPENT
    first, second = critic.asked
    assert second.text.startswith("text\n\nYour last answer could not be used: ")
    assert fault in second.text
    assert second.metadata == first.metadata


async def test_what_is_wrong_stands_beside_a_question_that_is_data() -> None:
    critic = Critic("no", GOOD)
    await asked(critic, {"k": 1})
    first, second = critic.asked
    assert (second.payload, first.metadata.get("fault")) == ({"k": 1}, None)
    assert str(second.metadata["fault"]).startswith("Your last answer could not be used: a JSON object was asked for")


async def test_what_the_caller_asks_of_the_reply_is_not_asked_of_the_member() -> None:
    critic = Critic(GOOD)
    await asked(critic, Message("text", {"handoffs": {"sales": ""}, "response_schema": {"title": "Other"}}))
    (question,) = critic.asked
    assert "handoffs" not in question.metadata
    assert set(question.metadata["response_schema"]["properties"]) == {"score", "why"}


async def test_a_pattern_may_read_the_answer_itself_and_what_it_cannot_read_is_asked_again() -> None:
    def shouted(reply: Message) -> Score:
        if not reply.text.isupper():
            raise InvalidReply("say it louder")
        return Score(score=1, why=reply.text)

    critic = Critic("fine", "FINE")
    assert (await asked(critic, read=shouted)).payload == [1, "FINE"]
    assert critic.asked[1].text == "text\n\nYour last answer could not be used: say it louder"


async def test_an_agent_that_never_answers_so_is_an_error_that_says_what_was_asked_with_all_that_was_spent() -> None:
    critic = Critic("no", {"score": "high"})
    with pytest.raises(InvalidReply) as caught:
        await asked(critic)
    assert caught.value.message.startswith("agent 'critic' was asked 2 times for a JSON object with score, why: ")
    assert "score: Input should be a valid number" in caught.value.message
    assert caught.value.agent_path == ("o",)
    assert caught.value.usage == SPENT + SPENT
    assert len(critic.asked) == ATTEMPTS


@pytest.mark.parametrize("error", [ValueError("no"), RateLimited("later")])
async def test_an_error_of_the_member_is_its_own_and_not_asked_again(error: Exception) -> None:
    critic = Critic(error)
    with pytest.raises(RateLimited if isinstance(error, RateLimited) else AgentFailed) as caught:
        await asked(critic)
    assert (caught.value.agent_path, len(critic.asked)) == (("o", "critic"), 1)


@pytest.mark.parametrize("error", [InvalidReply("no result"), InvalidCompletion("no JSON")])
async def test_what_a_members_own_member_answered_badly_is_not_asked_again(error: AixgoError) -> None:
    critic = Critic(error)
    with pytest.raises(type(error)) as caught:
        await asked(Sequential("around", [critic]))
    assert (caught.value.agent_path, len(critic.asked)) == (("o", "around", "critic"), 1)


@pytest.mark.parametrize(("answers", "kind"), [((ValueError("no"),), AgentFailed), (("no", "no"), InvalidReply)])
async def test_with_a_number_an_error_says_the_step(answers: Sequence[Any], kind: type[AixgoError]) -> None:
    with pytest.raises(kind) as caught:
        await asked(Critic(*answers), number=4)
    assert caught.value.fields["step"] == 4


async def test_a_model_answers_by_the_schema_and_is_asked_again_when_it_does_not() -> None:
    model = ScriptedModel(["I would say a half.", GOOD])
    spec = AgentSpec(name="critic", role="llm", model=("test/m",))
    reply = await asked(LLMAgent(spec, models=scripted_models(m=model)))
    assert (reply.payload, reply.metadata["raw"], reply.usage.llm_calls) == ([0.5, "so"], GOOD, 2)
    assert [request.schema is not None for request in model.requests] == [True, True]
    assert "I would say a half." in model.requests[1].messages[-1].content


@given(st.binary(max_size=30) | st.text(max_size=30) | st.none() | st.integers() | st.lists(st.integers(), max_size=2))
def test_whatever_an_agent_answers_it_is_a_score_or_an_invalid_reply(payload: Any) -> None:
    try:
        assert isinstance(read_answer(Message(payload), Score), Score)
    except InvalidReply as error:
        assert error.message  # noqa: PT017  # both endings are right
