"""The pattern hierarchical: managers assign and sum up, teams work at once, state goes down and up."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aixgo.agent import Agent, agent
from aixgo.agents.llm import LLMAgent
from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.config.spec import AgentSpec
from aixgo.errors import (
    AgentFailed,
    AixgoError,
    AllMembersFailed,
    BudgetExceeded,
    ConfigError,
    DepthExceeded,
    InvalidInput,
    InvalidReply,
    LimitExceeded,
    ProviderRejected,
)
from aixgo.events import Delta, Event, MemberFinished, Result
from aixgo.llm.contract import CompletionRequest
from aixgo.llm.models import Models, ModelSettings
from aixgo.message import Message
from aixgo.orchestration.base import Limits
from aixgo.orchestration.catalog import build
from aixgo.orchestration.hierarchical import Hierarchical
from aixgo.orchestration.levels import MAX_STATE_BYTES
from aixgo.orchestration.parallel import Parallel
from aixgo.resources import Resources
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given, settings
from hypothesis import strategies as st

HIERARCHY, STATE = "hierarchy", "hierarchy_state"


class Worker(Agent):
    """Answers its name around the payload, with the metadata that the test gives; keeps what it was asked."""

    def __init__(self, name: str, error: Exception | None = None, **metadata: Any) -> None:
        self.name, self.error, self.metadata = name, error, metadata
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        if self.error is not None:
            raise self.error
        return Message(f"{self.name}({message.text})", self.metadata)


class Manager(Agent):
    """Answers assignments, those of the test or one for each team, then its name around the summaries."""

    def __init__(self, name: str, *assignments: Any) -> None:
        self.name = name
        self.assignments = list(assignments)
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        if "summaries" in message.metadata:
            told: Mapping[str, str] = message.metadata["summaries"]
            return Message(f"{self.name}[{' '.join(told.values())}]", {"by": self.name})
        if self.assignments:
            return Message(self.assignments.pop(0))
        return Message(assign(*((team, f"do {team}") for team in message.metadata["teams"])))


def assign(*tasks: tuple[str, ...]) -> dict[str, Any]:
    keys = ("to", "task", "manager")
    return {"assignments": [dict(zip(keys, task, strict=False)) for task in tasks]}


async def run(orchestrator: Hierarchical, *agents: Agent, content: Any = "the goal") -> Message:
    async with running(*agents, orchestrator) as runtime:
        return await runtime.call(orchestrator.name, content)


async def stream(orchestrator: Hierarchical, *agents: Agent) -> list[Event]:
    async with running(*agents, orchestrator) as runtime, runtime.stream(orchestrator.name, "the goal") as events:
        return [event async for event in events]


# one level


async def test_the_manager_assigns_the_teams_work_and_the_manager_sums_up() -> None:
    boss = Manager("boss", assign(("b", "B"), ("a", "A"), ("b", "B again")))
    a, b = Worker("agent-a"), Worker("agent-b")
    teams = {"a": a, "b": b, "c": "nobody"}
    request = Message("the goal", {"tenant": "t", "handoffs": {"q": ""}, "response_schema": {}}, session_id="s")
    reply = await run(
        Hierarchical("h", teams, manager=boss, descriptions={"a": "knows tea"}),
        content=request,
    )
    assert reply.payload == "boss[agent-b(B) agent-a(A) agent-b(B again)]"
    assert reply.metadata["assignments"] == [
        {"to": "b", "task": "B"}, {"to": "a", "task": "A"}, {"to": "b", "task": "B again"},
    ]  # fmt: skip
    assert reply.metadata["summaries"] == {"b": "agent-b(B)", "a": "agent-a(A)", "b#2": "agent-b(B again)"}
    assert (reply.metadata["level"], reply.metadata["by"], reply.metadata["agent_count"]) == (1, "boss", 4)
    assert not {"team_errors", STATE, "assigned_manager"} & set(reply.metadata)
    below: dict[str, Any] = {"goal": "the goal", "level": 2, "managers": ["boss"], "state": {}}
    assert a.asked[0].metadata == {"tenant": "t", HIERARCHY: below}
    assert a.asked[0].session_id == "s"


async def test_the_manager_is_told_the_teams_and_in_the_end_what_they_brought() -> None:
    boss = Manager("boss")
    bad = Worker("bad", ValueError("no"))
    h = Hierarchical("h", {"a": Worker("agent-a"), "bad": bad}, manager=boss, descriptions={"a": "knows tea"})
    request = Message("the goal", {"response_schema": {"type": "object"}, HIERARCHY: {"state": {"tea": 1}}})
    reply = await run(h, content=request)
    first, second = boss.asked
    assert first.text.startswith("the goal\n")
    assert "- a: knows tea\n- bad\n" in first.text
    assert '{"tea":1}' in first.text
    assert first.metadata["teams"] == {"a": "knows tea", "bad": ""}
    assert first.metadata["task"] == "the goal"
    assert first.metadata[HIERARCHY] == {"goal": "the goal", "level": 1, "managers": [], "state": {"tea": 1}}
    schema = first.metadata["response_schema"]
    assert schema["$defs"]["Assignment"]["properties"]["to"]["enum"] == ["a", "bad"]
    assert list(schema["$defs"]["Assignment"]["properties"]) == ["to", "task"]
    assert schema["properties"]["assignments"]["maxItems"] == 100
    errors = {"bad": {"class": "AgentFailed", "message": "agent 'bad' raised ValueError: no (at h/bad)"}}
    assert second.metadata["team_errors"] == reply.metadata["team_errors"] == errors
    assert "a:\nagent-a(do a)" in second.text
    assert "- bad: AgentFailed: agent 'bad' raised ValueError: no" in second.text
    assert second.metadata["response_schema"] == {"type": "object"}


async def test_assignments_that_cannot_be_used_are_told_to_the_manager_once() -> None:
    boss = Manager("boss", assign(("nobody", "x")), assign(("a", "A")))
    reply = await run(Hierarchical("h", {"a": Worker("agent-a")}, manager=boss))
    assert reply.payload == "boss[agent-a(A)]"
    assert "assignments.0.to: Input should be 'a'" in boss.asked[1].text
    for wrong, text in [
        (assign(), "at least 1 item"),
        (assign(("a", " ")), "a task has 1 to 10000 characters, and this one has 1"),
        (assign(*[("a", "A")] * 4), "at most 3 items"),
    ]:
        h = Hierarchical("h", {"a": "w"}, manager=Manager("boss", wrong, wrong), limits=Limits(max_agents=3))
        with pytest.raises(InvalidReply, match=text):
            await run(h, Worker("w"))


async def test_teams_work_at_once_and_only_so_many_of_them() -> None:
    for concurrency, together in ((None, 3), (2, 2)):
        begun: list[str] = []
        free = asyncio.Event()
        most = 0

        def team(name: str, begun: list[str] = begun, free: asyncio.Event = free) -> Agent:
            @agent(name=name)
            async def works(message: Message) -> str:
                nonlocal most
                begun.append(name)
                most = max(most, len(begun))
                if len(begun) == together:  # noqa: B023  # read while this round runs
                    free.set()
                await free.wait()
                for _ in range(20):  # as long as others could begin who may not
                    await asyncio.sleep(0)
                begun.remove(name)
                return name

            return works

        teams = {name: team(name) for name in "abc"}
        reply = await run(Hierarchical("h", teams, manager=Manager("boss"), concurrency=concurrency))
        assert reply.payload == "boss[a b c]"
        assert most == together


async def test_each_request_has_an_id_of_its_own_so_that_sessions_keep_all_of_them() -> None:
    boss, a = Manager("boss", assign(("a", "A"), ("a", "B"))), Worker("agent-a")
    message = Message("the goal", session_id="s")
    await run(Hierarchical("h", {"a": a}, manager=boss), content=message)
    ids = [message.id, *(each.id for each in (*boss.asked, *a.asked))]
    assert len(set(ids)) == len(ids) == 5


# state


async def test_what_teams_add_to_the_state_is_merged_in_the_order_of_the_assignments_and_goes_up() -> None:
    boss = Manager("boss")
    a = Worker("agent-a", hierarchy_state={"tea": "assam", "rice": 1})
    b = Worker("agent-b", hierarchy_state={"rice": 2})
    h = Hierarchical("h", {"a": a, "b": b}, manager=boss)
    reply = await run(h, content=Message("x", {HIERARCHY: {"state": {"tea": "?", "known": True}}}))
    merged = {"tea": "assam", "rice": 2, "known": True}
    assert reply.metadata[STATE] == merged
    assert boss.asked[1].metadata[HIERARCHY]["state"] == merged
    assert a.asked[0].metadata[HIERARCHY]["state"] == {"tea": "?", "known": True}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ([1], "its metadata hierarchy_state is a list; use a JSON object"),
        ({"x": "y" * MAX_STATE_BYTES}, f"bytes of state, and {MAX_STATE_BYTES} are allowed"),
        ({"x": object()}, "its metadata hierarchy_state is not a JSON value"),
    ],
)
async def test_a_team_whose_state_cannot_be_used_has_failed(state: Any, text: str) -> None:
    bad, good = Worker("bad", hierarchy_state=state), Worker("good")
    reply = await run(Hierarchical("h", {"bad": bad, "good": good}, manager=Manager("boss")))
    assert reply.payload == "boss[good(do good)]"
    assert reply.metadata["team_errors"]["bad"]["class"] == "InvalidReply"
    assert text in reply.metadata["team_errors"]["bad"]["message"]


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ({"level": 0}, "level: "),
        ({"state": [1]}, "state: "),
        ({"state": {"x": "y" * MAX_STATE_BYTES}}, "metadata.hierarchy.state makes"),
        ("top", "metadata.hierarchy is"),
    ],
)
async def test_a_request_with_an_unusable_place_is_refused(given_: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        await run(Hierarchical("h", {"a": "a"}, manager="m"), content=Message("x", {HIERARCHY: given_}))


# lists of workers and their managers


async def test_a_list_of_workers_is_led_by_the_manager_that_is_assigned_at_run_time() -> None:
    boss = Manager("boss", assign(("crew", "first", "m2"), ("crew", "second"), ("solo", "third", "m1")))
    m1, m2 = Manager("m1"), Manager("m2")
    w1, w2 = Worker("w1"), Worker("w2")
    descriptions = {"w1": "digs", "m1": "strict", "crew": "builds"}
    h = Hierarchical(
        "h", {"crew": [w1, "w2"], "solo": "w2"}, manager=boss, managers=[m1, "m2"], descriptions=descriptions
    )
    reply = await run(h, m2, w2)
    assert reply.metadata["assignments"] == [
        {"to": "crew", "manager": "m2", "task": "first"},
        {"to": "crew", "manager": "m1", "task": "second"},
        {"to": "solo", "task": "third"},
    ]
    assert reply.metadata["summaries"] == {
        "crew": "m2[w1(do w1) w2(do w2)]", "crew#2": "m1[w1(do w1) w2(do w2)]", "solo": "w2(third)",
    }  # fmt: skip
    assert "- crew: builds\n- solo\nFor each task of crew, name the manager who leads it:\n- m1: strict\n- m2" in (
        boss.asked[0].text
    )
    schema = boss.asked[0].metadata["response_schema"]["$defs"]["Assignment"]["properties"]
    assert schema["manager"]["anyOf"][0]["enum"] == ["m1", "m2"]
    assert m1.asked[0].metadata["teams"] == {"w1": "digs", "w2": ""}
    assert w1.asked[0].metadata[HIERARCHY]["managers"] == ["boss", "m2"]
    assert w1.asked[0].metadata[HIERARCHY]["goal"] == "the goal"
    assert w1.asked[0].metadata[HIERARCHY]["level"] == 3
    assert "assigned_manager" not in w1.asked[0].metadata


async def test_the_reply_of_a_list_of_workers_says_who_led_it() -> None:
    events = await stream(Hierarchical("h", {"crew": ["w"]}, managers=[Manager("m")]), Worker("w"))
    crew = next(event for event in events if isinstance(event, MemberFinished) and event.path == ("h", "h/1"))
    assert crew.message is not None
    assert (crew.message.metadata["assigned_manager"], crew.message.metadata["level"]) == ("m", 2)


@pytest.mark.parametrize(
    ("managers", "leader"), [((), "boss"), (("m1",), "m1"), (("m1", "m2"), "m1")], ids=["manager", "one", "first"]
)
async def test_without_an_assignment_the_first_of_managers_leads_else_the_manager(
    managers: tuple[str, ...], leader: str
) -> None:
    boss = Manager("boss")
    h = Hierarchical("h", {"crew": ["w"]}, manager=boss, managers=managers)
    reply = await run(h, Worker("w"), *(Manager(name) for name in managers))
    assert reply.payload == f"boss[{leader}[w(do w)]]"
    asked = boss.asked[0].metadata["response_schema"]["$defs"]["Assignment"]["properties"]
    assert ("manager" in asked) == (len(managers) > 1)
    assert "- crew: the workers w\n" in f"{boss.asked[0].text}\n"


async def test_without_a_manager_the_first_of_managers_leads_all() -> None:
    reply = await run(Hierarchical("h", {"crew": ["w"]}, managers=[Manager("m1"), Manager("m2")]), Worker("w"))
    assert reply.payload == "m1[m1[w(do w)]]"


class Nameless(Manager):
    """A manager that gets its name from its orchestrator."""

    def __init__(self) -> None:
        super().__init__("")


async def test_managers_and_workers_without_names_are_found_by_those_that_they_get() -> None:
    inner = Parallel("", ["w"])
    h = Hierarchical("h", {"crew": [inner, "w"]}, manager=Nameless(), managers=[Nameless()])
    async with running(Worker("w"), h) as runtime:
        reply = await runtime.call("h", "x")
        assert set(runtime.own_agents) == {"w", "h", "h/0", "h/1", "h/2", "h/2/0"}
    assert reply.metadata["assignments"] == [{"to": "crew", "manager": "h/1", "task": "do crew"}]
    assert reply.payload == 'h/0[h/1[{"w":"w(do worker-1)"} w(do w)]]'


async def test_only_managers_of_the_hierarchy_can_be_assigned() -> None:
    h = Hierarchical("h", {"crew": ["w"]}, manager=Manager("boss"), managers=["m"])
    stranger = Manager("stranger")
    async with running(Worker("w"), Manager("m"), stranger, h) as runtime:
        reply = await runtime.call("h/2", Message("x", {"assigned_manager": "stranger"}))
    assert reply.metadata["assigned_manager"] == "m"
    assert stranger.asked == []


# nesting


async def test_hierarchies_nest_state_goes_down_and_up_and_each_level_knows_its_managers() -> None:
    deep = Worker("deep", hierarchy_state={"found": "gold"})
    inner = Hierarchical("inner", {"deep": deep}, manager=Manager("sub"))
    outer = Hierarchical("outer", {"inner": inner}, manager=Manager("top"))
    reply = await run(outer, content=Message("the goal", {HIERARCHY: {"state": {"map": 1}}}))
    assert reply.payload == "top[sub[deep(do deep)]]"
    assert reply.metadata[STATE] == {"map": 1, "found": "gold"}
    assert deep.asked[0].metadata[HIERARCHY] == {
        "goal": "the goal", "level": 3, "managers": ["top", "sub"], "state": {"map": 1},
    }  # fmt: skip
    assert reply.metadata["level"] == 1


async def test_a_hierarchy_can_sum_up_for_another_one() -> None:
    board = Hierarchical("board", {"a": Worker("adviser")}, manager=Manager("chair"))

    @agent
    async def leads(message: Message) -> Any:
        if "summaries" in message.metadata:
            return await board.runtime.call("board", message)
        return assign(("t", "T"))

    reply = await run(Hierarchical("h", {"t": Worker("w")}, manager=leads), board)
    assert reply.payload == "chair[adviser(do a)]"


async def test_hierarchies_without_end_are_stopped_by_their_depth() -> None:
    with pytest.raises(DepthExceeded):
        await run(Hierarchical("h", {"again": "h"}, manager=Manager("boss")))
    boss = Manager("boss")
    with pytest.raises(DepthExceeded) as caught:
        await run(Hierarchical("h", {"again": "h"}, manager=boss, limits=Limits(max_depth=3)))
    assert caught.value.fields == {"limit": 3}
    assert len(boss.asked) == 3


# failure


async def test_when_no_team_succeeds_the_error_has_the_reasons() -> None:
    teams = {"x": Worker("a", ValueError("no")), "y": Worker("b", ValueError("never"))}
    with pytest.raises(AllMembersFailed, match=r"no team succeeded: x: AgentFailed: .* no .*; y: .* never") as caught:
        await run(Hierarchical("h", teams, manager=Manager("boss")))
    errors: Mapping[str, Mapping[str, str]] = caught.value.fields["errors"]
    assert {team: error["class"] for team, error in errors.items()} == {"x": "AgentFailed", "y": "AgentFailed"}


async def test_a_spent_budget_ends_it_as_itself() -> None:
    teams = {"x": Worker("a", BudgetExceeded("spent")), "y": Worker("b")}
    with pytest.raises(BudgetExceeded):
        await run(Hierarchical("h", teams, manager=Manager("boss")))


async def test_a_manager_that_fails_is_raised_as_itself() -> None:
    with pytest.raises(AgentFailed, match="tired"):
        await run(Hierarchical("h", {"a": "w"}, manager=Worker("boss", ValueError("tired"))), Worker("w"))


def llm(name: str, model: ScriptedModel) -> LLMAgent:
    return LLMAgent(AgentSpec(name=name, role="llm", model=("test/m",)), models=scripted_models(m=model))


def model(request: CompletionRequest) -> Any:
    """Assigns to all teams, fails at `broken`, and answers a word."""
    text = request.messages[-1].content
    if request.schema is not None:
        item = request.schema["$defs"]["Assignment"]["properties"]["to"]
        teams = item.get("enum") or [item["const"]]
        return {"assignments": [{"to": team, "task": f"do {team}", "manager": None} for team in teams]}
    if text == "do broken":
        raise ProviderRejected("broken")
    return "summed up" if "Your teams have answered" in text else "done"


async def test_the_role_llm_manages_and_all_usage_is_counted() -> None:
    scripted = ScriptedModel(model)
    lead, hand = llm("lead", scripted), llm("hand", scripted)
    reply = await run(Hierarchical("h", {"ok": hand, "broken": "hand", "crew": ["hand"]}, manager=lead))
    assert (reply.payload, reply.metadata["team_errors"]["broken"]["class"]) == ("summed up", "ProviderRejected")
    assert reply.metadata["summaries"] == {"ok": "done", "crew": "summed up"}
    assert reply.usage.llm_calls == len(scripted.requests) == 7
    assert reply.metadata["tokens_total"] == reply.usage.total_tokens > 0
    with pytest.raises(AllMembersFailed) as caught:
        await run(Hierarchical("h", {"broken": "hand"}, manager=llm("lead", scripted)), llm("hand", scripted))
    assert caught.value.usage.llm_calls == 2


# what is refused, YAML


@pytest.mark.parametrize(
    ("teams", "more", "error", "text"),
    [
        ({"a": "a"}, {}, InvalidInput, "hierarchical 'h' has no manager; pass manager=, or managers="),
        ({}, {"manager": "m"}, InvalidInput, "hierarchical 'h' has no teams; pass at least one"),
        ({"a": []}, {"manager": "m"}, InvalidInput, "teams.a is an empty list; name at least one worker"),
        ({"a": ["w", "w"]}, {"manager": "m"}, InvalidInput, "teams.a has the worker 'w' more than once"),
        ({"a": "a"}, {"manager": "m", "concurrency": 0}, InvalidInput, "concurrency of hierarchical 'h' is 0"),
        (
            {"writers": ["w"]}, {"manager": "m", "descriptions": {"writer": ""}}, InvalidInput,
            "hierarchical 'h': descriptions.writer: there is no such team, worker or manager; did you mean 'writers'?",
        ),
        (
            {"a": "a"}, {"manager": "m", "limits": Limits(max_agents=1)}, LimitExceeded,
            "has 2 agents and 1 are allowed",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_when_it_is_made(
    teams: Any, more: dict[str, Any], error: type[AixgoError], text: str
) -> None:
    with pytest.raises(error) as caught:
        Hierarchical("h", teams, **more)
    assert text in caught.value.message


def test_yaml_names_its_parts() -> None:
    config = {"teams": {"a": "x", "b": ["y", "z"]}, "manager": "m", "managers": ["n"], "concurrency": 2}
    made = build("hierarchical", "h", ["x", "y"], {**config, "descriptions": {"y": "Y"}}, Limits(max_agents=9))
    assert (made.agents, made.limits) == (("m", "n", "x", ""), Limits(max_agents=9))
    with pytest.raises(ConfigError, match="lists agents that it does not use: q"):
        build("hierarchical", "h", ["q"], config, Limits())
    with pytest.raises(ConfigError, match=r"config\.team is not known; did you mean 'teams'\?"):
        build("hierarchical", "h", [], {"team": {}, "manager": "m"}, Limits())


async def test_a_file_nests_teams_and_lists_of_workers(tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text(
        "- when: {asks: assignments, any: crew}\n"
        "  json: {assignments: [{to: crew, task: dig, manager: m2}, {to: deep, task: dive, manager: null}]}\n"
        "- when: {asks: assignments}\n"
        "  json: {assignments: [{to: w, task: work}]}\n"
        "- {when: {user: Your teams have answered}, text: summed up}\n"
        "- text: did {user}\n"
    )
    model_line = "role: llm, model: 'test/script:script.yaml'"
    (tmp_path / "aixgo.yaml").write_text(
        "version: 2\nagents:\n"
        + "".join(f"  - {{name: {name}, {model_line}}}\n" for name in ("top", "m1", "m2", "w"))
        + "orchestration:\n"
        "  name: h\n"
        "  pattern: hierarchical\n"
        "  config:\n"
        "    manager: top\n"
        "    managers: [m1, m2]\n"
        "    teams:\n"
        "      crew: [w, {pattern: parallel, agents: [w]}]\n"
        "      deep: {pattern: hierarchical, config: {manager: m1, teams: {w: w}}}\n"
    )
    models = Models(ModelSettings(), folder=tmp_path)
    agents = build_agents(load(tmp_path / "aixgo.yaml"), Resources(models=models))
    async with running(*agents) as runtime:
        reply = await runtime.call("h", "the goal")
    assert reply.payload == "summed up"
    assert reply.metadata["assignments"][0] == {"to": "crew", "manager": "m2", "task": "dig"}
    assert reply.metadata["summaries"] == {"crew": "summed up", "deep": "summed up"}


# laws


NAMES = ("a", "b", "c", "d")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)), min_size=1
    ),
    st.sets(st.sampled_from(NAMES)),
)
def test_exactly_the_teams_that_were_assigned_are_called_each_with_its_tasks(
    assigned: list[tuple[str, str]], failing: set[str]
) -> None:
    assigned = [(team, task) for team, task in assigned if task.strip()] or [("a", "t")]
    workers = {name: Worker(name, ValueError("no") if name in failing else None) for name in NAMES}
    h = Hierarchical("h", workers, manager=Manager("boss", assign(*assigned)))
    try:
        reply = asyncio.run(run(h))
    except AllMembersFailed:
        assert {team for team, _ in assigned} <= failing
    else:
        assert len(reply.metadata["summaries"]) == sum(team not in failing for team, _ in assigned)
        assert len(reply.metadata.get("team_errors", ())) == sum(team in failing for team, _ in assigned)
    for name, worker in workers.items():
        assert sorted(each.text for each in worker.asked) == sorted(task for team, task in assigned if team == name)


# streaming, spans, cancellation


async def test_it_streams_its_members_with_their_paths_and_one_result() -> None:
    scripted = ScriptedModel(model)
    events = await stream(Hierarchical("h", {"crew": ["hand"]}, manager=llm("lead", scripted)), llm("hand", scripted))
    shown = [("/".join(event.path), event.text) for event in events if isinstance(event, Delta)]
    assert shown == [
        ("h/h/1/hand", "done"), ("h/h/1/lead", "summed "), ("h/h/1/lead", "up"),
        ("h/lead", "summed "), ("h/lead", "up"),
    ]  # fmt: skip
    assert isinstance(events[-1], Result)
    assert sum(isinstance(event, Result) for event in events) == 1
    finished = ["/".join(event.path) for event in events if isinstance(event, MemberFinished)]
    assert finished == ["h/lead", "h/h/1/lead", "h/h/1/hand", "h/h/1/lead", "h/h/1", "h/lead"]


async def test_cancelling_it_leaves_no_task() -> None:
    begun = asyncio.Event()

    @agent
    async def hangs(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with running(Hierarchical("h", {"x": [hangs]}, manager=Manager("boss"))) as runtime:
        before = asyncio.all_tasks()

        async def consume() -> None:
            async with runtime.stream("h", "x") as events:
                async for _ in events:
                    pass

        call = asyncio.create_task(consume())
        async with asyncio.timeout(10):
            await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        left = asyncio.all_tasks() - before
        if left:
            await asyncio.wait(left, timeout=10)
        assert asyncio.all_tasks() - before == set()


PROGRAM = """
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aixgo import Hierarchical, LocalRuntime, agent
memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)

@agent
async def boss(message):
    if "summaries" in message.metadata:
        return "end"
    return {"assignments": [{"to": team, "task": "t"} for team in message.metadata["teams"]]}

@agent
async def good(message):
    return "y"

@agent
async def bad(message):
    raise ValueError("no")

async def main():
    runtime = LocalRuntime()
    runtime.register(Hierarchical("o", {"x": [good], "y": bad}, manager=boss))
    await runtime.call("o", "x")

asyncio.run(main())
print(json.dumps([[s.name, dict(s.attributes)] for s in memory.get_finished_spans()]))
"""


def test_its_spans_have_level_assignments_and_failures() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    seen = [attributes for name, attributes in json.loads(ran.stdout) if name == "orchestration.hierarchical"]
    assert seen == [
        {"pattern": "hierarchical", "orchestrator": "o/1", "agent_count": 1, "hierarchical.level": 2,
         "hierarchical.assignments": 1, "hierarchical.teams_failed": 0, "tokens.total": 0},
        {"pattern": "hierarchical", "orchestrator": "o", "agent_count": 3, "hierarchical.level": 1,
         "hierarchical.assignments": 2, "hierarchical.teams_failed": 1, "tokens.total": 0},
    ]  # fmt: skip
