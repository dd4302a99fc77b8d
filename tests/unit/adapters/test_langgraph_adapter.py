"""A LangGraph graph as an agent of aixgo, with fake chat models of LangChain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any, TypedDict

import pytest
from aixgo import errors
from aixgo.adapters.langgraph import LangGraphAgent
from aixgo.call import entered, root
from aixgo.config.build import build_agents
from aixgo.config.load import loads
from aixgo.config.spec import AgentSpec
from aixgo.errors import BudgetExceeded, ConfigError, DeadlineExceeded, InvalidInput, InvalidReply, NotSupported
from aixgo.events import Delta, Event, Result, ToolCall
from aixgo.llm.pricing import Price, Prices
from aixgo.message import Message
from aixgo.runtime.contract import CallOptions
from aixgo.testing import running
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt
from pydantic import Field

from tests.support import eventually

PRICES = Prices({"gpt-x": Price(Decimal("0.01"), Decimal("0.02"))})
USAGE: Any = {
    "input_tokens": 100,
    "output_tokens": 10,
    "total_tokens": 110,
    "input_token_details": {"cache_read": 40},
    "output_token_details": {"reasoning": 3},
}


class Oracle(BaseChatModel):
    """A chat model whose answers the test writes: texts, AIMessages, exceptions, or None: it never answers."""

    answers: list[Any]
    asked: list[list[BaseMessage]] = Field(default_factory=list)
    stopped: list[bool] = Field(default_factory=list)
    model_name: str = "gpt-x"

    @property
    def _llm_type(self) -> str:
        return "oracle"

    def _next(self, messages: list[BaseMessage]) -> Any:
        self.asked.append(list(messages))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return AIMessage(answer) if isinstance(answer, str) else answer

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        message = self._next(messages)
        return ChatResult(generations=[ChatGeneration(message=message.model_copy(update={"usage_metadata": USAGE}))])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        message = self._next(messages)
        if message is None:
            await self._never()
        return ChatResult(generations=[ChatGeneration(message=message.model_copy(update={"usage_metadata": USAGE}))])

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        message = self._next(messages)
        if message is None:
            try:
                yield ChatGenerationChunk(message=AIMessageChunk("begun "))
                await self._never()
            finally:
                self.stopped.append(True)
        for at, word in enumerate(message.content.split(" ") if message.content else []):
            yield ChatGenerationChunk(message=AIMessageChunk(word if at == 0 else f" {word}"))
        last = AIMessageChunk("", tool_calls=message.tool_calls, usage_metadata=USAGE)
        yield ChatGenerationChunk(message=last)

    async def _never(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.stopped.append(True)

    def texts(self, call: int) -> list[tuple[str, Any]]:
        return [(message.type, message.content) for message in self.asked[call]]


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    if a < 0:
        raise ValueError("only positive numbers")
    return a + b


def graph_of(model: Any, **options: Any) -> Any:
    async def ask(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_node("tools", ToolNode([add], handle_tool_errors=True))
    graph.add_edge(START, "ask")
    graph.add_conditional_edges("ask", tools_condition)
    graph.add_edge("tools", "ask")
    return graph.compile(**options)


def wrapped(*answers: Any, compiled: Any = None, **config: Any) -> tuple[LangGraphAgent, Oracle]:
    oracle = Oracle(answers=list(answers))
    options = {} if compiled is None else compiled
    return LangGraphAgent.wrap(graph_of(oracle, **options), "helper", prices=PRICES, **config), oracle


def uses(**arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "add", "args": arguments, "id": "t1"}])


async def heard(agent: LangGraphAgent, message: Message | str = "x") -> list[Event]:
    async with running(agent) as runtime, runtime.stream("helper", message) as events:
        return [event async for event in events]


async def test_the_text_of_the_message_goes_in_and_the_models_last_text_comes_out():
    agent, oracle = wrapped("hello")
    async with running(agent) as runtime:
        reply = await runtime.call("helper", Message("hi", session_id="s"))
    assert oracle.texts(0) == [("human", "hi")]
    assert (reply.payload, dict(reply.metadata), reply.session_id) == ("hello", {"model": "gpt-x"}, "s")


@pytest.mark.parametrize("streamed", [False, True])
async def test_what_the_framework_reports_is_counted_once_and_priced(streamed: bool):
    agent, _ = wrapped(uses(a=1, b=2), "three")
    if streamed:
        result = (await heard(agent))[-1]
        assert isinstance(result, Result)
        usage = result.message.usage
    else:
        async with running(agent) as runtime:
            usage = (await runtime.call("helper", "add")).usage
    assert (usage.llm_calls, usage.prompt_tokens, usage.completion_tokens) == (2, 200, 20)
    assert (usage.cached_tokens, usage.reasoning_tokens, usage.incomplete) == (80, 6, False)
    assert (usage.cost_usd, usage.unpriced_calls) == (Decimal("0.0024"), 0)


async def test_a_model_that_tells_no_usage_is_estimated_and_marked():
    fake = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))
    agent = LangGraphAgent.wrap(graph_of(fake), "helper")
    events = await heard(agent, "four")
    assert [event.text for event in events if isinstance(event, Delta)] == ["one", " ", "two", " ", "three"]
    result = events[-1]
    assert isinstance(result, Result)
    assert (result.message.usage.total_tokens, result.message.usage.incomplete) == (1 + 4, True)
    assert result.message.usage.cost_usd is None


async def test_it_streams_deltas_and_uses_of_tools():
    agent, _ = wrapped(uses(a=1, b=2), "it is three")
    events = await heard(agent)
    assert [event for event in events if isinstance(event, ToolCall)] == [
        ToolCall("t1", "add", {"a": 1, "b": 2}, path=("helper",)),
        ToolCall("t1", "add", output="3", done=True, path=("helper",)),
    ]
    assert [event.text for event in events if isinstance(event, Delta)] == ["it", " is", " three"]
    assert isinstance(events[-1], Result)


async def test_a_tool_that_fails_is_told_as_an_error():
    agent, _ = wrapped(uses(a=-1, b=2), "never mind")
    done = [event for event in await heard(agent) if isinstance(event, ToolCall) and event.done]
    assert len(done) == 1
    assert "only positive numbers" in done[0].error


async def test_a_conversation_goes_before_the_message():
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two", "name": "other"},
        {"role": "assistant", "content": "three", "name": "helper"},
    ]
    agent, oracle = wrapped("four")
    async with running(agent) as runtime:
        await runtime.call("helper", Message("go on", {"conversation": turns}))
    assert oracle.texts(0) == [("human", "one"), ("ai", "other: two"), ("ai", "three"), ("human", "go on")]


@pytest.mark.parametrize("compiled", [{}, {"checkpointer": InMemorySaver()}])
async def test_with_a_session_it_remembers_by_itself_or_by_its_checkpointer(compiled: dict[str, Any]):
    agent, oracle = wrapped("a", "b", "c", "d", compiled=compiled)
    async with running(agent) as runtime:
        for text in ("one", "two"):
            await runtime.call("helper", Message(text, session_id="s"))
        await runtime.call("helper", Message("three", session_id="other"))
        await runtime.call("helper", "four")
    assert [text for _, text in oracle.texts(1)] == ["one", "a", "two"]
    assert [text for _, text in oracle.texts(2)] == ["three"]
    assert [text for _, text in oracle.texts(3)] == ["four"]


class Order(TypedDict, total=False):
    item: str
    count: int
    price: float


def priced(state: Order) -> Order:
    return {"price": 2.5 * state.get("count", 1)}


def shop() -> Any:
    graph = StateGraph(Order)
    graph.add_node("priced", priced)
    graph.add_edge(START, "priced")
    graph.add_edge("priced", END)
    return graph.compile()


async def test_a_graph_with_a_state_of_its_own_takes_and_gives_what_the_config_says():
    whole = LangGraphAgent.wrap(shop(), "whole", input="*", output="*")
    keyed = LangGraphAgent.wrap(shop(), "keyed", input="count", output="price")
    lost = LangGraphAgent.wrap(shop(), "lost", input="*", output="prize")
    async with running(whole, keyed, lost) as runtime:
        assert (await runtime.call("whole", {"item": "pen", "count": 2})).payload == {
            "item": "pen", "count": 2, "price": 5.0,
        }  # fmt: skip
        assert (await runtime.call("keyed", 4)).payload == 10.0
        with pytest.raises(InvalidInput, match="takes a JSON object"):
            await runtime.call("whole", "pen")
        with pytest.raises(InvalidReply, match="has no 'prize', but"):
            await runtime.call("lost", {"item": "pen"})


class Vendor(Exception):
    """An error as the vendors' SDKs raise it."""

    __module__ = "openai"

    def __init__(self, status: int | None, text: str = "hunter2") -> None:
        super().__init__(text)
        if status is not None:
            self.status_code = status
        self.response = type("Response", (), {"headers": {"retry-after": "7"}})()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, errors.ProviderDenied),
        (400, errors.ProviderRejected),
        (429, errors.RateLimited),
        (500, errors.ProviderUnavailable),
        (None, errors.ProviderUnavailable),
    ],
)
async def test_a_vendors_failure_is_the_typed_error_with_the_call_counted(
    status: int | None, expected: type[errors.AixgoError]
):
    agent, _ = wrapped(Vendor(status))
    async with running(agent) as runtime:
        with pytest.raises(expected) as caught:
            await runtime.call("helper", "x")
    assert type(caught.value) is expected
    assert caught.value.retry_after == 7
    assert (caught.value.usage.llm_calls, caught.value.usage.cost_usd) == (1, 0)
    assert ("hunter2" in caught.value.message) == (status != 401)


