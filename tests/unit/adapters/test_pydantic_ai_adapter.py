"""A Pydantic AI agent as an agent of aixgo, with the framework's own models for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from aixgo import errors
from aixgo.adapters.pydantic_ai import PydanticAIAgent
from aixgo.call import entered, root
from aixgo.config.build import build_agents
from aixgo.config.load import loads
from aixgo.config.spec import AgentSpec
from aixgo.errors import BudgetExceeded, ConfigError, DeadlineExceeded, InvalidCompletion, LimitExceeded
from aixgo.events import Delta, Event, Result, ToolCall
from aixgo.llm.pricing import Price, Prices
from aixgo.message import Message
from aixgo.runtime.contract import CallOptions
from aixgo.testing import running
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.exceptions import ModelAPIError, ModelHTTPError, UserError
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage, UsageLimits

from tests.support import eventually

PRICES = Prices({"gpt-x": Price(Decimal("0.01"), Decimal("0.02"))})


class Oracle:
    """A model whose answers the test writes: each a text, a ToolCallPart, or an exception."""

    def __init__(self, *answers: Any, usage: RequestUsage | None = None) -> None:
        self.answers = list(answers)
        self.usage = usage or RequestUsage(input_tokens=100, output_tokens=10, cache_read_tokens=40)
        self.asked: list[list[ModelMessage]] = []
        self.cancelled = False
        self.model = FunctionModel(self.answer, stream_function=self.pieces, model_name="gpt-x")

    def _next(self, messages: list[ModelMessage]) -> Any:
        self.asked.append(list(messages))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        answer = self._next(messages)
        if answer is None:
            await self._never()
        part = TextPart(answer) if isinstance(answer, str) else answer
        return ModelResponse([part], usage=self.usage)

    async def pieces(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        answer = self._next(messages)
        if answer is None:
            try:
                yield "begun "
                await self._never()
            finally:
                self.cancelled = True
        elif isinstance(answer, ToolCallPart):
            yield {0: DeltaToolCall(answer.tool_name, str(answer.args), tool_call_id=answer.tool_call_id)}
        else:
            for word in answer.split(" "):
                yield word if word == answer.split(" ")[0] else f" {word}"

    async def _never(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True

    def texts(self, call: int) -> list[tuple[str, str]]:
        """What the model was asked: the kind of each part and its text."""
        parts = [part for message in self.asked[call] for part in message.parts]
        return [(part.part_kind, str(getattr(part, "content", ""))) for part in parts]


def wrapped(oracle: Oracle, agent: Agent[Any, Any] | None = None, **config: Any) -> PydanticAIAgent:
    inner = Agent(name="helper", system_prompt="Be kind.") if agent is None else agent
    inner.model = oracle.model
    return PydanticAIAgent.wrap(inner, "helper", prices=PRICES, **config)


def with_tool() -> Agent[None, str]:
    agent = Agent[None, str](name="helper")

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        if a < 0:
            raise ModelRetry("only positive numbers")
        return a + b

    return agent


async def heard(agent: PydanticAIAgent, message: Message | str = "x") -> list[Event]:
    async with running(agent) as runtime, runtime.stream("helper", message) as events:
        return [event async for event in events]


async def test_the_text_of_the_message_is_the_prompt_and_the_output_the_reply():
    oracle = Oracle("hello")
    async with running(wrapped(oracle)) as runtime:
        reply = await runtime.call("helper", Message("hi", session_id="s"))
    assert oracle.texts(0) == [("system-prompt", "Be kind."), ("user-prompt", "hi")]
    assert (reply.payload, dict(reply.metadata), reply.session_id) == ("hello", {"model": "gpt-x"}, "s")


async def test_what_the_framework_reports_is_counted_once_and_priced():
    call = ToolCallPart("add", {"a": 1, "b": 2}, "t1")
    async with running(wrapped(Oracle(call, "three"), with_tool())) as runtime:
        usage = (await runtime.call("helper", "add 1 and 2")).usage
    assert (usage.llm_calls, usage.prompt_tokens, usage.completion_tokens) == (2, 200, 20)
    assert (usage.cached_tokens, usage.unpriced_calls, usage.incomplete) == (80, 0, False)
    assert usage.cost_usd == Decimal("0.0024")  # 0.2 * 0.01 + 0.02 * 0.02


async def test_an_unknown_price_is_no_price():
    oracle = Oracle("hello")
    agent = PydanticAIAgent.wrap(Agent(oracle.model), "helper")
    async with running(agent) as runtime:
        usage = (await runtime.call("helper", "x")).usage
    assert (usage.cost_usd, usage.unpriced_calls, usage.total_tokens) == (None, 1, 110)


async def test_it_streams_deltas_and_uses_of_tools():
    call = ToolCallPart("add", '{"a": 1, "b": 2}', "t1")
    events = await heard(wrapped(Oracle(call, "it is three"), with_tool()))
    assert [event for event in events if isinstance(event, ToolCall)] == [
        ToolCall("t1", "add", {"a": 1, "b": 2}, path=("helper",)),
        ToolCall("t1", "add", output=3, done=True, path=("helper",)),
    ]
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "it is three"
    result = events[-1]
    assert isinstance(result, Result)
    assert result.message.payload == "it is three"
    assert result.message.usage.llm_calls == 2


async def test_a_tool_that_fails_is_told_as_an_error():
    bad = ToolCallPart("add", '{"a": -1, "b": 2}', "t1")
    events = await heard(wrapped(Oracle(bad, "never mind"), with_tool()))
    done = [event for event in events if isinstance(event, ToolCall) and event.done]
    assert len(done) == 1
    assert "only positive numbers" in done[0].error


class Ticket(BaseModel):
    title: str


async def test_an_output_that_is_no_text_is_json():
    agent = PydanticAIAgent.wrap(Agent(TestModel(custom_output_args={"title": "t"}), output_type=Ticket), "helper")
    async with running(agent) as runtime:
        reply = await runtime.call("helper", "x")
    assert reply.payload == {"title": "t"}
    assert reply.usage.cost_usd == 0  # a model for tests costs nothing


async def test_a_response_schema_is_the_output_type():
    schema = {"type": "object", "properties": {"next": {"enum": ["a", "b"], "type": "string"}}, "required": ["next"]}
    agent = PydanticAIAgent.wrap(Agent(TestModel(), system_prompt="x"), "helper")
    async with running(agent) as runtime:
        reply = await runtime.call("helper", Message("who?", {"response_schema": schema}))
    assert reply.payload == {"next": "a"}


async def test_a_conversation_is_the_message_history_behind_the_system_prompt():
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two", "name": "other"},
        {"role": "assistant", "content": "three", "name": "helper"},
    ]
    oracle = Oracle("four")
    async with running(wrapped(oracle)) as runtime:
        reply = await runtime.call("helper", Message("go on", {"conversation": turns}))
    assert oracle.texts(0) == [
        ("system-prompt", "Be kind."), ("user-prompt", "one"), ("text", "other: two"), ("text", "three"),
        ("user-prompt", "go on"),
    ]  # fmt: skip
    assert reply.usage.llm_calls == 1


async def test_with_a_session_it_remembers():
    oracle = Oracle("a", "b", "c")
    async with running(wrapped(oracle)) as runtime:
        for text in ("one", "two"):
            await runtime.call("helper", Message(text, session_id="s"))
        await runtime.call("helper", Message("three", session_id="other"))
    assert [text for _, text in oracle.texts(1)] == ["Be kind.", "one", "a", "two"]
    assert [text for _, text in oracle.texts(2)] == ["Be kind.", "three"]


@dataclass
class Deps:
    text: str


async def test_dependencies_are_made_of_the_message():
    agent = Agent(deps_type=Deps)

    @agent.instructions
    def who(context: RunContext[Deps]) -> str:
        return f"You talk to {context.deps.text}."

    oracle = Oracle("hi")
    agent.model = oracle.model
    made = PydanticAIAgent.wrap(agent, "helper", deps=lambda message: Deps(message.metadata["user"]))
    async with running(made) as runtime:
        await runtime.call("helper", Message("x", {"user": "Anna"}))
    assert "You talk to Anna." in str(oracle.asked[0])


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ModelHTTPError(401, "gpt-x", "no key"), errors.ProviderDenied),
        (ModelHTTPError(404, "gpt-x", "no model"), errors.ProviderRejected),
        (ModelHTTPError(503, "gpt-x", "down"), errors.ProviderUnavailable),
        (ModelAPIError("gpt-x", "no connection"), errors.ProviderUnavailable),
    ],
)
async def test_a_vendors_failure_is_the_typed_error_with_the_call_counted(
    failure: Exception, expected: type[errors.AixgoError]
):
    async with running(wrapped(Oracle(failure))) as runtime:
        with pytest.raises(expected) as caught:
            await runtime.call("helper", "x")
    assert caught.value.agent_path == ("helper",)
    usage = caught.value.usage
    assert (usage.llm_calls, usage.total_tokens, usage.cost_usd) == (1, 0, 0)


async def test_a_rate_limit_says_when_to_come_back():
    failure = ModelHTTPError(429, "gpt-x", "slow down", headers={"Retry-After": "7"})
    async with running(wrapped(Oracle(failure))) as runtime:
        with pytest.raises(errors.RateLimited) as caught:
            await runtime.call("helper", "x")
    assert caught.value.retry_after == 7


async def test_what_was_spent_before_a_failure_is_counted():
    call = ToolCallPart("add", {"a": 1, "b": 2}, "t1")
    agent = wrapped(Oracle(call, ModelHTTPError(500, "gpt-x")), with_tool())
    async with running(agent) as runtime:
        with pytest.raises(errors.ProviderUnavailable) as caught:
            await runtime.call("helper", "x")
    assert (caught.value.usage.prompt_tokens, caught.value.usage.llm_calls) == (100, 2)


async def test_an_answer_that_never_fits_is_an_invalid_completion():
    agent = Agent(output_type=Ticket, retries=1)
    bad = [ToolCallPart("final_result", {"nonsense": 1}, f"t{at}") for at in range(3)]
    async with running(wrapped(Oracle(*bad), agent)) as runtime:
        with pytest.raises(InvalidCompletion):
            await runtime.call("helper", "x")


async def test_a_limit_of_the_framework_is_a_limit():
    agent = with_tool()
    calls = [ToolCallPart("add", {"a": 1, "b": 2}, f"t{at}") for at in range(60)]
    async with running(wrapped(Oracle(*calls), agent)) as runtime:
        with pytest.raises(LimitExceeded, match="request_limit") as caught:
            await runtime.call("helper", "x")
    assert not isinstance(caught.value, BudgetExceeded)
    assert caught.value.usage.llm_calls == UsageLimits().request_limit


async def test_a_grant_of_tokens_bounds_the_run():
    calls = [ToolCallPart("add", {"a": 1, "b": 2}, f"t{at}") for at in range(60)]
    async with running(wrapped(Oracle(*calls), with_tool())) as runtime:
        with pytest.raises(BudgetExceeded) as caught:
            await runtime.call("helper", "x", options=CallOptions(max_tokens=300))
        assert caught.value.usage.total_tokens == 330
        with pytest.raises(BudgetExceeded, match="10 tokens are left"):
            await runtime.call("helper", "x", options=CallOptions(max_tokens=10))


async def test_an_error_of_a_tool_comes_up_as_it_is():
    agent = Agent()

    @agent.tool_plain
    async def ask_nobody() -> str:
        raise errors.AgentNotFound("nobody is there")

    async with running(wrapped(Oracle(ToolCallPart("ask_nobody", {}, "t1")), agent)) as runtime:
        with pytest.raises(errors.AgentNotFound, match="nobody is there"):
            await runtime.call("helper", "x")


async def test_the_deadline_cancels_the_model_and_counts_the_call():
    oracle = Oracle(None)
    async with running(wrapped(oracle)) as runtime:
        with pytest.raises(DeadlineExceeded) as caught:
            await runtime.call("helper", "some words", timeout=0.2)
    assert oracle.cancelled
    assert (caught.value.usage.llm_calls, caught.value.usage.incomplete) == (1, True)
    assert caught.value.usage.prompt_tokens > 0


async def test_leaving_the_stream_cancels_the_model_and_writes_nothing():
    oracle = Oracle(None, "hello")
    above = root()
    async with running(wrapped(oracle)) as runtime:
        with entered(above):
            async with runtime.stream("helper", Message("one", session_id="s")) as events:
                async for event in events:
                    assert isinstance(event, Delta)
                    break
            await eventually(lambda: oracle.cancelled)
            assert (above.ledger.usage.llm_calls, above.ledger.usage.incomplete) == (1, True)
        await runtime.call("helper", Message("two", session_id="s"))
    assert [text for _, text in oracle.texts(1)] == ["Be kind.", "two"]


async def test_a_mistake_in_the_agent_is_told_as_its_failure():
    async with running(PydanticAIAgent.wrap(Agent(), "helper")) as runtime:
        with pytest.raises(errors.AgentFailed) as caught:
            await runtime.call("helper", "x")
    assert caught.value.fields["exception"] == f"{UserError.__module__}.{UserError.__qualname__}"


OF_THIS_FILE = Agent(TestModel(custom_output_text="from YAML"), name="helper")


def make_deps(message: Message) -> None:
    return None


NOT_AN_AGENT = "x"
YAML = "version: 2\nagents:\n  - name: a\n    role: aixgo.adapters.pydantic_ai:PydanticAIAgent\n    config: "


async def test_it_is_made_from_yaml():
    config = loads(f"{YAML}{{agent: '{__name__}:OF_THIS_FILE', deps: '{__name__}:make_deps', idempotent: true}}\n")
    (agent,) = build_agents(config)
    assert agent.idempotent
    async with running(agent) as runtime:
        assert (await runtime.call("a", "x")).payload == "from YAML"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{}", "config.agent: '' is no import path"),
        ("{agent: 'nowhere:x'}", "nowhere:x cannot be imported"),
        (f"{{agent: '{__name__}:NOT_AN_AGENT'}}", "is a str, no Pydantic AI agent"),
        (f"{{agent: '{__name__}:OF_THIS_FILE', deps: '{__name__}:NOT_AN_AGENT'}}", "is a str, no function"),
        (f"{{agent: '{__name__}:OF_THIS_FILE', dps: x}}", "did you mean 'deps'?"),
    ],
)
def test_what_cannot_be_made_from_yaml_is_told(config: str, told: str):
    with pytest.raises(ConfigError) as caught:
        build_agents(loads(f"{YAML}{config}\n"))
    assert told in caught.value.message


@pytest.mark.parametrize("key", ["model", "prompt"])
def test_what_the_wrapped_agent_has_itself_is_refused(key: str):
    spec = AgentSpec.model_validate({"name": "a", "role": "pydantic-ai", key: "x/y"})
    with pytest.raises(ConfigError, match=f"agents.a.{key}: the Pydantic AI agent has its own"):
        PydanticAIAgent(spec, wrapped=OF_THIS_FILE)
