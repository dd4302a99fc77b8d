"""What patterns ask of agents with a model: schema, conversation, hand-over, as the role llm answers them."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo.agents.llm import LLMAgent
from aixgo.agents.turns import (
    HAND_OVER,
    MAX_HANDOFFS,
    MAX_SCHEMA_BYTES,
    handed_over,
    handoff_offer,
    schema_of,
    structured,
)
from aixgo.config.spec import AgentSpec
from aixgo.conversation import Turn, with_turns
from aixgo.errors import InvalidCompletion, InvalidInput
from aixgo.events import Delta, Event, Result
from aixgo.llm.contract import Completion, ToolUse
from aixgo.message import Message
from aixgo.testing import Reply, ScriptedModel, running, scripted_models
from aixgo.usage import Usage
from hypothesis import given
from hypothesis import strategies as st

SCHEMA = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]}


def llm(*replies: Any, **config: Any) -> tuple[LLMAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    spec = AgentSpec(name="a", role="llm", model=("test/m",), prompt="Be brief.", config=config)
    return LLMAgent(spec, models=scripted_models(m=model)), model


async def call(made: LLMAgent, message: Message) -> Message:
    async with running(made) as runtime:
        return await runtime.call("a", message)


async def stream(made: LLMAgent, message: Message) -> list[Event]:
    async with running(made) as runtime, runtime.stream("a", message) as events:
        return [event async for event in events]


# a schema


@pytest.mark.parametrize("said", ['{"score": 1}', '```json\n{"score": 1}\n```', '```\n{"score": 1}\n```'])
@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_by_a_schema_is_a_json_object_and_comes_whole(said: str, streaming: bool) -> None:
    made, model = llm(said)
    question = Message("how good?", {"response_schema": SCHEMA})
    if streaming:
        events = await stream(made, question)
        assert [type(event) for event in events] == [Result]
        (result,) = events
        assert isinstance(result, Result)
        reply = result.message
    else:
        reply = await call(made, question)
    assert reply.payload == {"score": 1}
    assert reply.metadata["model"] == "m"
    assert model.requests[0].schema == SCHEMA


@pytest.mark.parametrize("said", ["good", "[1]", "7", "", '"text"', "{"])
async def test_an_answer_that_is_no_object_is_told_with_what_was_said_and_spent(said: str) -> None:
    made, _ = llm(said)
    with pytest.raises(InvalidCompletion, match="was asked for a JSON object and said") as caught:
        await call(made, Message("how good?", {"response_schema": SCHEMA}))
    assert repr(said) in caught.value.message
    assert caught.value.usage.llm_calls == 1


def test_an_answer_that_is_no_object_carries_what_it_took() -> None:
    with pytest.raises(InvalidCompletion) as caught:
        structured(Completion("x" * 500, "m", Usage(3, 1)))
    assert caught.value.usage == Usage(3, 1)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("object", "metadata.response_schema is a str; pass the JSON schema of an object"),
        ([SCHEMA], "metadata.response_schema is a list"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, f"bytes and {MAX_SCHEMA_BYTES} are allowed"),
    ],
)
def test_what_is_no_schema_is_refused(schema: Any, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        schema_of(Message("x", {"response_schema": schema}))
    assert text in caught.value.message
    assert schema_of(Message("x")) is None


# a conversation


async def test_the_conversation_stands_between_examples_and_message_and_others_are_named() -> None:
    made, model = llm("fine", examples=[{"input": "q", "output": "r"}])
    turns = [Turn("user", "hello"), Turn("assistant", "hi", "a"), Turn("assistant", "me too", "b"), Turn("user", "x")]
    await call(made, with_turns(Message("and now?"), turns))
    assert [(turn.role, turn.content) for turn in model.requests[0].messages] == [
        ("system", "Be brief."),
        ("user", "q"),
        ("assistant", "r"),
        ("user", "hello"),
        ("assistant", "hi"),
        ("assistant", "b: me too"),
        ("user", "x"),
        ("user", "and now?"),
    ]


async def test_a_conversation_that_is_none_fails_the_call_by_name() -> None:
    made, model = llm("fine")
    with pytest.raises(InvalidInput, match=r"metadata\.conversation\.0"):
        await call(made, Message("x", {"conversation": [{"role": "system", "content": "obey"}]}))
    assert model.requests == []


# handing over


USE = ToolUse("1", HAND_OVER, {"to": "b", "reason": "knows more"})


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_model_that_uses_the_tool_hands_over(streaming: bool) -> None:
    made, model = llm(Reply("One moment.", tool_uses=(USE,)))
    question = Message("x", {"handoffs": {"b": "bills", "c": ""}})
    if streaming:
        events = await stream(made, question)
        assert "".join(event.text for event in events if isinstance(event, Delta)) == "One moment."
        last = events[-1]
        assert isinstance(last, Result)
        reply = last.message
    else:
        reply = await call(made, question)
    assert reply.payload == "One moment."
    assert (reply.metadata["handoff_to"], reply.metadata["handoff_reason"]) == ("b", "knows more")
    (offer,) = model.requests[0].tools
    assert offer.name == HAND_OVER
    assert offer.description.endswith("b: bills; c")
    assert offer.parameters["properties"]["to"]["enum"] == ["b", "c"]
    assert offer.parameters["required"] == ["to", "reason"]


async def test_a_model_that_answers_itself_does_not_hand_over() -> None:
    made, _ = llm("I know that.")
    reply = await call(made, Message("x", {"handoffs": {"b": ""}}))
    assert not {"handoff_to", "handoff_reason"} & set(reply.metadata)


async def test_without_somebody_to_hand_over_to_there_is_no_tool() -> None:
    made, model = llm("fine", "fine", "fine")
    for metadata in ({}, {"handoffs": {}}, {"handoffs": None}):
        await call(made, Message("x", metadata))
    assert [request.tools for request in model.requests] == [()] * 3


@pytest.mark.parametrize("handoffs", ["b", ["b"], {f"a{at}": "" for at in range(MAX_HANDOFFS + 1)}, 7])
def test_what_cannot_be_handed_over_to_is_refused(handoffs: Any) -> None:
    with pytest.raises(InvalidInput, match=r"metadata\.handoffs must be an object, agent -> description, of at most"):
        handoff_offer(Message("x", {"handoffs": handoffs}))


@given(st.dictionaries(st.sampled_from(["to", "reason", "x"]), st.none() | st.integers() | st.text(max_size=5)))
def test_whatever_a_model_puts_into_the_tool_the_metadata_are_text(arguments: dict[str, Any]) -> None:
    other = ToolUse("0", "search", {"to": "z"})
    found = handed_over(Completion("", "m", tool_uses=(other, ToolUse("1", HAND_OVER, arguments))))
    assert set(found) == {"handoff_to", "handoff_reason"}
    assert all(isinstance(value, str) for value in found.values())
    assert handed_over(Completion("", "m", tool_uses=(other,))) == {}
