"""Agents of Pydantic AI and LangGraph behind `aixgo serve`, called from another process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from aixgo import Delta, DistributedRuntime, Message, Sequential
from aixgo.errors import DeadlineExceeded, RateLimited
from aixgo.events import ToolCall

from tests.integration.serving import served
from tests.support import eventually

TIMEOUT = 30.0
AGENTS = '''\
"""Agents of other frameworks, without a network."""

import asyncio
from pathlib import Path

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel

weather = Agent(TestModel(custom_output_text="It will rain."))


@weather.tool_plain
def forecast(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


def refuse(messages, info):
    raise ModelHTTPError(429, "gpt-x", "slow down", headers={"retry-after": "7"})


refusing = Agent(FunctionModel(refuse))


def replies():
    while True:
        yield AIMessage("Take an umbrella")


model = GenericFakeChatModel(messages=replies())


async def advise(state: MessagesState):
    return {"messages": [await model.ainvoke(state["messages"])]}


async def wait(state: MessagesState):
    Path("waiting").write_text("")
    try:
        await asyncio.Event().wait()
    finally:
        Path("cancelled").write_text("")


def graph_of(node):
    graph = StateGraph(MessagesState)
    graph.add_node("node", node)
    graph.add_edge(START, "node")
    return graph.compile()


advice = graph_of(advise)
waiting = graph_of(wait)
'''
FILE = """\
version: 2
pricing: {genericfakechatmodel/: {prompt: 1, completion: 1}}
agents:
  - {name: weather, role: "aixgo.adapters.pydantic_ai:PydanticAIAgent", config: {agent: "other_frameworks:weather"}}
  - {name: refusing, role: "aixgo.adapters.pydantic_ai:PydanticAIAgent", config: {agent: "other_frameworks:refusing"}}
  - {name: advice, role: "aixgo.adapters.langgraph:LangGraphAgent", config: {graph: "other_frameworks:advice"}}
  - {name: waiting, role: "aixgo.adapters.langgraph:LangGraphAgent", config: {graph: "other_frameworks:waiting"}}
"""
NAMES = ("weather", "refusing", "advice", "waiting")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a process that serves the agents of FILE, and its folder."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "other_frameworks.py").write_text(AGENTS)
    (folder / "mesh.yaml").write_text(FILE)
    with served(folder / "mesh.yaml", NAMES) as address:
        yield address, folder


@pytest.fixture
async def runtime(place: tuple[str, Path]) -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(control_plane=(), connect=dict.fromkeys(NAMES, place[0])) as runtime:
        yield runtime


async def test_both_are_members_of_a_pattern_like_any_other_agent(runtime: DistributedRuntime):
    runtime.register(Sequential("plan", ["weather", "advice"]))
    async with runtime.stream("plan", Message("Where?", session_id="s"), timeout=TIMEOUT) as events:
        seen = [event async for event in events]
    assert events.result is not None
    assert events.result.text == "Take an umbrella"
    texts = {
        name: "".join(event.text for event in seen if isinstance(event, Delta) and event.path == ("plan", name))
        for name in ("weather", "advice")
    }
    assert texts == {"weather": "It will rain.", "advice": "Take an umbrella"}
    uses = [event for event in seen if isinstance(event, ToolCall)]
    assert [(use.name, use.done, use.path) for use in uses] == [
        ("forecast", False, ("plan", "weather")),
        ("forecast", True, ("plan", "weather")),
    ]
    assert events.result.usage.llm_calls == 3


async def test_the_prices_of_the_file_are_used(runtime: DistributedRuntime):
    usage = (await runtime.call("advice", "1234", timeout=TIMEOUT)).usage
    assert (usage.cost_usd, usage.incomplete) == (Decimal(usage.total_tokens) / 1000, True)


async def test_errors_keep_their_class_and_what_belongs_to_them(runtime: DistributedRuntime):
    with pytest.raises(RateLimited) as caught:
        await runtime.call("refusing", "x", timeout=TIMEOUT)
    assert (caught.value.retry_after, caught.value.agent_path) == (7.0, ("refusing",))
    assert caught.value.usage.llm_calls == 1


async def test_the_deadline_reaches_the_node_of_a_graph(runtime: DistributedRuntime, place: tuple[str, Path]):
    with pytest.raises(DeadlineExceeded):
        await runtime.call("waiting", "x", timeout=2.0)
    await eventually((place[1] / "cancelled").exists)
    assert (place[1] / "waiting").exists()
