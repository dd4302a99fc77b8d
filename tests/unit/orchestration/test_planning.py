"""The pattern planning: plans are carried out as their needs allow, and made anew when a step fails."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aixgo.agent import Agent, agent
from aixgo.agents.llm import LLMAgent
from aixgo.agents.planner import PlannerAgent
from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.config.spec import AgentSpec
from aixgo.errors import (
    AgentFailed,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    InvalidReply,
    PlanFailed,
    ProviderRejected,
)
from aixgo.events import Delta, Event, MemberFinished, MemberStarted, Result
from aixgo.llm.contract import CompletionRequest
from aixgo.llm.models import Models, ModelSettings
from aixgo.message import Message
from aixgo.orchestration.base import Limits
from aixgo.orchestration.catalog import build
from aixgo.orchestration.planning import Planning
from aixgo.resources import Resources
from aixgo.runtime.contract import CallOptions
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given, settings
from hypothesis import strategies as st


class Worker(Agent):
    """Answers its name around the payload; keeps what it was asked."""

    def __init__(self, name: str, *errors: Exception | None, payload: Any = None) -> None:
        self.name, self.errors, self.payload = name, list(errors), payload
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return Message(self.payload if self.payload is not None else f"{self.name}({message.text})")


class Planner(Agent):
    """Answers the plans that the test writes, one by one; keeps what it was asked."""

    name = "planner"

    def __init__(self, *plans: Any) -> None:
        self.plans = list(plans)
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        plan = self.plans.pop(0)
        if isinstance(plan, Exception):
            raise plan
        return Message(plan)


def step(name: str, agent: str, task: str = "do it", *needs: str) -> dict[str, Any]:
    return {"id": name, "agent": agent, "task": task, "needs": list(needs)}


def plan(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"steps": list(steps)}


async def run(orchestrator: Planning, *agents: Agent, content: Any = "the task", **options: Any) -> Message:
    async with running(*agents, orchestrator) as runtime:
        return await runtime.call(orchestrator.name, content, options=CallOptions(**options))


async def stream(orchestrator: Planning, *agents: Agent) -> list[Event]:
    async with running(*agents, orchestrator) as runtime, runtime.stream(orchestrator.name, "the task") as events:
        return [event async for event in events]


# carrying out a plan


async def test_steps_get_the_results_that_they_refer_to_and_the_last_one_is_the_reply() -> None:
    planner = Planner(plan(step("z", "b", "B of {step.x}"), step("x", "a", "A")))
    a, b = Worker("a"), Worker("b")
    reply = await run(Planning("p", [a, b], planner), content=Message("the task", {"tenant": "t"}, session_id="s"))
    assert reply.payload == "b(B of a(A))"
    assert reply.metadata["plan"] == [step("z", "b", "B of {step.x}", "x"), step("x", "a", "A")]
    assert reply.metadata["step_results"] == {"z": "b(B of a(A))", "x": "a(A)"}
    assert (reply.metadata["step_count"], reply.metadata["replans"]) == (2, 0)
    assert (reply.metadata["pattern"], reply.metadata["agent_count"]) == ("planning", 2)
    asked = b.asked[0]
    assert asked.metadata == {"tenant": "t", "task": "the task", "step": "z", "step_results": {"x": "a(A)"}}
    assert asked.session_id == "s"


async def test_the_planner_is_told_the_task_its_agents_and_the_schema() -> None:
    planner = Planner(plan(step("x", "a")))
    await run(
        Planning("p", ["a", "b"], planner, descriptions={"a": "knows tea"}, max_steps=7), Worker("a"), Worker("b")
    )
    asked = planner.asked[0]
    assert asked.text.startswith("the task\n")
    assert "- a: knows tea\n- b\n" in asked.text
    assert "at most 7 steps" in asked.text
    assert (asked.metadata["task"], asked.metadata["agents"]) == ("the task", {"a": "knows tea", "b": ""})
    schema = asked.metadata["response_schema"]
    assert schema["$defs"]["Step"]["properties"]["agent"]["enum"] == ["a", "b"]
    assert schema["properties"]["steps"]["maxItems"] == 7
    assert "done" not in asked.metadata


async def test_a_plan_that_cannot_be_carried_out_is_told_to_the_planner() -> None:
    planner = Planner(plan(step("x", "a", "t", "nope"), step("x", "c")), plan(step("x", "a")))
    reply = await run(Planning("p", ["a"], planner), Worker("a"))
    assert reply.payload == "a(do it)"
    assert "steps.1.agent: Input should be 'a'" in planner.asked[1].text
    planner = Planner(*[plan(step("x", "a", "t", "nope"))] * 2)
    with pytest.raises(InvalidReply, match=r"asked 2 times .* step 'x' needs 'nope', which is no step"):
        await run(Planning("p", ["a"], planner), Worker("a"))


async def test_several_last_steps_become_an_object_of_their_payloads() -> None:
    planner = Planner(
        plan(step("n", "number"), step("b", "data"), step("t", "text", "from {step.s}"), step("s", "text"))
    )
    reply = await run(
        Planning("p", ["number", "data", "text"], planner),
        *(Worker("number", payload=3), Worker("data", payload=b"\xff"), Worker("text")),
        content=Message("go", session_id="s1"),
    )
    assert reply.payload == {"n": 3, "b": "/w==", "t": "text(from text(do it))"}
    assert reply.session_id == "s1"


async def test_a_synthesizer_gets_the_task_and_all_results() -> None:
    planner, end = Planner(plan(step("x", "a", "A"), step("y", "a", "B"))), Worker("end", payload="the end")
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    message = Message("the task", {"response_schema": schema, "handoffs": {"q": ""}})
    a = Worker("a")
    reply = await run(Planning("p", [a], planner, synthesizer=end), content=message)
    assert (reply.payload, reply.metadata["step_count"]) == ("the end", 2)
    asked = end.asked[0]
    assert asked.text.startswith("the task\n")
    assert "x (a): A\na(A)" in asked.text
    assert "y (a): B\na(B)" in asked.text
    assert asked.metadata["step_results"] == {"x": "a(A)", "y": "a(B)"}
    assert (asked.metadata["response_schema"], asked.metadata["handoffs"]) == (schema, {"q": ""})
    assert all(not {"response_schema", "handoffs"} & set(each.metadata) for each in a.asked)
    assert "handoffs" not in planner.asked[0].metadata


async def test_without_one_the_only_last_step_answers_by_the_schema_that_the_caller_gave() -> None:
    planner, a = Planner(plan(step("x", "a", "A"), step("y", "a", "B {step.x}"))), Worker("a")
    await run(Planning("p", [a], planner), content=Message("t", {"response_schema": {"type": "object"}}))
    assert ["response_schema" in each.metadata for each in a.asked] == [False, True]


async def test_each_request_has_an_id_of_its_own_so_that_sessions_keep_all_of_them() -> None:
    planner, a = Planner(plan(step("x", "a"), step("y", "a"))), Worker("a")
    message = Message("the task", session_id="s")
    await run(Planning("p", [a], planner, synthesizer=a), content=message)
    ids = [message.id, planner.asked[0].id, *(each.id for each in a.asked)]
    assert len(set(ids)) == len(ids) == 5


class Gates:
    """Workers that say when they begin and wait until they are let go."""

    def __init__(self, *names: str) -> None:
        self.begun: list[str] = []
        self.change = asyncio.Event()
        self.gates = {name: asyncio.Event() for name in names}
        self.workers = [self._worker(name) for name in names]

    def _worker(self, name: str) -> Agent:
        @agent(name=name)
        async def waits(message: Message) -> str:
            self.begun.append(name)
            self.change.set()
            await self.gates[name].wait()
            return name

        return waits

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(10):
            while set(self.begun) != set(names):
                self.change.clear()
                await self.change.wait()


async def test_independent_steps_overlap_and_a_step_begins_once_its_own_needs_are_done() -> None:
    gates = Gates("a", "b", "c", "d")
    planner = Planner(plan(step("1", "a"), step("2", "b"), step("3", "c", "t", "1"), step("4", "d", "t", "2", "3")))
    async with running(Planning("p", gates.workers, planner)) as runtime:
        call = asyncio.create_task(runtime.call("p", "x"))
        await gates.until("a", "b")
        gates.gates["a"].set()
        await gates.until("a", "b", "c")
        gates.gates["c"].set()
        gates.gates["b"].set()
        await gates.until("a", "b", "c", "d")
        gates.gates["d"].set()
        assert (await call).payload == "d"


async def test_only_so_many_steps_run_at_once_and_those_that_wait_for_needs_take_no_room() -> None:
    gates = Gates("a", "b", "c")
    planner = Planner(plan(step("3", "c", "t", "1"), step("1", "a"), step("2", "b")))
    async with running(Planning("p", gates.workers, planner, concurrency=1)) as runtime:
        call = asyncio.create_task(runtime.call("p", "x"))
        await gates.until("a")
        gates.gates["a"].set()
        await gates.until("a", "b")
        gates.gates["b"].set()
        await gates.until("a", "b", "c")
        gates.gates["c"].set()
        assert (await call).payload == {"2": "b", "3": "c"}


async def test_a_step_that_ends_makes_room_for_one_more() -> None:
    gates = Gates("a", "b", "c", "d")
    planner = Planner(plan(*(step(name, name) for name in "abcd")))
    async with running(Planning("p", gates.workers, planner, concurrency=2)) as runtime:
        call = asyncio.create_task(runtime.call("p", "x"))
        await gates.until("a", "b")
        gates.gates["a"].set()
        await gates.until("a", "b", "c")
        for _ in range(20):  # as long as the fourth could begin, which may not
            await asyncio.sleep(0)
        assert sorted(gates.begun) == ["a", "b", "c"]
        for gate in gates.gates.values():
            gate.set()
        await call


# a failure in the middle


async def test_after_a_failure_the_planner_plans_what_is_left_from_what_stands() -> None:
    planner = Planner(
        plan(step("x", "a", "A"), step("y", "bad", "B {step.x}"), step("z", "a", "C {step.y}")),
        plan(step("y", "a", "B again {step.x}")),
    )
    a, bad = Worker("a"), Worker("bad", ValueError("no"))
    reply = await run(Planning("p", [a, bad], planner))
    assert reply.payload == "a(B again a(A))"
    assert (reply.metadata["replans"], reply.metadata["step_count"]) == (1, 2)
    assert [each["id"] for each in reply.metadata["plan"]] == ["x", "y"]
    assert [each.text for each in a.asked] == ["A", "B again a(A)"]
    asked = planner.asked[1]
    assert asked.metadata["done"] == {"x": {"agent": "a", "task": "A", "result": "a(A)"}}
    assert asked.metadata["failed"] == {
        "y": {"agent": "bad", "task": "B {step.x}", "class": "AgentFailed",
              "message": "agent 'bad' raised ValueError: no"},
    }  # fmt: skip
    assert "- x (a): A\n  Result: a(A)" in asked.text
    assert "- y (bad): B {step.x}\n  AgentFailed: agent 'bad' raised ValueError: no" in asked.text


async def test_steps_that_run_when_another_fails_come_to_their_end_and_no_new_ones_begin() -> None:
    gates = Gates("slow", "later")
    fails = Worker("fails", ValueError("no"))
    first = plan(step("1", "slow"), step("2", "fails"), step("3", "later", "t", "1"))
    planner = Planner(first, plan(step("4", "fails", "use {step.1}")))
    async with running(Planning("p", [*gates.workers, fails], planner)) as runtime:
        call = asyncio.create_task(runtime.call("p", "x"))
        await gates.until("slow")
        gates.gates["slow"].set()
        assert (await call).payload == "fails(use slow)"
    assert gates.begun == ["slow"]


async def test_a_new_plan_without_steps_says_that_what_is_done_is_enough() -> None:
    planner = Planner(plan(step("x", "a", "A"), step("y", "bad")), plan())
    reply = await run(Planning("p", ["a", "bad"], planner), Worker("a"), Worker("bad", ValueError("no")))
    assert (reply.payload, reply.metadata["replans"]) == ("a(A)", 1)
    planner = Planner(plan(step("x", "a", "A"), step("y", "bad", "B {step.x}")), plan())
    reply = await run(Planning("p", ["a", "bad"], planner), Worker("a"), Worker("bad", ValueError("no")))
    assert reply.payload == "a(A)"


async def test_when_new_plans_fail_too_the_error_says_the_step_and_what_is_done() -> None:
    planner = Planner(
        plan(step("x", "a"), step("y", "bad")),
        plan(step("y2", "bad")),
        plan(step("y3", "bad", "t", "x"), step("w", "a")),
    )
    bad = Worker("bad", *[ValueError("no")] * 3)
    with pytest.raises(PlanFailed, match=r"step 'y3' \(bad\) failed after 2 new plans: AgentFailed: .* no") as caught:
        await run(Planning("p", ["a", "bad"], planner), Worker("a"), bad)
    assert caught.value.fields == {
        "step": "y3",
        "errors": {"y3": {"agent": "bad", "class": "AgentFailed", "message": "agent 'bad' raised ValueError: no"}},
        "done": ["x", "w"],
    }
    assert isinstance(caught.value.__cause__, AgentFailed)
    assert len(planner.asked) == 3


async def test_no_new_plan_is_asked_for_where_none_is_allowed() -> None:
    planner = Planner(plan(step("x", "bad")))
    with pytest.raises(PlanFailed, match="after 0 new plans"):
        await run(Planning("p", ["bad"], planner, max_replans=0), Worker("bad", ValueError("no")))


async def test_a_planner_that_makes_no_new_plan_is_told_beside_the_step_that_failed() -> None:
    planner = Planner(plan(step("x", "bad")), ValueError("tired"))
    with pytest.raises(PlanFailed, match=r"step 'x' .* raised ValueError: no; the planner made no new plan: .* tired"):
        await run(Planning("p", ["bad"], planner), Worker("bad", ValueError("no")))


async def test_a_planner_that_fails_at_first_is_raised_as_itself() -> None:
    with pytest.raises(AgentFailed, match="tired"):
        await run(Planning("p", ["a"], Planner(ValueError("tired"))), Worker("a"))


@pytest.mark.parametrize("where", ["step", "planner"])
async def test_a_spent_budget_ends_it_as_itself(where: str) -> None:
    spent = BudgetExceeded("spent")
    planner = Planner(plan(step("x", "bad")), spent) if where == "planner" else Planner(plan(step("x", "bad")))
    with pytest.raises(BudgetExceeded):
        await run(Planning("p", ["bad"], planner), Worker("bad", ValueError("no") if where == "planner" else spent))


# models


def llm(name: str, model: ScriptedModel) -> LLMAgent:
    return LLMAgent(AgentSpec(name=name, role="llm", model=("test/m",)), models=scripted_models(m=model))


async def test_the_usage_of_what_ran_is_counted_when_it_succeeds_and_when_it_fails() -> None:
    answers: list[Any] = [plan(step("x", "w"), step("y", "w", "t", "x")), "one", ProviderRejected("no")]
    model = ScriptedModel(answers)
    orchestrator = Planning("p", [llm("w", model)], llm("lead", model), max_replans=0)
    with pytest.raises(PlanFailed) as caught:
        await run(orchestrator)
    assert caught.value.usage.llm_calls >= 2
    assert caught.value.usage.completion_tokens >= 2
    model = ScriptedModel([plan(step("x", "w"), step("y", "w", "t {step.x}")), "one", "two three"])
    reply = await run(Planning("p", [llm("w", model)], llm("lead", model)))
    assert (reply.payload, reply.usage.llm_calls) == ("two three", 3)
    assert reply.metadata["tokens_total"] == reply.usage.total_tokens


async def test_steps_in_a_row_have_the_whole_budget_each_and_steps_side_by_side_a_share() -> None:
    left: dict[str, int | None] = {}

    def seen(name: str) -> Agent:
        @agent(name=name)
        async def looks(message: Message) -> str:
            from aixgo import call as ambient

            state = ambient.current()
            assert state is not None
            assert state.budget is not None
            left[name] = state.budget.left()[0]
            return name

        return looks

    planner = Planner(
        plan(step("1", "a"), step("2", "b", "t", "1"), step("3", "c", "t", "1"), step("4", "d", "t", "2", "3"))
    )
    await run(Planning("p", [seen(name) for name in "abcd"], planner, limits=Limits(max_tokens=1000)))
    assert left == {"a": 1000, "b": 500, "c": 500, "d": 1000}


async def test_the_roles_planner_and_llm_plan_for_it() -> None:
    def answer(request: CompletionRequest) -> Any:
        if request.schema is None:
            return f"did {request.messages[-1].content.split()[0]}" if "think" not in str(request.messages) else "hm"
        return plan(step("x", "w", "alpha"), step("y", "w", "beta {step.x}"))

    for lead in ("llm", "planner"):
        models = scripted_models(m=ScriptedModel(answer))
        spec = AgentSpec(name="lead", role=lead, model=("test/m",))
        made: Agent = LLMAgent(spec, models=models) if lead == "llm" else PlannerAgent(spec, models=models)
        reply = await run(Planning("p", [llm("w", ScriptedModel(answer))], made))
        assert reply.payload == "did beta"


# limits, YAML


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"workers": []}, "planning 'p' has no workers; name at least one"),
        ({"max_steps": 0}, "max_steps of planning 'p' is 0; pass 1 to 1000"),
        ({"max_steps": 1001}, "max_steps of planning 'p' is 1001; pass 1 to 1000"),
        ({"max_replans": -1}, "max_replans of planning 'p' is -1; pass 1 to 10, or raise limits.max_iterations"),
        ({"max_replans": 11}, "max_replans of planning 'p' is 11; pass 1 to 10, or raise limits.max_iterations"),
        ({"concurrency": 0}, "concurrency of planning 'p' is 0; pass 1 or more, or leave it out"),
        (
            {"descriptions": {"writr": ""}},
            "planning 'p': descriptions.writr: there is no such worker; did you mean 'writer'?",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_made(more: dict[str, Any], text: str) -> None:
    arguments: dict[str, Any] = {"workers": ["writer"], **more}
    with pytest.raises(InvalidInput) as caught:
        Planning("p", arguments.pop("workers"), "planner", **arguments)
    assert caught.value.message == text


async def test_an_unnamed_worker_is_planned_for_by_the_name_that_it_gets() -> None:
    planner = Planner(plan(step("x", "p/0")))
    inner = Planning("", ["a"], inner_planner := Planner(plan(step("i", "a"))))
    inner_planner.name = "inner-planner"
    reply = await run(Planning("p", [inner], planner, descriptions={"p/0": "plans more"}), Worker("a"))
    assert planner.asked[0].metadata["agents"] == {"p/0": "plans more"}
    assert reply.metadata["plan"] == [step("x", "p/0")]


def test_yaml_names_its_parts() -> None:
    config = {"planner": "lead", "synthesizer": "end", "max_steps": 5, "max_replans": 1, "concurrency": 2}
    made = build("planning", "p", ["a", "b"], {**config, "descriptions": {"a": "A"}}, Limits(max_agents=9))
    assert (made.agents, made.agent_count, made.limits) == (("a", "b", "lead", "end"), 2, Limits(max_agents=9))
    for wrong, text in [
        ({"planer": "x"}, "config.planer is not known; did you mean 'planner'?"),
        ({}, "config.planner"),
    ]:
        with pytest.raises(ConfigError, match=text):
            build("planning", "p", ["a"], wrong, Limits())
    with pytest.raises(ConfigError, match="has no `agents`"):
        build("planning", "p", [], {"planner": "lead"}, Limits())


async def test_a_file_answers_the_same(tmp_path: Path) -> None:
    steps = json.dumps(plan(step("x", "w", "alpha"), step("y", "w", "beta {step.x}")))
    (tmp_path / "script.yaml").write_text(f"- when: {{asks: steps}}\n  json: {steps}\n- text: did {{user}}\n")
    (tmp_path / "aixgo.yaml").write_text(
        "version: 2\n"
        "agents:\n"
        "  - {name: lead, role: planner, model: 'test/script:script.yaml'}\n"
        "  - {name: w, role: llm, model: 'test/script:script.yaml'}\n"
        "orchestration:\n"
        "  {name: p, pattern: planning, agents: [w], config: {planner: lead, max_steps: 3}}\n"
    )
    models = Models(ModelSettings(), folder=tmp_path)
    agents = build_agents(load(tmp_path / "aixgo.yaml"), Resources(models=models))
    async with running(*agents) as runtime:
        reply = await runtime.call("p", "the task")
    assert reply.payload == "did beta did alpha"


# laws


@st.composite
def graphs(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Plans without circles, their steps in any order."""
    count = draw(st.integers(1, 8))
    steps = [
        step(f"s{n}", draw(st.sampled_from("abc")), f"t{n}", *(f"s{i}" for i in range(n) if draw(st.booleans())))
        for n in range(count)
    ]
    return draw(st.permutations(steps))


