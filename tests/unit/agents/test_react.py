"""The role `react`: its loop, its tools and what the model is told, with scripted models in a LocalRuntime."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from aixgo import errors
from aixgo.agents.react import ReActAgent
from aixgo.config.spec import AgentSpec
from aixgo.events import Delta, Result, ToolCall
from aixgo.llm.contract import ChatMessage, ToolUse
from aixgo.message import Message
from aixgo.testing import Reply, ScriptedModel, running, scripted_models
from aixgo.tools import FunctionTool, tool
from aixgo.tools.toolbox import Toolbox

SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def uses(*asked: tuple[str, Mapping[str, Any]], text: str = "") -> Reply:
    return Reply(text, tool_uses=[ToolUse(f"c{at}", name, given) for at, (name, given) in enumerate(asked)])


def react(*replies: Any, tools: Any = (add,), offered: Any = None, **more: Any) -> tuple[ReActAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    names = [one.name for one in tools] if offered is None else offered
    spec = AgentSpec.model_validate({"name": "r", "role": "react", "model": "test/m", "tools": names, **more})
    return ReActAgent(spec, models=scripted_models(m=model), tools=Toolbox(tools)), model


def told(model: ScriptedModel, at: int = -1) -> list[tuple[str, str]]:
    """What the tools said, in the last request or that one."""
    return [(turn.tool_call_id, turn.content) for turn in model.requests[at].messages if turn.role == "tool"]


async def test_tools_are_offered_used_and_their_outputs_fed_back_until_the_model_answers():
    made, model = react(uses(("add", {"a": 1, "b": 2}), text="let me see"), "it is 3", prompt="Compute.")
    async with running(made) as runtime:
        reply = await runtime.call("r", Message("1+2?", session_id="s"))
    assert reply.payload == "it is 3"
    assert reply.session_id == "s"
    assert reply.metadata == {
        "model": "m",
        "stop_reason": "stop",
        "iterations": 2,
        "tool_calls": [{"name": "add", "ok": True}],
    }
    assert reply.usage.llm_calls == 2
    first, second = model.requests
    assert [(offer.name, offer.description) for offer in first.tools] == [("add", "Adds two numbers.")]
    assert first.tools[0].parameters["required"] == ["a", "b"]
    assert [turn.role for turn in first.messages] == ["system", "user"]
    assert second.messages[2:] == (
        ChatMessage("assistant", "let me see", tool_uses=[ToolUse("c0", "add", {"a": 1, "b": 2})]),
        ChatMessage("tool", "3", tool_call_id="c0"),
    )


async def test_tools_of_one_round_run_at_the_same_time_and_are_told_in_the_order_of_asking():
    meeting = asyncio.Barrier(2)

    @tool
    async def first() -> str:
        await meeting.wait()
        return "one"

    @tool
    async def second() -> str:
        await meeting.wait()
        return "two"

    made, model = react(uses(("first", {}), ("second", {})), "done", tools=(first, second))
    async with running(made) as runtime:
        await runtime.call("r", "go", timeout=10)
    assert told(model) == [("c0", "one"), ("c1", "two")]


async def test_no_more_tools_run_at_once_than_parallel_tools_says():
    now, most = 0, 0

    @tool
    async def work() -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0)
        now -= 1

    made, _ = react(uses(*[("work", {})] * 9), "done", tools=(work,), config={"parallel_tools": 3})
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    assert most == 3
    assert len(reply.metadata["tool_calls"]) == 9


async def test_a_tool_that_fails_is_told_to_the_model_and_the_agent_goes_on(caplog: pytest.LogCaptureFixture):
    @tool
    def weather(city: str) -> str:
        raise KeyError(city)

    @tool
    def refuse() -> str:
        raise errors.ToolError("ask for a city instead")

    asked = uses(("weather", {"city": "Atlantis"}), ("refuse", {}), ("wether", {}), ("weather", {"town": 1}))
    made, model = react(asked, "sorry", tools=(weather, refuse))
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    assert reply.payload == "sorry"
    assert reply.metadata["tool_calls"] == [
        {"name": "weather", "ok": False},
        {"name": "refuse", "ok": False},
        {"name": "wether", "ok": False},
        {"name": "weather", "ok": False},
    ]
    first, second, third, fourth = (text for _, text in told(model))
    assert first == "Error: KeyError: 'Atlantis'"
    assert second == "Error: ask for a city instead"
    assert third == "Error: there is no tool 'wether'; did you mean 'weather'?"
    assert fourth.startswith("Error: wrong arguments for tool 'weather': city: Field required")
    assert "Traceback" not in str(model.requests)
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "tool weather raised an exception"
    ]


async def test_a_tool_that_takes_too_long_is_stopped_and_the_others_are_not():
    stopped = asyncio.Event()

    @tool
    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    made, model = react(
        uses(("stuck", {}), ("add", {"a": 1, "b": 1})), "done", tools=(stuck, add), config={"tool_timeout": "50ms"}
    )
    async with running(made) as runtime:
        await runtime.call("r", "go")
    assert stopped.is_set()
    assert told(model) == [("c0", "Error: tool 'stuck' took longer than 0.05 s and was stopped"), ("c1", "2")]


async def test_a_tool_that_times_out_or_cancels_by_itself_is_a_failed_tool():
    @tool
    async def late() -> None:
        raise TimeoutError("upstream")

    @tool
    async def gone() -> None:
        raise asyncio.CancelledError

    made, model = react(uses(("late", {}), ("gone", {})), "done", tools=(late, gone))
    async with running(made) as runtime:
        await runtime.call("r", "go")
    assert [text for _, text in told(model)] == [
        "Error: TimeoutError: upstream",
        "Error: tool 'gone' was cancelled from inside",
    ]


async def test_cancelling_the_call_cancels_the_tools_and_leaves_no_task():
    began, ended = asyncio.Event(), asyncio.Event()

    @tool
    async def long() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    made, _ = react(uses(("long", {})), tools=(long,))
    async with running(made) as runtime:
        call = asyncio.create_task(runtime.call("r", "go"))
        await began.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ended.is_set()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_deadline_of_the_call_ends_the_tools_too():
    ended = asyncio.Event()

    @tool
    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    made, _ = react(uses(("long", {})), tools=(long,))
    async with running(made) as runtime:
        with pytest.raises(errors.DeadlineExceeded):
            await runtime.call("r", "go", timeout=0.05)
    assert ended.is_set()


async def test_leaving_a_stream_early_cancels_the_tools():
    ended = asyncio.Event()

    @tool
    async def long() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    made, _ = react(uses(("long", {})), tools=(long,))
    async with running(made) as runtime:
        async with runtime.stream("r", "go") as events:
            async for event in events:
                assert isinstance(event, ToolCall)
                break
        await asyncio.wait_for(ended.wait(), 10)


async def test_after_max_iterations_the_model_is_asked_once_more_without_tools():
    again = uses(("add", {"a": 1, "b": 2}))
    made, model = react(again, again, "about 3", config={"max_iterations": 2})
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    assert reply.payload == "about 3"
    assert reply.metadata["stopped"] == "max_iterations"
    assert reply.metadata["iterations"] == 3
    last = model.requests[-1]
    assert last.tools == ()
    assert last.messages[-1].role == "user"
    assert "final answer" in last.messages[-1].content
    assert len(told(model)) == 2


async def test_an_answer_in_the_last_round_is_not_called_stopped():
    made, _ = react("at once", config={"max_iterations": 1})
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    assert "stopped" not in reply.metadata
    assert reply.metadata["iterations"] == 1


async def test_streaming_gives_deltas_each_tool_twice_and_then_the_result():
    gate = asyncio.Event()

    @tool
    async def slow() -> str:
        await gate.wait()
        return "slow output"

    @tool
    async def quick(x: int) -> str:
        gate.set()
        raise errors.ToolError("not today")

    made, _ = react(uses(("slow", {}), ("quick", {"x": 1}), text="let me see"), "two words", tools=(slow, quick))
    async with running(made) as runtime, runtime.stream("r", "go", timeout=20) as events:
        seen = [event async for event in events]
    kinds = [type(event).__name__ for event in seen]
    assert kinds == ["Delta", "Delta", "Delta", *["ToolCall"] * 4, "Delta", "Delta", "Result"]
    calls = [event for event in seen if isinstance(event, ToolCall)]
    assert [(call.id, call.name, call.done) for call in calls[:2]] == [("c0", "slow", False), ("c1", "quick", False)]
    ended = {call.name: call for call in calls[2:]}
    assert all(call.done and call.path == ("r",) for call in calls[2:])
    assert (ended["slow"].output, ended["slow"].error) == ("slow output", "")
    assert ended["quick"].arguments == {"x": 1}
    assert (ended["quick"].output, ended["quick"].error) == (None, "not today")
    assert [call.name for call in calls[2:]] == ["quick", "slow"]
    assert "".join(event.text for event in seen if isinstance(event, Delta)) == "let me seetwo words"
    assert isinstance(seen[-1], Result)
    assert seen[-1].message.payload == "two words"
    assert seen[-1].message.usage.llm_calls == 2


async def test_a_long_output_is_cut_and_the_model_is_told_so():
    @tool
    def dump() -> list[str]:
        return ["x" * 50] * 10

    made, model = react(uses(("dump", {})), "done", tools=(dump,), config={"max_tool_output": 100})
    async with running(made) as runtime, runtime.stream("r", "go") as events:
        seen = [event async for event in events]
    text = told(model)[0][1]
    assert text.startswith('["xxx')
    assert "the first 100 of 531 characters are shown" in text
    assert len(text) < 200
    done = [event for event in seen if isinstance(event, ToolCall) and event.done]
    assert done[0].output == text


async def test_an_output_that_is_json_stays_json_in_the_event():
    @tool
    def find() -> dict[str, Any]:
        return {"hits": [1, 2]}

    made, model = react(uses(("find", {})), "done", tools=(find,))
    async with running(made) as runtime, runtime.stream("r", "go") as events:
        seen = [event async for event in events]
    assert [event.output for event in seen if isinstance(event, ToolCall) and event.done] == [{"hits": [1, 2]}]
    assert told(model) == [("c0", '{"hits":[1,2]}')]


async def test_a_function_that_is_not_async_runs_in_a_thread_of_its_own():
    threads: list[int] = []

    @tool
    def where() -> None:
        threads.append(threading.get_ident())

    made, model = react(uses(("where", {})), "done", tools=(where,))
    async with running(made) as runtime:
        await runtime.call("r", "go")
    assert threads != [threading.get_ident()]
    assert told(model) == [("c0", "null")]


async def test_more_uses_than_one_answer_may_have_are_refused_one_by_one():
    made, model = react(uses(*[("add", {"a": 1, "b": 1})] * 70), "done")
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    assert [call["ok"] for call in reply.metadata["tool_calls"]] == [True] * 64 + [False] * 6
    assert told(model)[-1][1] == "Error: at most 64 tools can be used at once; ask again"


async def test_a_tool_call_that_nobody_can_read_is_asked_for_again():
    made, model = react(errors.InvalidCompletion("arguments are no JSON"), uses(("add", {"a": 1, "b": 2})), "3")
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    assert reply.payload == "3"
    assert reply.metadata["iterations"] == 3
    assert "arguments are no JSON" in model.requests[1].messages[-1].content


async def test_a_model_that_never_calls_tools_readably_fails_after_two_repairs():
    made, model = react(*[errors.InvalidCompletion("broken")] * 5)
    async with running(made) as runtime:
        with pytest.raises(errors.InvalidCompletion):
            await runtime.call("r", "go")
    assert len(model.requests) == 3


async def test_the_vendors_error_reaches_the_caller():
    made, _ = react(uses(("add", {"a": 1, "b": 2})), errors.RateLimited("later"))
    async with running(made) as runtime:
        with pytest.raises(errors.RateLimited) as caught:
            await runtime.call("r", "go")
    assert caught.value.usage.llm_calls == 2


async def test_a_final_text_that_is_the_object_asked_for_needs_no_further_question():
    made, model = react(uses(("add", {"a": 1, "b": 2})), '{"sum": 3}')
    async with running(made) as runtime:
        reply = await runtime.call("r", Message("go", {"response_schema": SCHEMA}))
    assert reply.payload == {"sum": 3}
    assert len(model.requests) == 2
    assert model.requests[0].schema is None


async def test_a_final_text_in_words_is_asked_for_as_an_object_by_the_schema():
    made, model = react(uses(("add", {"a": 1, "b": 2})), "it is 3", {"sum": 3})
    async with running(made) as runtime, runtime.stream("r", Message("go", {"response_schema": SCHEMA})) as events:
        seen = [event async for event in events]
    assert [type(event).__name__ for event in seen] == ["ToolCall", "ToolCall", "Result"]
    assert events.result is not None
    assert events.result.payload == {"sum": 3}
    assert events.result.metadata["iterations"] == 3
    last = model.requests[-1]
    assert last.schema == SCHEMA
    assert last.tools == ()
    assert [turn.content for turn in last.messages[-2:]] == [
        "it is 3",
        "Now give your final answer as one JSON object.",
    ]


async def test_without_tools_it_answers_by_the_schema_at_once():
    made, model = react({"sum": 3}, tools=())
    async with running(made) as runtime:
        reply = await runtime.call("r", Message("go", {"response_schema": SCHEMA}))
    assert reply.payload == {"sum": 3}
    assert model.requests[0].schema == SCHEMA


async def test_a_model_may_hand_over_instead_of_using_tools():
    made, model = react(
        uses(("add", {"a": 1, "b": 2}), ("hand_over", {"to": "billing", "reason": "money"}), text="one moment")
    )
    message = Message("refund", {"handoffs": {"billing": "invoices"}, "response_schema": SCHEMA})
    async with running(made) as runtime:
        reply = await runtime.call("r", message)
    assert reply.payload == "one moment"
    assert (reply.metadata["handoff_to"], reply.metadata["handoff_reason"]) == ("billing", "money")
    assert reply.metadata["tool_calls"] == []
    assert [offer.name for offer in model.requests[0].tools] == ["add", "hand_over"]


async def test_a_tool_may_not_be_named_as_the_handing_over_is():
    made, _ = react("x", tools=(FunctionTool(lambda: 1, name="hand_over"),))
    async with running(made) as runtime:
        with pytest.raises(errors.ConfigError, match="kept for handing over"):
            await runtime.call("r", Message("go", {"handoffs": {"billing": ""}}))


async def test_the_conversation_that_comes_along_stands_before_the_message():
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?", "name": "desk"}]
    made, model = react("done")
    async with running(made) as runtime:
        await runtime.call("r", Message("go", {"conversation": turns}))
    assert [turn.content for turn in model.requests[0].messages] == ["hi", "desk: yes?", "go"]


def test_naming_a_tool_that_there_is_not_says_which_there_are():
    with pytest.raises(errors.ConfigError, match=r"^agents\.r\.tools: there is no tool 'ad'; did you mean 'add'\?"):
        react(offered=["ad"])
    with pytest.raises(errors.ConfigError, match=r"^agents\.r\.mcp_servers: there is no MCP server 'files'; none"):
        react(mcp_servers=["files"])


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"max_iterations": 0}, "max_iterations"),
        ({"tool_timeout": 0}, "tool_timeout"),
        ({"parallel_tools": 65}, "parallel_tools"),
        ({"max_tool_outputs": 100}, "max_tool_output"),
    ],
)
def test_a_configuration_that_cannot_be_used_names_the_key(config: dict[str, Any], key: str):
    with pytest.raises(errors.ConfigError, match=rf"agents\.r\.config: .*{key}"):
        react(config=config)


def test_it_is_idempotent_only_when_its_configuration_says_so():
    assert not react()[0].idempotent
    assert react(config={"idempotent": True})[0].idempotent


async def test_with_inputs_and_outputs_it_works_reactively():
    made, _ = react(uses(("add", {"a": 1, "b": 2})), "3", outputs=[{"target": "sink"}])
    got: asyncio.Queue[Message] = asyncio.Queue()

    class Sink(ReActAgent):
        async def start(self) -> None:
            async for delivery in self.runtime.recv():
                async with delivery as message:
                    await got.put(message)

    spec = AgentSpec.model_validate({"name": "sink", "role": "react", "model": "test/m", "outputs": [{"target": "r"}]})
    async with running(made, Sink(spec, models=scripted_models(m=ScriptedModel([])))) as runtime:
        await runtime.send("r", "1+2?")
        assert (await asyncio.wait_for(got.get(), 10)).payload == "3"


async def test_with_a_session_it_remembers_messages_and_answers_but_no_tools():
    made, model = react(uses(("add", {"a": 1, "b": 2})), "it is 3", "3 again")
    async with running(made) as runtime:
        await runtime.call("r", Message("1+2?", session_id="s"))
        async with runtime.stream("r", Message("again?", session_id="s")) as events:
            _ = [event async for event in events]
    assert [turn.content for turn in model.requests[-1].messages] == ["1+2?", "it is 3", "again?"]
