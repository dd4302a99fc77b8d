"""The swarm pattern: who has the conversation, who may hand it over, what travels along, how loops end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aixgo.agent import Agent, agent
from aixgo.agents.llm import LLMAgent
from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.config.spec import AgentSpec
from aixgo.conversation import KEY, MAX_TURNS, Turn, with_turns
from aixgo.errors import (
    AgentFailed,
    AixgoError,
    BudgetExceeded,
    ConfigError,
    HandoffLoop,
    HandoffRefused,
    InvalidInput,
    LimitExceeded,
)
from aixgo.events import Delta, Event, MemberFinished, MemberStarted, Result
from aixgo.llm.contract import ToolUse
from aixgo.llm.models import Models, ModelSettings
from aixgo.message import Message
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Orchestrator
from aixgo.orchestration.catalog import build
from aixgo.orchestration.sequential import Sequential
from aixgo.orchestration.swarm import Swarm
from aixgo.resources import Resources
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.local import LocalRuntime
from aixgo.testing import Reply, ScriptedModel, running, scripted_models
from hypothesis import given
from hypothesis import strategies as st


class Talker(Agent):
    """Hands over as its plan says, target by target, and then answers; keeps what it was asked."""

    def __init__(self, name: str, *targets: Any, says: str = "", reason: str = "") -> None:
        self.name, self.targets, self.says, self.reason = name, list(targets), says, reason
        self.asked: list[Message] = []

    async def execute(self, message: Message) -> Message:
        self.asked.append(message)
        if not self.targets:
            return Message(f"{self.name}: {message.text}", {"by": self.name})
        return Message(self.says, {"handoff_to": self.targets.pop(0), "handoff_reason": self.reason})


async def ask(made: Orchestrator, *agents: Agent, content: Any = "hi", **options: Any) -> Message:
    async with running(*agents, made) as runtime:
        return await runtime.call(made.name, content, options=CallOptions(**options))


async def stream(made: Orchestrator, *agents: Agent, content: Any = "hi") -> list[Event]:
    async with running(*agents, made) as runtime, runtime.stream(made.name, content) as events:
        return [event async for event in events]


# handing over


async def test_the_first_member_answers_what_it_does_not_hand_over() -> None:
    a, b = Talker("a"), Talker("b")
    reply = await ask(Swarm("s", [a, b]))
    assert (reply.payload, b.asked) == ("a: hi", [])
    assert {key: reply.metadata[key] for key in ("pattern", "handoffs", "handoff_count", "active_agent", "by")} == {
        "pattern": "swarm", "handoffs": [], "handoff_count": 0, "active_agent": "a", "by": "a",
    }  # fmt: skip


async def test_the_agent_that_is_handed_the_conversation_answers_the_message_itself() -> None:
    a, b, c = Talker("a", "b", reason="money"), Talker("b", "c"), Talker("c")
    reply = await ask(Swarm("s", [a, b, c]), content=Message("hi", {"language": "en"}))
    assert reply.payload == "c: hi"
    assert reply.metadata["handoffs"] == [
        {"from": "a", "to": "b", "reason": "money"},
        {"from": "b", "to": "c", "reason": ""},
    ]
    assert (reply.metadata["handoff_count"], reply.metadata["active_agent"]) == (2, "c")
    assert [message.text for message in (*a.asked, *b.asked, *c.asked)] == ["hi"] * 3
    assert [message.metadata["language"] for message in (*a.asked, *b.asked, *c.asked)] == ["en"] * 3


async def test_the_conversation_travels_along() -> None:
    a, b = Talker("a", "b", says="One moment.", reason="money"), Talker("b", "c")
    c = Talker("c")
    before = with_turns(Message("hi"), [Turn("user", "hello"), Turn("assistant", "yes?", "a")])
    await ask(Swarm("s", [a, b, c]), content=before)
    earlier = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes?", "name": "a"}]
    assert a.asked[0].metadata[KEY] == earlier
    assert c.asked[0].metadata[KEY] == [
        *earlier,
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "One moment.\n(handed over to b: money)", "name": "a"},
        {"role": "assistant", "content": "(handed over to c)", "name": "b"},
    ]
    assert b.asked[0].metadata["handoff_from"] == "a"
    assert b.asked[0].metadata["handoff_reason"] == "money"


async def test_a_new_conversation_begins_without_one() -> None:
    a = Talker("a")
    await ask(Swarm("s", [a, "b"]))
    assert not {KEY, "handoff_from", "handoff_reason", "handoff_to"} & set(a.asked[0].metadata)


async def test_a_conversation_that_is_full_loses_its_oldest_turns() -> None:
    b = Talker("b")
    before = with_turns(Message("hi"), [Turn("user", str(at)) for at in range(MAX_TURNS)])
    await ask(Swarm("s", [Talker("a", "b"), b]), content=before)
    turns = b.asked[0].metadata[KEY]
    assert (len(turns), turns[0]["content"], turns[-2]["content"]) == (MAX_TURNS, "2", "hi")


async def test_a_long_reason_is_cut() -> None:
    reply = await ask(Swarm("s", [Talker("a", "b", reason="x" * 5000), Talker("b")]))
    assert reply.metadata["handoffs"] == [{"from": "a", "to": "b", "reason": "x" * 1000}]


async def test_each_agent_is_told_whom_it_may_hand_over_to_and_what_they_do() -> None:
    a, b, c = Talker("a", "b"), Talker("b", "c"), Talker("c")
    table = {"a": ["b", "c"], "b": ["c"]}
    await ask(Swarm("s", [a, b, c], handoffs=table, descriptions={"b": "bills"}))
    assert a.asked[0].metadata["handoffs"] == {"b": "bills", "c": ""}
    assert b.asked[0].metadata["handoffs"] == {"c": ""}
    assert "handoffs" not in c.asked[0].metadata


async def test_without_a_table_everyone_may_hand_over_to_everyone_else() -> None:
    b = Talker("b")
    await ask(Swarm("s", ["a", b, "c"], entry="b"))
    assert b.asked[0].metadata["handoffs"] == {"a": "", "c": ""}


async def test_a_conversation_goes_on_where_it_was() -> None:
    a, b = Talker("a", "b"), Talker("b")
    made = Swarm("s", [a, b])
    async with running(made) as runtime:
        first = await runtime.call("s", "hi")
        again = await runtime.call("s", Message("and?", {"active_agent": first.metadata["active_agent"]}))
    assert (again.payload, again.metadata["handoff_count"], len(a.asked)) == ("b: and?", 0, 1)
    assert "active_agent" not in b.asked[1].metadata


@pytest.mark.parametrize(
    ("wanted", "hint"), [("bb", "did you mean 'b'?"), ("zzz", "known are: a, b"), (7, "known are: a, b")]
)
async def test_going_on_with_an_agent_that_is_not_there_is_refused(wanted: Any, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await ask(Swarm("s", [Talker("a"), Talker("b")]), content=Message("hi", {"active_agent": wanted}))
    assert caught.value.message == f"metadata.active_agent: swarm 's' has no agent {wanted!r}; {hint}"


async def test_what_a_caller_says_of_hand_overs_is_not_passed_on() -> None:
    a = Talker("a")
    stale = {"handoff_to": "x", "handoff_from": "y", "handoff_reason": "z", "handoffs": {"outside": ""}}
    await ask(Swarm("s", [a], handoffs={}), content=Message("hi", stale))
    assert set(a.asked[0].metadata) == set()


# refusals, limits, loops


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("c", "hands over to 'c', which it may not; allowed: b"),
        ("a", "hands over to 'a', which it may not"),
        ("nobody", "hands over to 'nobody', who is no agent here"),
        ("", "hands over to '', who is no agent here"),
        (["b"], "who is no agent here"),
    ],
)
async def test_a_hand_over_to_somebody_else_than_allowed_is_refused(target: Any, fault: str) -> None:
    a, c = Talker("a", target), Talker("c")
    with pytest.raises(HandoffRefused) as caught:
        await ask(Swarm("s", [a, Talker("b"), c], handoffs={"a": ["b"]}))
    assert fault in caught.value.message
    assert caught.value.fields == {"from": "a", "to": str(target)}
    assert c.asked == []


async def test_who_is_not_in_the_table_may_hand_over_to_nobody() -> None:
    with pytest.raises(HandoffRefused, match="allowed: nobody"):
        await ask(Swarm("s", [Talker("a", "b"), Talker("b", "a")], handoffs={"a": ["b"]}))


async def test_more_hand_overs_than_allowed_end_it_before_another_agent_is_asked() -> None:
    a, b, c = Talker("a", "b", "b"), Talker("b", "c", "c"), Talker("c", "a", "a")
    with pytest.raises(LimitExceeded, match=r"more than 4 times: a > b > c > a > b > c; raise max_handoffs") as caught:
        await ask(Swarm("s", [a, b, c], max_handoffs=4))
    assert caught.value.fields == {"limit": 4, "handoffs": ["a", "b", "c", "a", "b", "c"]}
    assert [len(each.asked) for each in (a, b, c)] == [2, 2, 1]


@pytest.mark.parametrize("ping_pong", [0, 1, 2, 3])
async def test_two_agents_may_return_so_often_and_no_more(ping_pong: int) -> None:
    hops = ping_pong + 1
    fine = {"a": ["b"] * ((hops + 1) // 2), "b": ["a"] * (hops // 2)}
    made = [Talker(name, *targets) for name, targets in fine.items()]
    reply = await ask(Swarm("s", made, ping_pong=ping_pong))
    assert reply.metadata["handoff_count"] == hops
    a, b = Talker("a", *["b"] * 5), Talker("b", *["a"] * 5)
    with pytest.raises(HandoffLoop, match=r"'[ab]' and '[ab]' hand over to each other again and again") as caught:
        await ask(Swarm("s", [a, b], ping_pong=ping_pong))
    assert len(caught.value.fields["handoffs"]) == hops + 2
    assert len(a.asked) + len(b.asked) == hops + 1


async def test_another_agent_between_them_begins_the_count_anew() -> None:
    a, b = Talker("a", "b", "b", "b"), Talker("b", "a", "c", "a")
    made = Swarm("s", [a, b, Talker("c", "a")], ping_pong=2)
    reply = await ask(made)
    assert [hop["to"] for hop in reply.metadata["handoffs"]] == ["b", "a", "b", "c", "a", "b", "a"]


NAMES = ("a", "b", "c", "d")


@given(
    plans=st.fixed_dictionaries({name: st.lists(st.sampled_from((*NAMES, "x")), max_size=6) for name in NAMES}),
    table=st.none()
    | st.dictionaries(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=3, unique=True)),
    max_handoffs=st.integers(1, 10),
    ping_pong=st.integers(0, 4),
)
def test_whatever_agents_do_no_rule_is_ever_broken(
    plans: Mapping[str, Sequence[str]],
    table: Mapping[str, Sequence[str]] | None,
    max_handoffs: int,
    ping_pong: int,
) -> None:
    allowed = {source: [t for t in targets if t != source] for source, targets in (table or {}).items()}
    order: list[str] = []

    class Noting(Talker):
        async def execute(self, message: Message) -> Message:
            order.append(self.name)
            return await super().execute(message)

    members = [Noting(name, *plans[name]) for name in NAMES]
    made = Swarm(
        "s", members, handoffs=None if table is None else allowed, max_handoffs=max_handoffs, ping_pong=ping_pong
    )
    ended: AixgoError | None = None
    try:
        reply = asyncio.run(ask(made))
        assert [reply.metadata["active_agent"], reply.payload] == [order[-1], f"{order[-1]}: hi"]
        assert [hop["to"] for hop in reply.metadata["handoffs"]] == order[1:]
    except (HandoffRefused, HandoffLoop, LimitExceeded) as error:
        ended = error
    assert order[0] == "a"
    assert len(order) <= max_handoffs + 1
    for source, target in pairwise(order):
        assert target in (allowed.get(source, []) if table is not None else [n for n in NAMES if n != source])
    assert _returns(order) <= ping_pong
    if isinstance(ended, HandoffLoop):
        assert _returns(ended.fields["handoffs"]) == ping_pong + 1
        assert ended.fields["handoffs"][:-1] == order


def _returns(order: Sequence[str]) -> int:
    """The most hand-overs in a row that went back to where the one before came from, counted the plain way."""
    most = run = 0
    for at in range(2, len(order)):
        run = run + 1 if order[at] == order[at - 2] else 0
        most = max(most, run)
    return most


# what is refused when it is made


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"entry": "bb"}, "entry: swarm 's' has no agent 'bb'; did you mean 'b'?"),
        ({"handoffs": {"x": ["a"]}}, "handoffs.x: swarm 's' has no agent 'x'; known are: a, b"),
        ({"handoffs": {"a": ["x"]}}, "handoffs.a: swarm 's' has no agent 'x'; known are: a, b"),
        ({"handoffs": {"a": ["a"]}}, "handoffs.a: 'a' cannot hand over to itself"),
        ({"descriptions": {"x": ""}}, "descriptions.x: swarm 's' has no agent 'x'"),
        ({"max_handoffs": 11}, "max_handoffs of swarm 's' is 11; pass 1 to 10, or raise limits.max_iterations"),
        ({"max_handoffs": 0}, "max_handoffs of swarm 's' is 0"),
        ({"ping_pong": -1}, "ping_pong of swarm 's' is -1; pass 0 or more"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Swarm("s", ["a", "b"], **options)
    assert text in caught.value.message


def test_fewer_iterations_than_ten_bound_the_hand_overs_by_themselves() -> None:
    async def hops(limits: Limits) -> int:
        plans = {"a": "b", "b": "c", "c": "a"}
        try:
            await ask(Swarm("s", [Talker(name, *[to] * 9) for name, to in plans.items()], limits=limits))
        except LimitExceeded as error:
            return error.fields["limit"]
        return 0

    assert asyncio.run(hops(Limits(max_iterations=3))) == 3
    assert asyncio.run(hops(Limits(max_iterations=50))) == 10


async def test_an_unnamed_member_is_named_by_the_name_that_it_will_have() -> None:
    inner = Sequential("", [Talker("deep")])
    made = Swarm("s", [Talker("a", "s/1"), inner], handoffs={"a": ["s/1"]}, descriptions={"s/1": "deep thoughts"})
    reply = await ask(made)
    assert (reply.payload, reply.metadata["active_agent"]) == ("deep: hi", "s/1")


# failures, streams, budget, cancellation


async def test_an_agents_error_is_the_swarms_with_its_step_and_what_was_spent() -> None:
    class Broken(Talker):
        async def execute(self, message: Message) -> Message:
            raise ValueError("no")

    model = ScriptedModel([Reply(tool_uses=(ToolUse("1", "hand_over", {"to": "b", "reason": "r"}),))])
    with pytest.raises(AgentFailed) as caught:
        await ask(Swarm("s", [llm("a", model), Broken("b")]))
    assert (caught.value.agent_path, caught.value.fields["step"]) == (("s", "b"), 2)
    assert caught.value.usage.llm_calls == 1


async def test_events_of_all_agents_come_up_in_order_with_one_result() -> None:
    events = await stream(Swarm("s", [Talker("a", "b"), Talker("b")]))
    assert [(type(event), event.path) for event in events] == [
        (MemberStarted, ("s", "a")), (MemberFinished, ("s", "a")),
        (MemberStarted, ("s", "b")), (MemberFinished, ("s", "b")),
        (Result, ("s",)),
    ]  # fmt: skip


async def test_a_spent_budget_ends_it() -> None:
    use = Reply("one two three", tool_uses=(ToolUse("1", "hand_over", {"to": "b"}),))
    members = [llm("a", ScriptedModel([use])), llm("b", ScriptedModel(lambda _: "four"))]
    with pytest.raises(BudgetExceeded) as caught:
        await ask(Swarm("s", members, limits=Limits(max_tokens=100)))
    assert caught.value.usage.llm_calls == 1


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_cancelled_run_leaves_no_task_behind(streaming: bool) -> None:
    begun = asyncio.Event()

    @agent
    async def hangs(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    made = Swarm("s", [Talker("a", "hangs"), hangs])
    before = asyncio.all_tasks()
    task: asyncio.Task[Any] = asyncio.create_task(stream(made)) if streaming else asyncio.create_task(ask(made))
    async with asyncio.timeout(5):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == before


# with models


def llm(name: str, model: ScriptedModel) -> LLMAgent:
    spec = AgentSpec(name=name, role="llm", model=("test/m",), prompt=f"You are {name}.", config={"max_tokens": 10})
    return LLMAgent(spec, models=scripted_models(m=model))


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_model_hands_over_with_the_tool_that_it_is_offered(streaming: bool) -> None:
    use = ToolUse("1", "hand_over", {"to": "billing", "reason": "It is about money."})
    triage, billing = ScriptedModel([Reply("One moment.", tool_uses=(use,))]), ScriptedModel(["You owe nothing."])
    made = Swarm(
        "s",
        [llm("triage", triage), llm("billing", billing)],
        handoffs={"triage": ["billing"]},
        descriptions={"billing": "Invoices."},
    )
    if streaming:
        events = await stream(made, content="My invoice?")
        said = [(event.path[-1], event.text) for event in events if isinstance(event, Delta)]
        assert "".join(text for name, text in said if name == "triage") == "One moment."
        assert "".join(text for name, text in said if name == "billing") == "You owe nothing."
        assert [name for name, _ in said] == sorted((name for name, _ in said), reverse=True)
        assert isinstance(events[-1], Result)
        reply = events[-1].message
    else:
        reply = await ask(made, content="My invoice?")
    assert reply.payload == "You owe nothing."
    assert reply.metadata["handoffs"] == [{"from": "triage", "to": "billing", "reason": "It is about money."}]
    assert reply.usage.llm_calls == 2
    (offer,) = triage.requests[0].tools
    assert offer.name == "hand_over"
    assert offer.parameters["properties"]["to"]["enum"] == ["billing"]
    assert "billing: Invoices." in offer.description
    assert billing.requests[0].tools == ()
    assert [turn.content for turn in billing.requests[0].messages] == [
        "You are billing.",
        "My invoice?",
        "triage: One moment.\n(handed over to billing: It is about money.)",
        "My invoice?",
    ]


SCHEMA = {"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]}


async def test_where_a_schema_is_wanted_a_model_that_does_not_hand_over_is_asked_again_without_the_offer() -> None:
    model = ScriptedModel(lambda request: {"score": 1} if request.schema else "Quite good.")
    reply = await ask(Swarm("s", [llm("a", model), "b"]), content=Message("hi", {"response_schema": SCHEMA}))
    assert reply.payload == {"score": 1}
    assert [len(request.tools) for request in model.requests] == [1, 0]


@pytest.mark.parametrize("table", [None, {}])
async def test_an_agent_that_answers_by_the_schema_at_once_is_asked_once(table: Any) -> None:
    model = ScriptedModel(lambda _: {"score": 1})
    made = Swarm("s", [llm("a", model), "b"], handoffs=table)
    reply = await ask(made, content=Message("hi", {"response_schema": SCHEMA}))
    assert reply.text == '{"score":1}'
    assert len(model.requests) == 1


async def test_a_hand_over_comes_before_the_schema() -> None:
    b = Talker("b")
    await ask(
        Swarm("s", [Talker("a", "b"), b], handoffs={"a": ["b"]}), content=Message("", {"response_schema": SCHEMA})
    )
    assert b.asked[0].metadata["response_schema"] == SCHEMA
    assert len(b.asked) == 1


YAML = """
version: 2
agents:
  - {name: triage, role: llm, model: "test/script:triage.yaml"}
  - {name: billing, role: llm, model: "test/fixed:You owe nothing."}
  - {name: repairs, role: llm, model: "test/echo"}