@settings(max_examples=60, deadline=None)
@given(graphs(), st.none() | st.integers(1, 3), st.data())
def test_each_step_runs_once_and_after_its_needs(
    steps: list[dict[str, Any]], concurrency: int | None, data: st.DataObject
) -> None:
    pauses = {each["task"]: data.draw(st.integers(0, 3)) for each in steps}
    begun: list[str] = []
    ended: list[str] = []
    most = [0]

    def worker(name: str) -> Agent:
        @agent(name=name)
        async def works(message: Message) -> str:
            begun.append(message.metadata["step"])
            most.append(len(begun) - len(ended))
            assert set(message.metadata["step_results"]) <= set(ended)
            for _ in range(pauses[message.text]):
                await asyncio.sleep(0)
            ended.append(message.metadata["step"])
            return message.text

        return works

    reply = asyncio.run(
        run(Planning("p", [worker(name) for name in "abc"], Planner(plan(*steps)), concurrency=concurrency))
    )
    assert sorted(begun) == sorted(each["id"] for each in steps)
    assert max(most) <= (concurrency or len(steps))
    assert reply.metadata["step_results"] == {each["id"]: each["task"] for each in steps}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=5), st.integers(0, 3))
def test_at_most_so_many_new_plans_are_asked_for(plans: list[list[bool]], max_replans: int) -> None:
    """Each plan has steps that succeed or fail; what is not asked for any more is not needed."""
    agents: Mapping[bool, str] = {True: "good", False: "bad"}
    made = [
        plan(*(step(f"p{number}-{at}", agents[ok]) for at, ok in enumerate(steps)))
        for number, steps in enumerate(plans)
    ]
    planner = Planner(*made, *[plan(step("last", "good"))] * 5)
    bad = Worker("bad", *[ValueError("no")] * 100)
    call: Callable[[], Any] = lambda: asyncio.run(  # noqa: E731  # called in two ways below
        run(Planning("p", ["good", "bad"], planner, max_replans=max_replans), Worker("good"), bad)
    )
    failing = next((number for number, steps in enumerate(plans) if all(steps)), len(plans))
    if failing <= max_replans:
        assert call().metadata["replans"] == failing
        assert len(planner.asked) == failing + 1
    else:
        with pytest.raises(PlanFailed):
            call()
        assert len(planner.asked) == max_replans + 1


