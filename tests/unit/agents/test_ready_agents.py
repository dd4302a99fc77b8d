"""The ready agents, with scripted models, in a LocalRuntime."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from aixgo import errors
from aixgo.agent import Agent, agent
from aixgo.agents.aggregator import AggregatorAgent
from aixgo.agents.catalog import ROLES, find_role, load_role
from aixgo.agents.classifier import ClassifierAgent
from aixgo.agents.llm import LLMAgent
from aixgo.config.spec import AgentSpec
from aixgo.events import Delta, Result
from aixgo.message import Message
from aixgo.runtime.contract import CallOptions
from aixgo.testing import Reply, ScriptedModel, running, scripted_models
from pydantic import BaseModel

TEAMS = {"billing": "money", "technical": "bugs"}


def spec(role: str, **more: Any) -> AgentSpec:
    return AgentSpec.model_validate({"name": role, "role": role, "model": "test/m", **more})


def llm(*replies: Any, **more: Any) -> tuple[LLMAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    return LLMAgent(spec("llm", **more), models=scripted_models(m=model)), model


def classifier(*replies: Any, **config: Any) -> tuple[ClassifierAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    config = {"categories": TEAMS, **config}
    return ClassifierAgent(spec("classifier", config=config), models=scripted_models(m=model)), model


def aggregator(*replies: Any, **config: Any) -> tuple[AggregatorAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    return AggregatorAgent(spec("aggregator", config=config), models=scripted_models(m=model)), model


async def test_llm_puts_prompt_examples_and_message_to_the_model():
    made, model = llm(
        "Paris",
        prompt="Be short.",
        config={"examples": [{"input": "Norway?", "output": "Oslo"}], "temperature": 0, "max_tokens": 9},
    )
    async with running(made) as runtime:
        reply = await runtime.call("llm", Message("France?", session_id="s1"))
    assert reply.payload == "Paris"
    assert reply.session_id == "s1"
    assert reply.metadata == {"model": "m", "stop_reason": "stop"}
    assert (reply.usage.llm_calls, reply.usage.completion_tokens) == (1, 1)
    asked = model.requests[0]
    assert [(turn.role, turn.content) for turn in asked.messages] == [
        ("system", "Be short."),
        ("user", "Norway?"),
        ("assistant", "Oslo"),
        ("user", "France?"),
    ]
    assert (asked.temperature, asked.max_tokens) == (0, 9)


async def test_llm_streams_deltas_that_add_up_to_the_result():
    made, _ = llm("one two three")
    async with running(made) as runtime, runtime.stream("llm", "count") as events:
        seen = [event async for event in events]
    assert "".join(event.text for event in seen if isinstance(event, Delta)) == "one two three"
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.payload == "one two three"
    assert seen[-1].message.usage.llm_calls == 1


class Ticket(BaseModel):
    title: str
    urgent: bool


async def test_llm_answers_as_a_pydantic_model():
    made, _ = llm("no JSON", {"title": "t", "urgent": True}, config={"response": f"{__name__}:Ticket"})
    async with running(made) as runtime:
        reply = await runtime.call("llm", "x")
    assert reply.model(Ticket) == Ticket(title="t", urgent=True)
    assert reply.usage.llm_calls == 2


async def test_the_vendors_error_reaches_the_caller_with_path_and_usage():
    made, _ = llm(errors.RateLimited("later", retry_after=3))
    async with running(made) as runtime:
        with pytest.raises(errors.RateLimited) as caught:
            await runtime.call("llm", "x")
    assert caught.value.agent_path == ("llm",)
    assert caught.value.usage.llm_calls == 1


async def test_the_budget_of_a_call_bounds_the_model():
    made, model = llm("a b", "c d")
    async with running(made) as runtime:
        with pytest.raises(errors.BudgetExceeded):
            await runtime.call("llm", "x", options=CallOptions(max_tokens=10))
        await runtime.call("llm", "x", options=CallOptions(max_tokens=60))
    assert len(model.requests) == 1
    assert model.requests[0].max_tokens < 60


async def test_classifier_offers_the_categories_and_keeps_the_text():
    made, model = classifier({"category": "billing"}, examples=[{"text": "it hangs", "category": "technical"}])
    async with running(made) as runtime:
        reply = await runtime.call("classifier", "refund me")
    assert reply.payload == "billing"
    assert reply.metadata == {"category": "billing", "input": "refund me", "model": "m", "stop_reason": "stop"}
    asked = model.requests[0]
    assert asked.schema is not None
    assert asked.schema["properties"]["category"]["enum"] == ["billing", "technical"]
    assert "- billing: money" in asked.messages[0].content
    assert [turn.content for turn in asked.messages[1:]] == ["it hangs", '{"category":"technical"}', "refund me"]


async def test_classifier_asks_again_when_the_model_misses_the_categories():
    made, _ = classifier({"category": "sales"}, {"category": "billing"})
    async with running(made) as runtime:
        assert (await runtime.call("classifier", "x")).payload == "billing"


async def test_classifier_says_when_the_model_cannot_do_it():
    made, _ = classifier(*["who knows"] * 3)
    async with running(made) as runtime:
        with pytest.raises(errors.InvalidCompletion):
            await runtime.call("classifier", "x")


async def test_the_majority_of_votes_wins_and_its_share_is_the_confidence():
    votes = [{"category": name} for name in ("billing", "technical", "billing", "billing")]
    made, _ = classifier(*votes, votes=4, temperature=0.7)
    async with running(made) as runtime:
        reply = await runtime.call("classifier", "x")
    assert reply.payload == "billing"
    assert (reply.metadata["confidence"], reply.metadata["confidence_from"]) == (0.75, "votes")


async def test_one_failing_vote_fails_the_call_with_its_own_error():
    made, _ = classifier({"category": "billing"}, errors.RateLimited("later"), votes=2, temperature=0.7)
    async with running(made) as runtime:
        with pytest.raises(errors.RateLimited):
            await runtime.call("classifier", "x")


async def test_a_classifier_works_with_a_self_contained_model_name():
    made = ClassifierAgent(
        spec("classifier", model="test/choose:technical", config={"categories": ["billing", "technical"]})
    )
    async with running(made) as runtime:
        assert (await runtime.call("classifier", "x")).metadata["category"] == "technical"


@pytest.mark.parametrize(
    "message",
    [
        Message({"a": "yes", "b": {"n": 1}}),
        Message('{"a": "yes", "b": {"n": 1}}'),
        Message("x", {"parallel_results": {"a": {"payload": "yes", "metadata": {}}, "b": {"payload": {"n": 1}}}}),
    ],
)
async def test_aggregator_puts_answers_below_one_another(message: Message):
    made, _ = aggregator()
    async with running(made) as runtime:
        reply = await runtime.call("aggregator", message)
    assert reply.payload == 'a: yes\nb: {"n":1}'
    assert reply.metadata == {"strategy": "concatenate", "sources": ["a", "b"]}


async def test_aggregator_takes_a_list_and_leaves_names_out_when_told():
    made, _ = aggregator(labels=False, separator=" | ")
    async with running(made) as runtime:
        assert (await runtime.call("aggregator", ["one", 2])).payload == "one | 2"


@pytest.mark.parametrize("payload", ["just text", {}, 3, b"\xff"])
async def test_aggregator_refuses_what_holds_no_answers(payload: Any):
    made, _ = aggregator()
    async with running(made) as runtime:
        with pytest.raises(errors.InvalidInput, match="parallel_results"):
            await runtime.call("aggregator", payload)


async def test_aggregator_has_a_model_write_one_answer_and_streams_it():
    made, model = aggregator("both agree", strategy="llm")
    async with running(made) as runtime, runtime.stream("aggregator", {"a": "yes", "b": "yes"}) as events:
        seen = [event async for event in events]
    assert model.requests[0].messages[-1].content == "a: yes\nb: yes"
    assert [event.text for event in seen if isinstance(event, Delta)] == ["both ", "agree"]
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.metadata["sources"] == ["a", "b"]


def test_concatenating_needs_no_model():
    AggregatorAgent(AgentSpec(name="a", role="aggregator"))


@pytest.mark.parametrize(
    ("role", "more", "told"),
    [
        (
            "llm",
            {"config": {"temprature": 1}},
            "agents.llm.config: unknown key 'temprature'; did you mean 'temperature'",
        ),
        ("llm", {"config": {"temperature": 9}}, "agents.llm.config: temperature: "),
        ("llm", {"model": ()}, "agents.llm.model: no model is named"),
        ("llm", {"model": "gpt-4"}, "agents.llm.model: .*vendor/model"),
        ("llm", {"tools": ("search",)}, "agents.llm.tools: .*role react does"),
        ("llm", {"config": {"response": "json"}}, "agents.llm.config.response"),
        ("llm", {"config": {"response": "no.such:Thing"}}, "cannot be imported"),
        ("llm", {"config": {"response": "asyncio:Lock"}}, "no pydantic model"),
        ("classifier", {}, "agents.classifier.config: categories"),
        ("classifier", {"config": {"categories": ["one"]}}, "categories"),
        (
            "classifier",
            {"config": {"categories": TEAMS, "examples": [{"text": "x", "category": "biling"}]}},
            "examples.0: unknown category 'biling'; did you mean 'billing'",
        ),
        ("classifier", {"config": {"categories": TEAMS, "votes": 3}}, "votes: .*temperature"),
        ("classifier", {"config": {"categories": TEAMS, "template": "x"}}, "template: .*{text}"),
        ("aggregator", {"config": {"strategy": "average"}}, "strategy"),
    ],
)
def test_bad_configuration_is_refused_naming_the_field_and_the_fix(role: str, more: dict[str, Any], told: str):
    cls: Any = load_role(role)
    with pytest.raises(errors.ConfigError, match=told):
        cls(spec(role, **more), models=scripted_models(m=ScriptedModel([])))


async def test_an_agent_with_outputs_answers_its_mailbox_and_sends_on():
    heard: asyncio.Queue[Any] = asyncio.Queue()

    class Listener(Agent):
        name = "listener"

        async def start(self) -> None:
            async for delivery in self.runtime.recv():
                async with delivery as message:
                    heard.put_nowait(message.payload)

        async def execute(self, message: Message) -> Message:
            return message

    made = LLMAgent(spec("llm", model="test/upper", outputs=[{"target": "listener"}]))
    async with running(made, Listener()) as runtime:
        await runtime.send("llm", "hello")
        async with asyncio.timeout(5):
            assert await heard.get() == "HELLO"


def test_only_agents_with_inputs_or_outputs_are_reactive():
    assert not llm()[0].reactive
    assert llm(inputs=[{"source": "feed"}])[0].reactive
    assert llm(outputs=[{"target": "log"}])[0].reactive


async def test_a_model_that_fails_under_a_pattern_can_be_caught_by_its_class():
    made, _ = llm(Reply(error=errors.ProviderUnavailable("gone")))

    @agent
    async def careful(_: Message) -> str:
        try:
            await careful.runtime.call("llm", "x")
        except errors.ProviderUnavailable:
            return "caught"
        return "not"

    async with running(made, careful) as runtime:
        reply = await runtime.call("careful", "x")
    assert reply.payload == "caught"
    assert reply.usage.llm_calls == 1


@pytest.mark.parametrize(
    ("role", "told"), [("recat", "did you mean 'react'"), ("clasifier", "did you mean 'classifier'")]
)
def test_a_role_that_is_not_there_is_refused(role: str, told: str):
    with pytest.raises(errors.ConfigError, match=told):
        find_role(role)


def test_every_role_can_be_loaded_and_says_its_own_name():
    assert {role: getattr(load_role(role), "role") for role in ROLES} == {role: role for role in ROLES}  # noqa: B009


def test_importing_the_agents_loads_no_vendor():
    code = (
        "import sys, aixgo.agents.catalog as c; [c.load_role(r) for r in c.ROLES];"
        "print([m for m in ('openai', 'xllamacpp', 'opentelemetry.sdk') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