orchestration:
  name: desk
  pattern: swarm
  agents: [repairs, triage, billing]
  config:
    entry: triage
    handoffs: {triage: [billing, repairs], billing: [triage]}
    max_handoffs: 4
    ping_pong: 1
    descriptions: {billing: Invoices.}
"""
SCRIPT = """
- when: {offers: hand_over, user: invoice}
  tool: {name: hand_over, arguments: {to: billing, reason: It is about money.}}
- text: "You said: {user}"
"""


async def test_yaml_makes_the_same(tmp_path: Path) -> None:
    (tmp_path / "desk.yaml").write_text(YAML)
    (tmp_path / "triage.yaml").write_text(SCRIPT)
    models = Models(ModelSettings(), folder=tmp_path)
    runtime = LocalRuntime()
    for made in build_agents(load(tmp_path / "desk.yaml", {}), Resources(models)):
        runtime.register(made)
    async with runtime:
        money, other = [await runtime.call("desk", text) for text in ("My invoice?", "Hello")]
    assert (money.payload, money.metadata["active_agent"]) == ("You owe nothing.", "billing")
    assert money.metadata["handoffs"][0]["reason"] == "It is about money."
    assert (other.payload, other.metadata["active_agent"]) == ("You said: Hello", "triage")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"handoff": {}}, "config.handoff is not known; did you mean 'handoffs'?"),
        ({"max_handoffs": 0}, "config.max_handoffs: Input should be greater than or equal to 1"),
        ({"handoffs": {"a": "b"}}, "config.handoffs.a"),
        ({"ping_pong": -1}, "config.ping_pong: Input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_config_names_the_key(config: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("swarm", "s", ["a", "b"], config, DEFAULT_LIMITS)
    assert text in caught.value.message


# nested


async def test_a_swarm_in_a_swarm_keeps_its_hand_overs_to_itself() -> None:
    inner = Swarm("inner", [Talker("x", "y"), Talker("y")])
    reply = await ask(Swarm("outer", [Talker("a", "inner"), inner]))
    assert reply.payload == "y: hi"
    assert reply.metadata["active_agent"] == "inner"
    assert [hop["to"] for hop in reply.metadata["handoffs"]] == ["inner"]


async def test_what_comes_after_a_swarm_takes_its_reply_as_a_message_and_not_as_orders() -> None:
    model = ScriptedModel(lambda request: request.messages[-1].content.upper())
    first, second = Swarm("one", [Talker("a", "b"), Talker("b")]), Swarm("two", [llm("c", model), llm("d", model)])
    reply = await ask(Sequential("both", [first, second]))
    assert (reply.payload, reply.metadata["active_agent"]) == ("B: HI", "c")
    assert [tool.name for tool in model.requests[0].tools] == ["hand_over"]
    assert (await ask(Sequential("then", [Swarm("o", [Talker("a", "b"), Talker("b")]), llm("c", model)]))).payload