# streaming, spans, cancellation


async def test_it_streams_its_members_with_their_paths_and_one_result() -> None:
    model = ScriptedModel([plan(step("x", "w"), step("y", "w", "t", "x")), "one two", "three"])
    events = await stream(Planning("p", [llm("w", model)], llm("lead", model)))
    shown = [(type(event).__name__, event.path) for event in events if not isinstance(event, Delta)]
    assert shown == [
        ("MemberStarted", ("p", "lead")), ("MemberFinished", ("p", "lead")),
        ("MemberStarted", ("p", "w")), ("MemberFinished", ("p", "w")),
        ("MemberStarted", ("p", "w")), ("MemberFinished", ("p", "w")),
        ("Result", ("p",)),
    ]  # fmt: skip
    assert [event.text for event in events if isinstance(event, Delta)] == ["one ", "two", "three"]
    assert all(event.path == ("p", "w") for event in events if isinstance(event, Delta))


async def test_a_member_that_fails_is_finished_in_the_stream_too() -> None:
    events = await stream(
        Planning("p", ["bad"], Planner(plan(step("x", "bad")), plan(step("y", "bad")))), Worker("bad", ValueError("no"))
    )
    ends = [event.error for event in events if isinstance(event, MemberFinished) and event.path[-1] == "bad"]
    assert [type(error) for error in ends] == [AgentFailed, type(None)]
    assert sum(isinstance(event, MemberStarted) for event in events) == 4
    assert isinstance(events[-1], Result)


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelling_it_leaves_no_task(streaming: bool) -> None:
    gates = Gates("a", "b")
    orchestrator = Planning("p", gates.workers, Planner(plan(step("1", "a"), step("2", "b"))))
    async with running(orchestrator) as runtime:
        before = asyncio.all_tasks()

        async def consume() -> None:
            async with runtime.stream("p", "x") as events:
                async for _ in events:
                    pass

        call = asyncio.create_task(consume() if streaming else _ignored(runtime.call("p", "x")))
        await gates.until("a", "b")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        left = asyncio.all_tasks() - before
        if left:
            await asyncio.wait(left, timeout=10)
        assert asyncio.all_tasks() - before == set()


