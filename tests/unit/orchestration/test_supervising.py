"""The supervisor pattern: who chooses the next worker, what everybody sees, how it ends."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aixgo.agent import Agent, agent
from aixgo.agents.llm import LLMAgent
from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.config.spec import AgentSpec
from aixgo.conversation import KEY, MAX_TURNS, Turn, turns_of, with_turns
from aixgo.errors import (
    AgentFailed,
    AllMembersFailed,
    BudgetExceeded,
    ConfigError,
    InvalidInput,
    InvalidReply,
    OrchestrationFailed,
)
from aixgo.events import Event, MemberFinished, MemberStarted, Result
from aixgo.llm.models import Models, ModelSettings
from aixgo.message import Message
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits
from aixgo.orchestration.catalog import build
from aixgo.orchestration.history import History
from aixgo.orchestration.supervisor import Supervisor
from aixgo.resources import Resources
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.local import LocalRuntime
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given
from hypothesis import strategies as st


class Worker(Agent):
    """Answers its name and the payload; keeps what it was asked."""

    def __init__(self, name: str, error: Exception | None = None) -> None:
        self.name, self.error = name, error
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        if self.error is not None:
            raise self.error
        return Message(f"{self.name}({message.text})", {"by": self.name}, session_id=message.session_id)


class Boss(Agent):
    """Answers the decisions that the test writes, one by one; keeps what it was asked."""

    name = "boss"

    def __init__(self, *decisions: Any) -> None:
        self.decisions = list(decisions)
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        return Message(self.decisions.pop(0))


def go(worker: str, instruction: str = "") -> dict[str, str]:
    return {"next": worker, "instruction": instruction, "answer": ""}


def finish(answer: str = "") -> dict[str, str]:
    return {"next": "finish", "instruction": "", "answer": answer}


async def ask(orchestrator: Supervisor, *agents: Agent, content: Any = "task", **options: Any) -> Message:
    async with running(*agents, orchestrator) as runtime:
        return await runtime.call(orchestrator.name, content, options=CallOptions(**options))


async def stream(orchestrator: Supervisor, *agents: Agent, content: Any = "task") -> list[Event]:
    async with running(*agents, orchestrator) as runtime, runtime.stream(orchestrator.name, content) as events:
        return [event async for event in events]


# an agent that supervises


async def test_the_supervisor_chooses_workers_until_it_is_finished_and_its_answer_is_the_reply() -> None:
    a, b, boss = Worker("a"), Worker("b"), Boss(go("b", "dig"), go("a"), finish("done"))
    reply = await ask(Supervisor("s", [a, b], supervisor=boss), content=Message("task", session_id="c1"))
    assert (reply.payload, reply.session_id) == ("done", "c1")
    assert reply.metadata["pattern"] == "supervisor"
    assert (reply.metadata["rounds"], reply.metadata["finished"], reply.metadata["agent_count"]) == (2, True, 3)
    assert reply.metadata["history"] == [
        {"round": 1, "agent": "b", "instruction": "dig"},
        {"round": 2, "agent": "a", "instruction": ""},
    ]
    assert [message.text for message in (*b.asked, *a.asked)] == ["dig", "task"]


async def test_without_an_answer_the_last_workers_reply_is_the_reply() -> None:
    reply = await ask(Supervisor("s", [Worker("a"), Worker("b")], supervisor=Boss(go("a"), go("b"), finish())))
    assert (reply.payload, reply.metadata["by"], reply.metadata["finished"]) == ("b(task)", "b", True)


async def test_a_supervisor_may_answer_without_any_worker() -> None:
    reply = await ask(Supervisor("s", [Worker("a")], supervisor=Boss(finish("easy"))))
    assert (reply.payload, reply.metadata["rounds"], reply.metadata["history"]) == ("easy", 0, [])


async def test_finishing_with_nothing_to_say_is_asked_again_and_told_why() -> None:
    boss = Boss(finish(), go("a"), finish())
    assert (await ask(Supervisor("s", [Worker("a")], supervisor=boss))).payload == "a(task)"
    assert "no worker has answered yet, so finish needs an answer" in boss.asked[1].text


@pytest.mark.parametrize("wrong", [go("nobody"), "I do not know", {}, [], 7])
async def test_a_decision_that_fits_nobody_is_asked_again_once_and_then_an_error(wrong: Any) -> None:
    a, boss = Worker("a"), Boss(wrong, wrong)
    with pytest.raises(InvalidReply, match="agent 'boss' was asked 2 times for a JSON object with next") as caught:
        await ask(Supervisor("s", [a], supervisor=boss))
    assert a.asked == []
    assert caught.value.agent_path == ("s",)
    reply = await ask(Supervisor("s", [Worker("a")], supervisor=Boss(wrong, go("a"), finish())))
    assert reply.payload == "a(task)"


async def test_what_a_supervisor_leaves_out_of_its_decision_is_empty() -> None:
    boss = Boss({"next": "a"}, {"next": "finish", "answer": None})
    assert (await ask(Supervisor("s", [Worker("a")], supervisor=boss))).payload == "a(task)"


async def test_the_supervisor_sees_task_workers_and_what_happened_in_words_and_as_data() -> None:
    a, bad = Worker("a"), Worker("bad", ValueError("no"))
    boss = Boss(go("a", "dig"), go("bad"), finish())
    await ask(Supervisor("s", [a, bad], supervisor=boss, descriptions={"a": "digs"}, max_rounds=5))
    first, _, last = boss.asked
    assert first.text.startswith("Task:\ntask\n\nWorkers:\n- a: digs\n- bad\n\nSo far:\nNothing yet.\n")
    assert "round 1 of 5" in first.text
    assert (
        "1. a was asked: dig\n   a answered: a(dig)\n2. bad was asked: the task\n   bad failed: AgentFailed: agent"
        in (last.text)
    )
    assert last.metadata["task"] == "task"
    assert last.metadata["workers"] == {"a": "digs", "bad": ""}
    assert last.metadata["round"] == 3
    told = last.metadata["history"]
    assert told[0] == {"round": 1, "agent": "a", "instruction": "dig", "reply": "a(dig)"}
    assert told[1]["error"]["class"] == "AgentFailed"
    choices = last.metadata["response_schema"]["properties"]["next"]
    assert choices["enum"] == ["a", "bad", "finish"]


async def test_the_supervisor_is_shown_so_much_of_each_reply_and_workers_all_of_it() -> None:
    @agent
    async def talks(message: Message) -> str:
        return "x" * 150

    b, boss = Worker("b"), Boss(go("talks"), go("b"), finish())
    await ask(Supervisor("s", [talks, b], supervisor=boss, max_shown=100))
    assert f"talks answered: {'x' * 100} [... 50 more characters]" in boss.asked[1].text
    assert boss.asked[1].metadata["history"][0]["reply"] == "x" * 100 + " [... 50 more characters]"
    assert b.asked[0].metadata[KEY][-1]["content"] == "x" * 150


async def test_a_worker_sees_the_task_and_what_was_said_about_it() -> None:
    a, bad, b = Worker("a"), Worker("bad", ValueError("no")), Worker("b")
    boss = Boss(go("a"), go("a", "dig"), go("bad"), go("b", "polish"), finish())
    before = with_turns(Message("task", {"language": "en"}), [Turn("user", "hello")])
    await ask(Supervisor("s", [a, bad, b], supervisor=boss), content=before)
    assert a.asked[0].metadata[KEY] == [{"role": "user", "content": "hello"}]
    assert a.asked[1].metadata[KEY][1:] == [
        {"role": "user", "content": "task"},
        {"role": "assistant", "content": "a(task)", "name": "a"},
    ]
    (seen,) = b.asked
    assert seen.payload == "polish"
    assert (seen.metadata["task"], seen.metadata["round"], seen.metadata["language"]) == ("task", 4, "en")
    assert seen.metadata[KEY] == [
        {"role": "user", "content": "hello"},
        {"role": "user", "content": "task"},
        {"role": "assistant", "content": "a(task)", "name": "a"},
        {"role": "user", "content": "dig"},
        {"role": "assistant", "content": "a(dig)", "name": "a"},
    ]


async def test_each_request_has_an_id_of_its_own_so_that_sessions_keep_all_of_them() -> None:
    a, boss = Worker("a"), Boss(go("a", "dig"), go("a", "dig"), finish("done"))
    await ask(Supervisor("s", [a], supervisor=boss), content=(task := Message("task")))
    assert len({task.id, *(each.id for each in (*a.asked, *boss.asked))}) == 6


async def test_a_worker_gets_the_last_turns_of_a_long_conversation() -> None:
    a = Worker("a")
    turns = [Turn("user", str(number)) for number in range(MAX_TURNS)]
    await ask(Supervisor("s", [a], supervisor=Boss(go("a", "dig"), finish())), content=with_turns(Message("t"), turns))
    told = turns_of(a.asked[0])
    assert told is not None
    assert (len(told), told[0].content, told[-1].content) == (MAX_TURNS, "1", "t")


async def test_a_first_worker_with_the_task_itself_gets_no_conversation() -> None:
    a = Worker("a")
    await ask(Supervisor("s", [a], supervisor=Boss(go("a"), finish())), content={"n": 1})
    assert a.asked[0].payload == {"n": 1}
    assert a.asked[0].metadata["task"] == {"n": 1}
    assert KEY not in a.asked[0].metadata


async def test_hand_overs_offered_to_the_whole_are_offered_to_no_member() -> None:
    a, boss = Worker("a"), Boss(go("a"), finish())
    await ask(Supervisor("s", [a], supervisor=boss), content=Message("task", {"handoffs": {"other": ""}}))
    assert [message for message in (*a.asked, *boss.asked) if "handoffs" in message.metadata] == []


async def test_out_of_rounds_the_last_good_reply_is_the_reply() -> None:
    boss = Boss(go("a"), go("bad"), go("bad"))
    workers = [Worker("a"), Worker("bad", ValueError("no"))]
    reply = await ask(Supervisor("s", workers, supervisor=boss, max_rounds=3))
    assert (reply.payload, reply.metadata["finished"], reply.metadata["rounds"]) == ("a(task)", False, 3)
    assert [one.get("error", {}).get("class") for one in reply.metadata["history"]] == [
        None, "AgentFailed", "AgentFailed",
    ]  # fmt: skip
    assert boss.decisions == []


async def test_when_no_worker_ever_succeeded_all_reasons_are_told() -> None:
    workers = [Worker("a", ValueError("no")), Worker("b", KeyError("b"))]
    with pytest.raises(AllMembersFailed, match=r"no worker succeeded in 2 rounds: a: AgentFailed.*; b: Ag") as caught:
        await ask(Supervisor("s", workers, select="round_robin"))
    assert set(caught.value.fields["errors"]) == {"a", "b"}


async def test_on_error_stop_raises_a_workers_error_with_its_step() -> None:
    workers = [Worker("a"), Worker("bad", ValueError("no"))]
    with pytest.raises(AgentFailed) as caught:
        await ask(Supervisor("s", workers, select="round_robin", on_error="stop"))
    assert (caught.value.agent_path, caught.value.fields["step"]) == (("s", "bad"), 2)


async def test_a_failing_supervisor_fails_the_whole() -> None:
    with pytest.raises(AgentFailed) as caught:
        await ask(Supervisor("s", [Worker("a")], supervisor=Boss()))
    assert caught.value.agent_path == ("s", "boss")


# round robin and rules


async def test_in_a_round_robin_each_has_one_turn_in_order_and_hears_the_others() -> None:
    a, b, c = Worker("a"), Worker("b"), Worker("c")
    reply = await ask(Supervisor("s", [a, b, c], select="round_robin"))
    assert [one["agent"] for one in reply.metadata["history"]] == ["a", "b", "c"]
    assert (reply.payload, reply.metadata["finished"]) == ("c(task)", True)
    assert [turn.get("name") for turn in c.asked[0].metadata[KEY]] == [None, "a", "b"]


async def test_a_rule_sees_the_history_and_names_the_next_worker() -> None:
    seen: list[tuple[str, int]] = []

    def rule(history: History) -> str | None:
        seen.append((history.task.text, len(history)))
        if not history:
            return "a"
        last = history[-1]
        return "b" if last.agent == "a" and last.reply is not None and last.reply.payload == "a(task)" else None

    reply = await ask(Supervisor("s", [Worker("a"), Worker("b")], select=rule))
    assert (reply.payload, reply.metadata["rounds"], reply.metadata["finished"]) == ("b(task)", 2, True)
    assert seen == [("task", 0), ("task", 1), ("task", 2)]


async def test_a_rule_may_be_async_and_hears_of_failures() -> None:
    async def rule(history: History) -> str | None:
        await asyncio.sleep(0)
        if not history:
            return "bad"
        return "a" if history[-1].error is not None else None

    reply = await ask(Supervisor("s", [Worker("a"), Worker("bad", ValueError("no"))], select=rule))
    assert (reply.payload, reply.metadata["rounds"]) == ("a(task)", 2)


@pytest.mark.parametrize("named", ["worker", 7, "finish", ""])
async def test_a_rule_that_names_nobody_is_told_so(named: Any) -> None:
    with pytest.raises(InvalidInput, match=r"select: the rule of supervisor 's' named .*None when the task is done"):
        await ask(Supervisor("s", [Worker("workers")], select=lambda _: named))


async def test_a_rule_that_is_finished_before_it_began_has_no_result() -> None:
    with pytest.raises(OrchestrationFailed, match="finished before any worker was asked"):
        await ask(Supervisor("s", [Worker("a")], select=lambda _: None))


async def test_a_rule_that_never_ends_is_stopped_by_the_rounds() -> None:
    reply = await ask(Supervisor("s", [Worker("a")], select=lambda _: "a", limits=Limits(max_iterations=4)))
    assert (reply.metadata["rounds"], reply.metadata["finished"]) == (4, False)


@given(
    decisions=st.lists(st.sampled_from(["a", "b", "bad", "finish", "nobody"]), max_size=14),
    max_rounds=st.integers(1, 10),
)
def test_whatever_is_decided_only_workers_are_called_and_never_more_often_than_max_rounds(
    decisions: Sequence[str], max_rounds: int
) -> None:
    workers = [Worker("a"), Worker("b"), Worker("bad", ValueError("no"))]
    left = [*decisions]

    def rule(_: History) -> str | None:
        name = left.pop(0) if left else "finish"
        return None if name == "finish" else name

    async def run() -> Message | None:
        try:
            return await ask(Supervisor("s", workers, select=rule, max_rounds=max_rounds))
        except (AllMembersFailed, OrchestrationFailed, InvalidInput):
            return None

    reply = asyncio.run(run())
    turns = sum(len(worker.asked) for worker in workers)
    wanted = [*decisions[:max_rounds], "finish"]
    ended = min(at for at, name in enumerate(wanted) if name in ("finish", "nobody") or at == max_rounds)
    assert turns == ended <= max_rounds
    if reply is not None:
        good = [name for name in wanted[:ended] if name != "bad"]
        assert reply.payload == f"{good[-1]}(task)"
        assert reply.metadata["finished"] is (ended < max_rounds)
        assert [one["agent"] for one in reply.metadata["history"]] == wanted[:ended]


@given(count=st.integers(1, 6), max_rounds=st.none() | st.integers(1, 10))
def test_a_round_robin_goes_round_in_order_whatever_the_rounds(count: int, max_rounds: int | None) -> None:
    names = [f"w{at}" for at in range(count)]
    made = Supervisor("s", [Worker(name) for name in names], select="round_robin", max_rounds=max_rounds)
    reply = asyncio.run(ask(made))
    expected = [names[at % count] for at in range(max_rounds or count)]
    assert [one["agent"] for one in reply.metadata["history"]] == expected


# what is refused when it is made


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "supervisor 's' has nobody that decides; name an agent (`supervisor`), or set `select`"),
        ({"supervisor": "boss", "select": "round_robin"}, "has a `supervisor` that its `select` never asks"),
        ({"supervisor": "boss", "select": lambda _: None}, "has a `supervisor` that its `select` never asks"),
        ({"select": "round-robin"}, "select: 'round-robin' is not known; did you mean 'round_robin'?"),
        ({"supervisor": "boss", "max_rounds": 11}, "max_rounds of supervisor 's' is 11; pass 1 to 10"),
        ({"supervisor": "boss", "max_rounds": 0}, "max_rounds of supervisor 's' is 0"),
        ({"supervisor": "boss", "descriptions": {"zz": ""}}, "descriptions.zz: there is no such worker; known are: a"),
        ({"supervisor": "boss", "on_error": "tel"}, "on_error of supervisor 's' is 'tel', which is not known; did"),
        ({"supervisor": "boss", "max_shown": 0}, "max_shown of supervisor 's' is 0"),
        ({"select": "round_robin", "limits": Limits(max_iterations=1)}, "supervisor 's' (a turn for each worker) is 2"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_when_it_is_made(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Supervisor("s", ["a", "b"], **options)
    assert text in caught.value.message


def test_a_worker_cannot_be_named_like_the_end() -> None:
    with pytest.raises(InvalidInput, match="a worker named 'finish', which is kept"):
        Supervisor("s", ["finish"], select="round_robin")
    with pytest.raises(InvalidInput, match="'s' has no workers"):
        Supervisor("s", [], supervisor="boss")


def test_an_unnamed_worker_is_described_by_the_name_that_it_will_have() -> None:
    made = Supervisor("s", ["a", Worker("")], supervisor="boss", descriptions={"s/1": "the second"})
    assert made.agents == ("a", "", "boss")


# with models


async def test_a_model_supervises_models() -> None:
    def decide(request: Any) -> Any:
        asked = request.messages[-1].content
        assert request.schema["properties"]["next"]["enum"] == ["writer", "editor", "finish"]
        if "Nothing yet" in asked:
            return go("writer", "write two words")
        return go("editor") if "editor answered" not in asked else finish()

    models = scripted_models(
        boss=ScriptedModel(decide),
        writer=ScriptedModel(lambda request: f"wrote: {request.messages[-1].content}"),
        editor=ScriptedModel(lambda request: " / ".join(turn.content for turn in request.messages)),
    )

    def made(name: str) -> LLMAgent:
        return LLMAgent(AgentSpec(name=name, role="llm", model=(f"test/{name}",)), models=models)

    supervisor = Supervisor("s", [made("writer"), made("editor")], supervisor=made("boss"))
    reply = await ask(supervisor)
    assert reply.payload == "task / write two words / writer: wrote: write two words / task"
    assert reply.usage.llm_calls == 5
    assert reply.metadata["tokens_total"] == reply.usage.total_tokens > 0


YAML = """
version: 2
agents:
  - {name: boss, role: llm, model: "test/script:boss.yaml", prompt: You lead.}
  - {name: a, role: llm, model: "test/fixed:A"}
  - {name: b, role: llm, model: "test/upper"}