async def test_what_was_spent_before_a_failure_is_counted():
    agent, _ = wrapped(uses(a=1, b=2), Vendor(500))
    async with running(agent) as runtime:
        with pytest.raises(errors.ProviderUnavailable) as caught:
            await runtime.call("helper", "x")
    assert (caught.value.usage.prompt_tokens, caught.value.usage.llm_calls) == (100, 2)


async def test_the_recursion_limit_is_a_limit():
    agent, _ = wrapped(*[uses(a=1, b=2)] * 9, recursion_limit=5)
    async with running(agent) as runtime:
        with pytest.raises(errors.LimitExceeded, match="Recursion limit of 5"):
            await runtime.call("helper", "x")


async def test_a_spent_grant_stops_the_graph_before_its_next_llm_call():
    agent, oracle = wrapped(*[uses(a=1, b=2)] * 9)
    async with running(agent) as runtime:
        with pytest.raises(BudgetExceeded) as caught:
            await runtime.call("helper", "x", options=CallOptions(max_tokens=300))
    assert len(oracle.asked) == 3
    assert caught.value.usage.total_tokens == 330


async def test_the_deadline_cancels_the_model_and_counts_the_call():
    agent, oracle = wrapped(None)
    async with running(agent) as runtime:
        with pytest.raises(DeadlineExceeded) as caught:
            await runtime.call("helper", "some words", timeout=0.2)
    assert oracle.stopped
    assert (caught.value.usage.llm_calls, caught.value.usage.incomplete) == (1, True)


