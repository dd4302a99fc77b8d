"""What the role `llm` remembers of a session, and what it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aixgo.agent import Agent
from aixgo.agents.llm import LLMAgent
from aixgo.agents.memory import Memory, MemoryConfig
from aixgo.call import CallState, entered
from aixgo.config.spec import AgentSpec
from aixgo.errors import DeadlineExceeded, InvalidInput, MessageTooLarge, RateLimited
from aixgo.events import Delta
from aixgo.llm.contract import CompletionRequest, ToolUse
from aixgo.message import Message
from aixgo.sessions.contract import SessionLimits
from aixgo.sessions.in_memory import InMemorySessions
from aixgo.testing import Reply, ScriptedModel, running, scripted_models
from aixgo.usage import Ledger
from pydantic import BaseModel

from tests.support import eventually

BOUND = 20.0


def spec(**more: Any) -> AgentSpec:
    return AgentSpec.model_validate({"name": "bot", "role": "llm", "model": "test/m", **more})


def bot(*replies: Any, limits: SessionLimits | None = None, **more: Any) -> tuple[LLMAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    return LLMAgent(spec(**more), models=scripted_models(m=model), sessions=InMemorySessions(limits)), model


def asked(request: CompletionRequest) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in request.messages]


def said(text: str, session: str = "s", **metadata: Any) -> Message:
    return Message(text, metadata, session_id=session)


async def test_the_model_sees_the_turns_of_the_session_between_prompt_and_message():
    examples = [{"input": "Norway?", "output": "Oslo"}]
    agent, model = bot("Paris", "Lyon", prompt="Be short.", config={"examples": examples})
    async with running(agent) as runtime:
        await runtime.call("bot", said("France?"))
        await runtime.call("bot", said("And the second city?"))
    assert asked(model.requests[1]) == [
        ("system", "Be short."),
        ("user", "Norway?"),
        ("assistant", "Oslo"),
        ("user", "France?"),
        ("assistant", "Paris"),
        ("user", "And the second city?"),
    ]


async def test_a_message_without_a_session_is_not_remembered():
    agent, model = bot("a", "b")
    async with running(agent) as runtime:
        await runtime.call("bot", "one")
        await runtime.call("bot", "two")
    assert asked(model.requests[1]) == [("user", "two")]


async def test_with_memory_false_nothing_is_remembered():
    agent, model = bot("a", "b", config={"memory": False})
    async with running(agent) as runtime:
        await runtime.call("bot", said("one"))
        await runtime.call("bot", said("two"))
    assert asked(model.requests[1]) == [("user", "two")]


async def test_the_window_bounds_what_the_model_sees_but_not_what_is_remembered():
    agent, model = bot("a" * 40, "b" * 40, "c", prompt="p" * 400, config={"window": 40})
    async with running(agent) as runtime:
        for text in ("1" * 40, "2" * 40, "3" * 400):
            await runtime.call("bot", said(text))
    shown = [content[:1] for _, content in asked(model.requests[2])]
    assert shown == ["p", "2", "b", "3"]
    store: Any = agent._memory._sessions
    async with store.hold("s", "bot") as held:
        assert len(held.turns) == 6


@pytest.mark.parametrize(
    "metadata",
    [{"response_schema": {"type": "object"}}, {"conversation": [{"role": "user", "content": "given"}]}],
)
async def test_requests_of_patterns_neither_read_nor_write_the_session(metadata: dict[str, Any]):
    agent, model = bot("one", {"x": 1}, "three")
    async with running(agent) as runtime:
        await runtime.call("bot", said("first"))
        await runtime.call("bot", said("second", **metadata))
        await runtime.call("bot", said("third"))
    assert ("user", "first") not in asked(model.requests[1])
    assert [content for _, content in asked(model.requests[2])] == ["first", "one", "third"]


async def test_an_empty_conversation_that_is_given_beats_the_session_too():
    agent, model = bot("one", "two")
    async with running(agent) as runtime:
        await runtime.call("bot", said("first"))
        await runtime.call("bot", said("second", conversation=[]))
    assert asked(model.requests[1]) == [("user", "second")]


async def test_a_call_that_fails_leaves_no_half_turn():
    agent, model = bot(RateLimited("later"), "yes")
    async with running(agent) as runtime:
        with pytest.raises(RateLimited):
            await runtime.call("bot", said("one"))
        await runtime.call("bot", said("two"))
    assert asked(model.requests[1]) == [("user", "two")]


async def test_a_message_that_is_called_again_is_one_exchange():
    agent, model = bot("first answer", "second answer", "last")
    message = said("again")
    async with running(agent) as runtime:
        await runtime.call("bot", message)
        await runtime.call("bot", message)
        await runtime.call("bot", said("more"))
    assert asked(model.requests[1]) == [("user", "again")]
    assert [content for _, content in asked(model.requests[2])] == ["again", "second answer", "more"]


async def test_a_streamed_answer_is_remembered_whole():
    agent, model = bot("one two", "three")
    async with running(agent) as runtime:
        async with runtime.stream("bot", said("count")) as events:
            heard = [event.text async for event in events if isinstance(event, Delta)]
        await runtime.call("bot", said("on"))
    assert heard == ["one ", "two"]
    assert [content for _, content in asked(model.requests[1])] == ["count", "one two", "on"]


async def test_a_stream_that_is_left_early_writes_nothing_and_frees_the_session():
    agent, model = bot(Reply("one two three", gate=None, deltas=["one "] * 200), "ok")
    async with running(agent) as runtime:
        async with runtime.stream("bot", said("count")) as events:
            async for event in events:
                assert isinstance(event, Delta)
                break
        await runtime.call("bot", said("on"), timeout=BOUND)
    assert asked(model.requests[1]) == [("user", "on")]


async def test_an_answer_as_a_model_is_remembered_as_its_json():
    agent, model = bot({"title": "t"}, {"title": "u"}, config={"response": f"{__name__}:Ticket"})
    async with running(agent) as runtime:
        await runtime.call("bot", said("one"))
        async with runtime.stream("bot", said("two")) as events:
            _ = [event async for event in events]
    assert ("assistant", '{"title":"t"}') in asked(model.requests[1])


class Ticket(BaseModel):
    title: str


async def test_handing_over_without_a_word_is_no_turn():
    use = ToolUse("1", "hand_over", {"to": "other", "reason": "theirs"})
    agent, model = bot(Reply("", tool_uses=[use]), "hello")
    async with running(agent) as runtime:
        reply = await runtime.call("bot", said("one", handoffs={"other": ""}))
        await runtime.call("bot", said("two"))
    assert reply.metadata["handoff_to"] == "other"
    assert asked(model.requests[1]) == [("user", "two")]


async def test_calls_of_one_session_wait_for_each_other_and_those_of_another_do_not():
    gate = asyncio.Event()
    agent, model = bot(Reply("slow", gate=gate), "other", "third")
    async with running(agent) as runtime, asyncio.timeout(BOUND):
        first = asyncio.create_task(runtime.call("bot", said("1")))
        await eventually(lambda: bool(model.requests))
        second = asyncio.create_task(runtime.call("bot", said("2")))
        assert (await runtime.call("bot", said("x", "another"))).text == "other"
        assert len(model.requests) == 2
        gate.set()
        await asyncio.gather(first, second)
    assert [content for _, content in asked(model.requests[2])] == ["1", "slow", "2"]


async def test_waiting_for_the_session_ends_with_the_deadline():
    gate = asyncio.Event()
    agent, model = bot(Reply("slow", gate=gate), "third")
    async with running(agent) as runtime, asyncio.timeout(BOUND):
        first = asyncio.create_task(runtime.call("bot", said("1")))
        await eventually(lambda: bool(model.requests))
        with pytest.raises(DeadlineExceeded) as caught:
            await runtime.call("bot", said("2"), timeout=0.05)
        gate.set()
        await first
        await runtime.call("bot", said("3"))
    assert caught.value.usage.llm_calls == 0
    assert [content for _, content in asked(model.requests[1])] == ["1", "slow", "3"]


async def test_the_session_of_the_caller_counts_for_the_calls_below():
    class Caller(Agent):
        name = "caller"

        async def execute(self, message: Message) -> Message:
            return await self.runtime.call("bot", f"{message.text}!")

    agent, model = bot("a", "b")
    async with running(agent, Caller()) as runtime:
        await runtime.call("caller", said("one"))
        await runtime.call("caller", said("two"))
    assert [content for _, content in asked(model.requests[1])] == ["one!", "a", "two!"]


async def test_a_call_that_an_answer_led_back_to_its_agent_does_not_wait_for_itself():
    memory = Memory("bot", MemoryConfig())
    inner = CallState(0.0, 3, ("bot", "tool", "bot"), "s", Ledger())
    async with asyncio.timeout(BOUND), memory.recalled(said("outer")) as outer:
        with entered(inner):
            async with memory.recalled(said("inner")) as recollection:
                await recollection.keep("not remembered")
        await outer.keep("remembered")
    async with memory.recalled(said("next")) as recollection:
        assert [turn.content for turn in recollection.turns] == ["outer", "remembered"]
    await memory.close()


async def test_a_message_that_cannot_be_remembered_is_refused_before_the_model_is_asked():
    agent, model = bot("x", limits=SessionLimits(max_turn_bytes=10))
    async with running(agent) as runtime:
        with pytest.raises(MessageTooLarge, match="set `memory: false`"):
            await runtime.call("bot", said("eleven byte"))
        with pytest.raises(InvalidInput, match="session_id"):
            await runtime.call("bot", said("x", "s" * 300))
    assert model.requests == []


async def test_of_a_question_with_sources_around_it_the_question_is_remembered() -> None:
    model = ScriptedModel(lambda request: f"answer {len(request.messages)}")
    agent = LLMAgent(AgentSpec(name="a", role="llm", model=("test/m",)), models=scripted_models(m=model))
    async with running(agent) as runtime:
        first = Message("Sources: a long text. Question: why?", {"question": "why?"}, session_id="s")
        await runtime.call("a", first)
        await runtime.call("a", Message("and how?", session_id="s"))
    assert [turn.content for turn in model.requests[-1].messages] == ["why?", "answer 1", "and how?"]
