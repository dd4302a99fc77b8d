"""Plans: which are valid, what planners are told of those that are not, and references to results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from aixgo.plans import MAX_FILLED, MAX_TASK, Plan, Step, cut, filled, plan_model, references, sorter
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

IDS = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,9}", re.ASCII), fullmatch=True)


def step(name: str, task: str = "do it", *needs: str, agent: str = "a") -> dict[str, Any]:
    return {"id": name, "agent": agent, "task": task, "needs": list(needs)}


def read(*steps: dict[str, Any], **more: Any) -> Plan:
    return plan_model(agents=["a", "b"], **more).model_validate({"steps": list(steps)})


def faults(*steps: dict[str, Any], **more: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        read(*steps, **more)
    return "; ".join(error["msg"] for error in caught.value.errors())


def test_a_plan_has_steps_and_their_needs() -> None:
    plan = read(step("x"), step("y", "use it", "x", agent="b"))
    assert [each.to_json() for each in plan.steps] == [step("x"), step("y", "use it", "x", agent="b")]


def test_a_reference_in_a_task_is_a_need() -> None:
    plan = read(step("x"), step("y"), step("z", "join {step.x}, {step.y} and {step.x}", "y"))
    assert plan.steps[2].needs == ("y", "x")


def test_ids_that_are_numbers_are_read_as_text() -> None:
    plan = plan_model().model_validate({"steps": [{"id": 1, "task": "t"}, {"id": 2, "task": "u {step.1}"}]})
    assert [(each.id, each.needs) for each in plan.steps] == [("1", ()), ("2", ("1",))]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([], "at least 1 item"),
        ([step(str(n)) for n in range(4)], "at most 3 items"),
        ([step("x"), step("x")], "2 steps have the id 'x'; give each its own"),
        ([step("first"), step("y", "t", "frist")], "step 'y' needs 'frist', which is no step; did you mean 'first'?"),
        ([step("x", "use {step.q}")], "step 'x' needs 'q', which is no step; known are: x"),
        ([step("x", "use {step.}")], "step 'x' needs '', which is no step"),
        ([step("x", "t", "x")], "steps need each other in a circle: x > x"),
        ([step("x", "t", "y"), step("y", "{step.x}")], "steps need each other in a circle: "),
        ([step("x", agent="c")], "Input should be 'a' or 'b'"),
        ([step("a b")], "'a b' is no id; use 1 to 64 letters, digits, '_' or '-'"),
        ([step("x", "  ")], "a task has 1 to 10000 characters, and this one has 2"),
        ([step("x", "t" * (MAX_TASK + 1))], "and this one has 10001"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(steps: Sequence[dict[str, Any]], text: str) -> None:
    assert text in faults(*steps, max_steps=3)


def test_everything_that_is_wrong_is_said_at_once_up_to_ten_faults() -> None:
    said = faults(step("x"), step("x", "t", *(f"need{n}" for n in range(40))), max_steps=3)
    assert said.count("; ") >= 9
    assert said.count("which is no step") == 9


def test_steps_that_are_done_can_be_needed_and_not_be_done_again() -> None:
    assert read(step("y", "use {step.x}"), done=["x"]).steps[0].needs == ("x",)
    assert read(done=["x"]).steps == ()
    assert "step 'x' is done already; give the new step another id" in faults(step("x"), done=["x"])


def test_the_schema_names_agents_only_where_steps_have_some() -> None:
    with_agents, without = (plan_model(agents=names).model_json_schema()["$defs"]["Step"] for names in (["a", "b"], []))
    assert with_agents["properties"]["agent"]["enum"] == ["a", "b"]
    assert list(with_agents["properties"]) == ["id", "agent", "task", "needs"]
    assert list(without["properties"]) == ["id", "task", "needs"]
    assert "agent" not in plan_model().model_validate({"steps": [{"id": "x", "task": "t"}]}).steps[0].to_json()


def test_needs_that_are_done_do_not_hold_a_step_up() -> None:
    order = sorter(read(step("y", "t", "x"), step("z", "t", "y"), done=["x"]).steps)
    assert list(order.static_order()) == ["y", "z"]


@given(st.lists(st.one_of(st.text(max_size=9), IDS.map(lambda name: f"{{step.{name}}}"))), st.data())
def test_each_reference_is_replaced_exactly_and_nothing_else_is(pieces: list[str], data: st.DataObject) -> None:
    task = "".join(pieces)
    results = {name: data.draw(st.text(max_size=20) | st.just("{step.x}"), name) for name in references(task)}
    expected = ""
    rest = task
    while (found := re.search(r"\{step\.([^{}]*)\}", rest)) is not None:
        expected += rest[: found.start()] + results[found[1]]
        rest = rest[found.end() :]
    assert filled(task, results) == expected + rest


def test_results_in_a_task_are_bounded_together() -> None:
    results = {"x": "x" * MAX_FILLED, "y": "y" * MAX_FILLED}
    assert len(filled("{step.x}{step.y}{step.x}", results)) <= MAX_FILLED
    assert filled("{step.x}", results) == results["x"]


def test_what_is_no_result_stays_as_it_is() -> None:
    assert filled("{step.x} {other}", {}) == "{step.x} {other}"


@given(st.text(max_size=20), st.integers(0, 25))
def test_a_cut_text_is_a_beginning_and_says_that_it_is_one(text: str, limit: int) -> None:
    made = cut(text, limit)
    assert made == text if len(text) <= limit else len(made) <= max(limit, 1)
    assert text.startswith(made.removesuffix("\N{HORIZONTAL ELLIPSIS}")) or made == text


@given(st.integers(1, 8), st.data())
def test_an_order_exists_exactly_when_there_is_no_circle(count: int, data: st.DataObject) -> None:
    names = [f"s{n}" for n in range(count)]
    needs = {name: data.draw(st.sets(st.sampled_from(names))) for name in names}
    steps = [Step(id=name, task="t", needs=tuple(needs[name])) for name in names]
    left = set(names)
    while free := {name for name in left if not needs[name] & left}:
        left -= free
    if left:
        assert "in a circle" in faults(*(each.to_json() | {"agent": "a"} for each in steps))
    else:
        order = list(sorter(steps).static_order())
        assert all(order.index(need) < order.index(name) for name in names for need in needs[name])