async def _ignored(call: Any) -> None:
    await call


async def test_its_time_limit_ends_it_and_its_steps() -> None:
    gates = Gates("a")
    with pytest.raises(DeadlineExceeded):
        await run(Planning("p", gates.workers, Planner(plan(step("1", "a"))), limits=Limits(timeout=0.05)))


async def test_time_that_is_up_while_some_steps_are_done_leaves_none_for_a_new_plan() -> None:
    planner = Planner(plan(step("1", "quick"), step("2", "a")))
    with pytest.raises(DeadlineExceeded):
        await run(Planning("p", ["quick", *Gates("a").workers], planner, limits=Limits(timeout=0.3)), Worker("quick"))
    assert len(planner.asked) == 1


PROGRAM = """
import asyncio, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aixgo import LocalRuntime, Planning, agent
memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)
plans = json.loads(sys.argv[1])

@agent
async def planner(message):
    return plans.pop(0)

@agent
async def good(message):
    return "y"

@agent
async def bad(message):
    raise ValueError("no")

async def main():
    runtime = LocalRuntime()
    runtime.register(Planning("o", [good, bad], planner))
    await runtime.call("o", "x")

asyncio.run(main())
spans = memory.get_finished_spans()
names = {span.context.span_id: span.name for span in spans}
print(json.dumps([[s.name, names.get(s.parent.span_id) if s.parent else None, s.status.is_ok, dict(s.attributes)]
                  for s in spans]))
"""


def test_its_spans_count_steps_and_new_plans() -> None:
    plans: Sequence[Any] = [plan(step("x", "good"), step("y", "bad", "t", "x")), plan(step("z", "good", "t", "x"))]
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(plans)]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    seen = {name: rest for name, *rest in json.loads(ran.stdout)}
    assert seen["orchestration.planning"] == [
        "invoke_agent o", True,
        {"pattern": "planning", "orchestrator": "o", "agent_count": 2, "planning.steps": 2, "planning.replans": 1,
         "tokens.total": 0},
    ]  # fmt: skip
    assert seen["step.1.good"][:2] == ["orchestration.planning", True]
    assert seen["step.2.bad"][:2] == ["orchestration.planning", False]
    assert seen["step.2.good"][:2] == ["orchestration.planning", True]