async def test_leaving_the_stream_cancels_the_model_and_writes_nothing():
    agent, oracle = wrapped(None, "hello")
    above = root()
    async with running(agent) as runtime:
        with entered(above):
            async with runtime.stream("helper", Message("one", session_id="s")) as events:
                async for event in events:
                    assert isinstance(event, Delta)
                    break
            await eventually(lambda: bool(oracle.stopped))
            await eventually(lambda: above.ledger.usage.llm_calls == 1)
        await runtime.call("helper", Message("two", session_id="s"))
    assert above.ledger.usage.incomplete
    assert oracle.texts(1) == [("human", "two")]


async def test_a_graph_that_asks_a_person_says_that_a_call_cannot():
    def ask(state: MessagesState) -> Any:
        return {"messages": [interrupt({"question": "really?"})]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    agent = LangGraphAgent.wrap(graph.compile(checkpointer=InMemorySaver()), "helper")
    async with running(agent) as runtime:
        with pytest.raises(NotSupported) as caught:
            await runtime.call("helper", "x")
    assert caught.value.fields["interrupts"] == [{"question": "really?"}]


async def test_a_graph_below_a_graph_is_counted_once():
    inner, _ = wrapped("inner")
    inner.name = "inner"

    async def delegate(state: MessagesState) -> Any:
        reply = await outer.runtime.call("inner", "go")
        return {"messages": [AIMessage(reply.text)]}

    graph = StateGraph(MessagesState)
    graph.add_node("delegate", delegate)
    graph.add_edge(START, "delegate")
    outer = LangGraphAgent.wrap(graph.compile(), "helper")
    async with running(inner, outer) as runtime:
        reply = await runtime.call("helper", "x")
    assert (reply.payload, reply.usage.llm_calls) == ("inner", 1)


async def test_calls_of_nodes_that_block_are_counted_too():
    oracle = Oracle(answers=["hello"])

    def ask(state: MessagesState) -> Any:
        return {"messages": [oracle.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", ask)
    graph.add_edge(START, "ask")
    agent = LangGraphAgent.wrap(graph.compile(), "helper", prices=PRICES)
    async with running(agent) as runtime:
        reply = await runtime.call("helper", "x")
    assert (reply.payload, reply.usage.total_tokens) == ("hello", 110)


def answers() -> Iterator[AIMessage]:
    while True:
        yield AIMessage("from YAML")


OF_THIS_FILE = graph_of(GenericFakeChatModel(messages=answers()))
NOT_COMPILED = StateGraph(MessagesState)
YAML = "version: 2\nagents:\n  - name: a\n    role: aixgo.adapters.langgraph:LangGraphAgent\n    config: "


async def test_it_is_made_from_yaml():
    (agent,) = build_agents(loads(f"{YAML}{{graph: '{__name__}:OF_THIS_FILE', idempotent: true}}\n"))
    assert agent.idempotent
    async with running(agent) as runtime:
        assert (await runtime.call("a", "x")).payload == "from YAML"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{}", "config.graph: '' is no import path"),
        (f"{{graph: '{__name__}:NOT_COMPILED'}}", "is a StateGraph, no compiled graph; call .compile()"),
        (f"{{graph: '{__name__}:OF_THIS_FILE', grap: x}}", "did you mean 'graph'?"),
    ],
)
def test_what_cannot_be_made_from_yaml_is_told(config: str, told: str):
    with pytest.raises(ConfigError) as caught:
        build_agents(loads(f"{YAML}{config}\n"))
    assert told in caught.value.message


@pytest.mark.parametrize("key", ["model", "prompt"])
def test_what_the_graph_has_itself_is_refused(key: str):
    spec = AgentSpec.model_validate({"name": "a", "role": "langgraph", key: "x/y"})
    with pytest.raises(ConfigError, match=f"agents.a.{key}: the graph has its own"):
        LangGraphAgent(spec, wrapped=OF_THIS_FILE)