orchestrations:
  - name: team
    pattern: supervisor
    agents: [a, {pattern: sequential, agents: [b]}]
    config: {supervisor: boss, max_rounds: 3, descriptions: {a: says A}, on_error: stop}
  - {name: rounds, pattern: supervisor, agents: [a, b], config: {select: round_robin}}
  - {name: ruled, pattern: supervisor, agents: [a, b], config: {select: "rules_of_supervisor:choose"}}
"""
SCRIPT = """
- when: {user: "a answered: A"}
  json: {next: team/1, instruction: shout, answer: ""}
- when: {user: Nothing yet}
  json: {next: a, instruction: "", answer: ""}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "boss.yaml").write_text(SCRIPT)
    (tmp_path / "rules_of_supervisor.py").write_text(
        "NOTHING = 7\ndef choose(history):\n    return None if history else 'b'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


async def test_yaml_makes_the_same(folder: Path) -> None:
    (folder / "mesh.yaml").write_text(YAML)
    models = Models(ModelSettings(), folder=folder)
    runtime = LocalRuntime()
    for made in build_agents(load(folder / "mesh.yaml", {}), Resources(models)):
        runtime.register(made)
    async with runtime:
        team, rounds, ruled = [await runtime.call(name, "hello") for name in ("team", "rounds", "ruled")]
    assert team.payload == "SHOUT"
    assert [one["agent"] for one in team.metadata["history"]] == ["a", "team/1", "team/1"]
    assert rounds.payload == "HELLO"
    assert (ruled.payload, ruled.metadata["rounds"]) == ("HELLO", 1)


@pytest.mark.parametrize(
    ("select", "text"),
    [
        ("agnet", "config.select: 'agnet' is not known; did you mean 'agent'?; or name a function"),
        ("rules_of_supervisor:nothing", "config.select: rules_of_supervisor:nothing cannot be imported"),
        ("rules_of_supervisor:NOTHING", "is a int; it must name a function of the history"),
        ("no_such_module:f", "cannot be imported"),
    ],
)
def test_a_rule_in_yaml_that_cannot_be_found_is_told(folder: Path, select: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("supervisor", "team", ["a"], {"select": select}, DEFAULT_LIMITS)
    assert text in caught.value.message


# streams, budget, cancellation


async def test_events_of_all_members_come_up_in_order_with_one_result() -> None:
    events = await stream(Supervisor("s", [Worker("a"), Worker("bad", ValueError("no"))], select="round_robin"))
    assert [(type(event), event.path) for event in events] == [
        (MemberStarted, ("s", "a")), (MemberFinished, ("s", "a")),
        (MemberStarted, ("s", "bad")), (MemberFinished, ("s", "bad")),
        (Result, ("s",)),
    ]  # fmt: skip
    failed = events[3]
    assert isinstance(failed, MemberFinished)
    assert isinstance(failed.error, AgentFailed)


async def test_a_supervisor_may_supervise_supervisors_and_each_sees_its_own() -> None:
    a, lead = Worker("a"), Boss(go("a", "dig"), finish())
    lead.name = "lead"
    inner = Supervisor("", [a], supervisor=lead)
    boss = Boss(go("s/0", "find it"), finish())
    events = await stream(Supervisor("s", [inner], supervisor=boss))
    (result,) = [event for event in events if isinstance(event, Result)]
    assert (result.message.payload, result.message.metadata["rounds"]) == ("a(dig)", 1)
    assert result.message.metadata["history"] == [{"round": 1, "agent": "s/0", "instruction": "find it"}]
    assert lead.asked[0].metadata["task"] == "find it"
    assert a.asked[0].metadata[KEY] == [{"role": "user", "content": "task"}, {"role": "user", "content": "find it"}]
    assert MemberFinished in [type(event) for event in events if event.path == ("s", "s/0", "a")]


def spender(name: str, model: ScriptedModel) -> LLMAgent:
    spec = AgentSpec(name=name, role="llm", model=("test/m",), config={"max_tokens": 10})
    return LLMAgent(spec, models=scripted_models(m=model))


async def test_a_spent_budget_ends_it_and_is_no_failure_to_go_by() -> None:
    model = ScriptedModel(lambda _: "one two three")
    limits = Limits(max_tokens=40)
    with pytest.raises(BudgetExceeded) as caught:
        await ask(Supervisor("s", [spender("w", model)], select=lambda _: "w", limits=limits))
    assert 0 < caught.value.usage.total_tokens <= 40


async def test_usage_until_a_failure_is_on_the_error() -> None:
    model = ScriptedModel(["one two three"])
    workers = [spender("w", model), Worker("bad", ValueError("no"))]
    with pytest.raises(AgentFailed) as caught:
        await ask(Supervisor("s", workers, select="round_robin", on_error="stop"))
    assert caught.value.usage.llm_calls == 1
    assert caught.value.usage.total_tokens == 4


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_cancelled_run_leaves_no_task_behind(streaming: bool) -> None:
    begun = asyncio.Event()

    @agent
    async def hangs(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    made = Supervisor("s", [hangs], select="round_robin")
    before = asyncio.all_tasks()
    task = asyncio.create_task(stream(made)) if streaming else asyncio.create_task(ask(made))  # type: ignore[arg-type]
    async with asyncio.timeout(5):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before


def test_what_stands_in_the_metadata_is_json() -> None:
    workers = [Worker("a"), Worker("bad", ValueError("no"))]
    reply = asyncio.run(ask(Supervisor("s", workers, select="round_robin"), content=b"\xff"))
    assert json.loads(json.dumps(dict(reply.metadata)))["history"][1]["error"]["class"] == "AgentFailed"
