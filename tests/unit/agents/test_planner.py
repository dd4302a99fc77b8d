"""The role planner: how it thinks, what it plans, and how it corrects itself; and the search in a tree."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from aixgo.agents.planner import PlannerAgent
from aixgo.agents.search import Bounds, Candidate, Node, Tree, search
from aixgo.config.spec import AgentSpec
from aixgo.conversation import Turn, with_turns
from aixgo.errors import BudgetExceeded, ConfigError, InvalidCompletion, InvalidInput, ProviderRejected
from aixgo.events import Delta, Event, Result
from aixgo.llm.contract import CompletionRequest
from aixgo.llm.structured import strict_schema
from aixgo.message import Message, to_json
from aixgo.plans import plan_model
from aixgo.runtime.contract import CallOptions
from aixgo.testing import ScriptedModel, running, scripted_models
from hypothesis import given, settings
from hypothesis import strategies as st

PLAN: dict[str, Any] = {
    "steps": [{"id": "a", "task": "begin", "needs": []}, {"id": "b", "task": "use {step.a}", "needs": ["a"]}]
}
BETTER: dict[str, Any] = {"steps": [{"id": "c", "task": "at once", "needs": []}]}


class Mind:
    """A model: it answers by what it is asked for. `answers` replaces answers, by the key of the schema that asks."""

    def __init__(self, **answers: Any) -> None:
        known: dict[str, Any] = {"text": "I think so.", "steps": PLAN, "flaws": {"flaws": []}}
        self.answers: dict[str, Any] = {**known, **answers}
        self.model = ScriptedModel(self.answer)

    def answer(self, request: CompletionRequest) -> Any:
        key = asks(request)
        answer = self.answers[key]
        if callable(answer):
            return answer(request)
        return cast("list[Any]", answer).pop(0) if isinstance(answer, list) else answer

    @property
    def asked(self) -> Sequence[str]:
        return [asks(request) for request in self.model.requests]

    def planner(self, prompt: str = "", **config: Any) -> PlannerAgent:
        spec = AgentSpec(name="planner", role="planner", model=("test/m",), prompt=prompt, config=config)
        return PlannerAgent(spec, models=scripted_models(m=self.model))


def asks(request: CompletionRequest) -> str:
    """The first key of the schema that a request has; `text` without one."""
    return "text" if request.schema is None else next(iter(request.schema["properties"]))


async def run(agent: PlannerAgent, content: Any = "the goal", **options: Any) -> Message:
    async with running(agent) as runtime:
        return await runtime.call("planner", content, options=CallOptions(**options))


async def stream(agent: PlannerAgent) -> list[Event]:
    async with running(agent) as runtime, runtime.stream("planner", "the goal") as events:
        return [event async for event in events]


# chain of thought, and what all strategies share


async def test_it_thinks_first_and_plans_then() -> None:
    mind = Mind()
    reply = await run(mind.planner("Plan well.", temperature=0, max_tokens=99), Message("the goal", session_id="s"))
    assert reply.payload == {"goal": "the goal", **PLAN}
    assert reply.session_id == "s"
    assert reply.metadata == {"strategy": "chain", "reasoning": "I think so.", "model": "m", "stop_reason": "stop"}
    assert reply.usage.llm_calls == 2
    first, second = mind.model.requests
    assert [(turn.role, turn.content.split("\n")[0]) for turn in first.messages] == [
        ("system", "Plan well."), ("user", "the goal"),
    ]  # fmt: skip
    assert [(turn.role, turn.content) for turn in second.messages[1:]] == [
        ("user", "the goal"),
        ("assistant", "This outline was found:\nI think so."),
        ("user", "Now give the plan."),
    ]
    assert [(request.temperature, request.max_tokens) for request in mind.model.requests] == [(0, 99)] * 2


async def test_references_are_needs_in_its_plan_too() -> None:
    steps: list[dict[str, Any]] = [{"id": "a", "task": "t", "needs": []}, {"id": "b", "task": "{step.a}", "needs": []}]
    reply = await run(Mind(steps={"steps": steps}).planner())
    assert reply.payload == {"goal": "the goal", "steps": [steps[0], {**steps[1], "needs": ["a"]}]}


async def test_a_conversation_stands_before_the_goal() -> None:
    mind = Mind()
    await run(mind.planner(), with_turns(Message("the goal"), [Turn("assistant", "tea?", "waiter")]))
    assert mind.model.requests[0].messages[1].content == "waiter: tea?"


async def test_a_plan_that_is_none_is_told_to_the_model_and_in_the_end_refused() -> None:
    broken = {"steps": [{"id": "a", "task": "t", "needs": ["z"]}]}
    mind = Mind(steps=[broken, PLAN])
    assert (await run(mind.planner())).payload == {"goal": "the goal", **PLAN}
    assert "step 'a' needs 'z', which is no step" in mind.model.requests[2].messages[-1].content
    with pytest.raises(InvalidCompletion, match="step 'a' needs 'z'"):
        await run(Mind(steps=broken).planner())
    with pytest.raises(InvalidCompletion, match="at most 1 item"):
        await run(Mind().planner(max_steps=1))


async def test_agents_in_the_metadata_are_assigned() -> None:
    steps: list[dict[str, Any]] = [{"id": "a", "agent": "writer", "task": "t", "needs": []}]
    mind = Mind(steps={"steps": steps})
    reply = await run(mind.planner(), Message("the goal", {"agents": {"writer": "writes", "other": None}}))
    assert reply.payload == {"goal": "the goal", "steps": steps}
    assert "- writer: writes\n- other" in mind.model.requests[0].messages[-1].content
    schema: Any = mind.model.requests[1].schema
    assert schema["$defs"]["Step"]["properties"]["agent"]["enum"] == ["writer", "other"]


@pytest.mark.parametrize("agents", ["writer", {str(n): "" for n in range(101)}])
async def test_agents_that_cannot_be_read_are_refused(agents: Any) -> None:
    with pytest.raises(InvalidInput, match=r"metadata\.agents must be an object, agent -> description, of at most 100"):
        await run(Mind().planner(), Message("x", {"agents": agents}))


def asked_by_a_pattern(**more: Any) -> Message:
    schema = strict_schema(plan_model(agents=["w"], max_steps=3, done=more.get("done", ())).model_json_schema())
    return Message("the goal", {"response_schema": schema, "agents": {"w": "works"}, **more})


async def test_a_schema_in_the_metadata_is_followed_and_a_patterns_own_is_checked() -> None:
    steps: list[dict[str, Any]] = [{"id": "a", "agent": "w", "task": "t {step.old}", "needs": ["old"]}]
    mind = Mind(steps=[{"steps": [{**steps[0], "needs": ["new"]}]}, {"steps": steps}])
    reply = await run(mind.planner(), asked_by_a_pattern(done={"old": {}}))
    assert reply.payload == {"steps": steps}
    assert "step 'a' needs 'new', which is no step" in mind.model.requests[2].messages[-1].content
    assert "Assign each step" not in mind.model.requests[0].messages[-1].content


async def test_somebody_elses_schema_is_followed_as_it_is() -> None:
    schema = {"type": "object", "properties": {"todo": {"type": "array", "items": {"type": "string"}}}}
    mind = Mind(todo={"todo": ["x"]})
    reply = await run(mind.planner(critique=1), Message("x", {"response_schema": schema}))
    assert reply.payload == {"todo": ["x"]}
    assert mind.model.requests[1].schema == schema
    with pytest.raises(InvalidCompletion):
        await run(Mind(todo="no object").planner(), Message("x", {"response_schema": schema}))


async def test_a_chain_of_thought_is_streamed_before_the_result() -> None:
    events = await stream(Mind().planner())
    assert [event.text for event in events if isinstance(event, Delta)] == ["I ", "think ", "so."]
    assert isinstance(events[-1], Result)
    assert events[-1].message.payload == {"goal": "the goal", **PLAN}
    assert events[-1].message.metadata["reasoning"] == "I think so."
    assert sum(isinstance(event, Result) for event in events) == 1


# critique


async def test_it_corrects_the_flaws_that_it_finds_until_it_finds_none() -> None:
    mind = Mind(steps=[PLAN, BETTER], flaws=[{"flaws": ["too long"]}, {"flaws": []}])
    reply = await run(mind.planner(critique=5))
    assert reply.payload == {"goal": "the goal", **BETTER}
    assert reply.metadata["critiques"] == [["too long"], []]
    assert mind.asked == ["text", "steps", "flaws", "steps", "flaws"]
    again = mind.model.requests[3].messages
    assert again[-1].content == "The plan has these flaws; give a better one:\n- too long"
    assert '"use {step.a}"' in again[-2].content
    assert '"at once"' in mind.model.requests[4].messages[-1].content


async def test_it_corrects_itself_no_more_often_than_it_may() -> None:
    mind = Mind(flaws={"flaws": ["still bad"]})
    reply = await run(mind.planner(critique=2))
    assert reply.metadata["critiques"] == [["still bad"]] * 2
    assert mind.asked.count("flaws") == 2
    assert mind.asked.count("steps") == 3


# tree


def proposing(*names: str) -> Any:
    return {"thoughts": [{"thought": name, "finished": name.endswith("!")} for name in names]}


async def test_a_tree_is_expanded_where_it_is_most_promising_and_its_best_leaf_becomes_the_plan() -> None:
    thoughts = [proposing("north", "south"), proposing("climb", "rest"), proposing("top!", "fall")]
    scores = [{"scores": [0.2, 0.8]}, {"scores": [0.9, 0.1]}, {"scores": [0.7, 0.0]}]
    mind = Mind(thoughts=thoughts, scores=scores)
    reply = await run(mind.planner(strategy="tree", branching=2, depth=3, beam=1))
    assert mind.asked == ["thoughts", "scores"] * 3 + ["steps"]
    tree = reply.metadata["tree"]
    assert [(each["id"], each["parent"], each["depth"], each["thought"], each["score"]) for each in tree["nodes"]] == [
        (1, 0, 1, "north", 0.2), (2, 0, 1, "south", 0.8),
        (3, 2, 2, "climb", 0.9), (4, 2, 2, "rest", 0.1),
        (5, 3, 3, "top!", 0.7), (6, 3, 3, "fall", 0.0),
    ]  # fmt: skip
    assert (tree["best"], tree["expansions"], tree["nodes"][4]["finished"]) == (5, 3, True)
    outline = mind.model.requests[-1].messages[-2].content
    assert outline == "This outline was found:\n1. south\n2. climb\n3. top!"
    assert "So far it begins like this:\n1. south\nPropose at most 2" in mind.model.requests[2].messages[-1].content
    assert reply.usage.llm_calls == 7


async def test_scores_that_fit_no_thoughts_are_asked_for_again() -> None:
    mind = Mind(thoughts=proposing("a", "b"), scores=[{"scores": [0.5]}, {"scores": [0.5, 200]}, {"scores": [0.5, 40]}])
    reply = await run(mind.planner(strategy="tree", depth=1))
    assert mind.asked == ["thoughts", "scores", "scores", "scores", "steps"]
    assert [each["score"] for each in reply.metadata["tree"]["nodes"]] == [0.5, 0.4]


async def test_a_tree_that_does_not_grow_leaves_a_plan_without_an_outline() -> None:
    mind = Mind(thoughts=proposing())
    async with running(mind.planner(strategy="tree")) as runtime, runtime.stream("planner", "x") as events:
        seen = [event async for event in events]
    assert [type(event) for event in seen] == [Result]
    assert mind.asked == ["thoughts", "steps"]
    assert [turn.role for turn in mind.model.requests[-1].messages] == ["system", "user"]


async def test_the_outline_of_a_tree_is_streamed() -> None:
    mind = Mind(thoughts=proposing("go!"), scores={"scores": [1]})
    events = await stream(mind.planner(strategy="tree"))
    assert [event.text for event in events if isinstance(event, Delta)] == ["1. go!"]


# sub-goals


async def test_a_goal_is_taken_apart_into_sub_goals_and_these_into_tasks() -> None:
    def tasks(request: CompletionRequest) -> Any:
        number = request.messages[-1].content.partition("reach sub-goal ")[2][0]
        return {"tasks": [f"t{number}x", f"t{number}y"]}

    mind = Mind(subgoals={"subgoals": ["first", "second"]}, tasks=tasks)
    reply = await run(mind.planner(strategy="hierarchical", max_subgoals=2))
    assert reply.metadata["subgoals"] == [
        {"goal": "first", "steps": ["t1x", "t1y"]}, {"goal": "second", "steps": ["t2x", "t2y"]},
    ]  # fmt: skip
    assert mind.model.requests[-1].messages[-2].content == (
        "This outline was found:\n1. first\n   1.1 t1x\n   1.2 t1y\n2. second\n   2.1 t2x\n   2.2 t2y"
    )
    assert mind.asked == ["subgoals", "tasks", "tasks", "steps"]
    with pytest.raises(InvalidCompletion, match="at most 1 item"):
        await run(mind.planner(strategy="hierarchical", max_subgoals=1))


async def test_when_the_tasks_of_one_sub_goal_fail_the_others_are_not_waited_for() -> None:
    async def tasks(request: CompletionRequest) -> Any:
        if "sub-goal 1" in request.messages[-1].content:
            raise ProviderRejected("no")
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    mind = Mind(subgoals={"subgoals": ["first", "second"]}, tasks=tasks)
    with pytest.raises(ProviderRejected) as caught:
        await run(mind.planner(strategy="hierarchical"))
    assert caught.value.usage.llm_calls >= 1
    assert asyncio.all_tasks() - before == set()


# limits and configuration


async def test_a_budget_ends_it() -> None:
    with pytest.raises(BudgetExceeded):
        await run(Mind().planner(max_tokens=100), max_tokens=50)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"strategy": "tre"}, "config: strategy: Input should be 'chain', 'tree' or 'hierarchical'"),
        ({"critique": 6}, "critique: Input should be less than or equal to 5"),
        ({"branching": 2}, "branching: only for strategy tree, and this is chain; remove it"),
        ({"strategy": "tree", "max_subgoals": 2}, "max_subgoals: only for strategy hierarchical, and this is tree"),
        ({"strategy": "tree", "max_expansions": 101}, "max_expansions: Input should be less than or equal to 100"),
        ({"max_step": 2}, "unknown key 'max_step'; did you mean 'max_steps'?"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(config: Mapping[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Mind().planner(**config)
    assert text in caught.value.message


# the search itself


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Bounds, Mapping[tuple[str, ...], Sequence[Candidate]]]:
    """What comes after each path of thoughts, and how far to go."""
    bounds = Bounds(
        branching=draw(st.integers(1, 3)),
        depth=draw(st.integers(1, 4)),
        max_expansions=draw(st.integers(1, 9)),
        method=draw(st.sampled_from(["beam", "best_first"])),
        beam=draw(st.integers(1, 3)),
        concurrency=draw(st.integers(1, 3)),
    )
    world: dict[tuple[str, ...], Sequence[Candidate]] = {}
    paths: list[tuple[str, ...]] = [()]
    for path in paths:
        count = draw(st.integers(0, 4))
        scores = st.floats(0, 1, allow_nan=False)
        world[path] = [Candidate(str(n), draw(scores), draw(st.booleans())) for n in range(count)]
        if len(path) < bounds.depth - 1 and len(paths) < 30:
            paths += [(*path, each.thought) for each in world[path]]
    return bounds, world


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_a_search_expands_no_more_than_it_may_and_finds_the_best_leaf(
    drawn: tuple[Bounds, Mapping[tuple[str, ...], Sequence[Candidate]]],
) -> None:
    bounds, world = drawn
    asked: list[tuple[str, ...]] = []

    async def expand(thoughts: Sequence[str]) -> Sequence[Candidate]:
        asked.append(tuple(thoughts))
        return world.get(tuple(thoughts), ())

    tree = asyncio.run(search(expand, bounds))
    assert len(asked) == len(set(asked)) == len(tree.expanded) <= bounds.max_expansions
    assert all(len(path) < bounds.depth for path in asked)
    assert sorted(asked) == sorted(tuple(tree.thoughts(tree.nodes[id_])) for id_ in tree.expanded)
    children = {node.id: [other for other in tree.nodes if other.parent == node.id] for node in tree.nodes}
    assert all(len(each) <= bounds.branching for each in children.values())
    assert not any(children[node.id] for node in tree.nodes if node.finished)
    leaves = [node for node in tree.nodes if not children[node.id]]
    ended = [n for n in leaves if n.finished or n.depth == bounds.depth or n.id in tree.expanded]
    assert tree.best in (ended or leaves)
    assert tree.best.score == max(node.score for node in ended or leaves)
    if bounds.method == "beam":
        for depth in range(1, bounds.depth):
            assert sum(tree.nodes[id_].depth == depth for id_ in tree.expanded) <= bounds.beam


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_best_first_always_expands_the_best_that_is_open(
    drawn: tuple[Bounds, Mapping[tuple[str, ...], Sequence[Candidate]]],
) -> None:
    bounds, world = drawn
    bounds = Bounds(bounds.branching, bounds.depth, bounds.max_expansions, "best_first")

    async def expand(thoughts: Sequence[str]) -> Sequence[Candidate]:
        return world.get(tuple(thoughts), ())

    tree = asyncio.run(search(expand, bounds))
    known = [tree.nodes[0]]
    for at, id_ in enumerate(tree.expanded):
        still_open = [node for node in known if tree.open(node) and node.id not in tree.expanded[:at]]
        assert tree.nodes[id_].score == max(node.score for node in still_open)
        known += [node for node in tree.nodes if node.parent == id_]


def test_of_equal_leaves_the_first_is_the_best_and_open_ones_count_only_without_finished() -> None:
    tree = Tree(Bounds(depth=3))
    root = tree.nodes[0]
    tree.grow(root, [Candidate("open", 0.9), Candidate("done", 0.5, True), Candidate("too", 0.5, True)])
    assert tree.thoughts(tree.best) == ["done"]
    assert tree.best == Node(2, 0, 1, "done", 0.5, True)
    tree = Tree(Bounds(depth=3))
    tree.grow(root, [Candidate("a", 0.1), Candidate("b", 0.9)])
    assert tree.thoughts(tree.best) == ["b"]
    assert to_json(tree.to_json())
