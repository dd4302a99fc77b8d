"""Python functions as tools: their schema, their arguments, their results."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from aixgo.errors import ConfigError, ToolError
from aixgo.tools import FunctionTool, Tool, tool
from aixgo.tools.contract import MAX_DESCRIPTION, acceptable_name, as_text, offer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field


class Point(BaseModel):
    x: int
    y: int = 0


@tool
def place(
    at: Point,
    label: Annotated[str, Field(description="What it is called.", max_length=5)],
    kind: Literal["dot", "ring"] = "dot",
    *,
    json: bool = False,
    _note: str | None = None,
) -> dict[str, Any]:
    """Places a point.

    Args:
        at: where.
    """
    return {"at": at, "label": label, "kind": kind, "json": json, "note": _note}


def test_the_schema_comes_from_the_type_hints_and_the_description_from_the_docstring():
    assert isinstance(place, Tool)
    assert place.name == "place"
    assert place.description == "Places a point.\n\nArgs:\n    at: where."
    assert place.parameters["type"] == "object"
    assert place.parameters["required"] == ["at", "label"]
    assert place.parameters["additionalProperties"] is False
    properties = place.parameters["properties"]
    assert list(properties) == ["at", "label", "kind", "json", "_note"]
    assert properties["label"] == {"type": "string", "description": "What it is called.", "maxLength": 5}
    assert properties["kind"] == {"type": "string", "enum": ["dot", "ring"], "default": "dot"}
    assert properties["at"] == {"$ref": "#/$defs/Point"}


async def test_arguments_are_converted_to_what_the_hints_say_and_defaults_are_the_functions_own():
    assert await place.call({"at": {"x": "1"}, "label": "a"}) == {
        "at": {"x": 1, "y": 0},
        "label": "a",
        "kind": "dot",
        "json": False,
        "note": None,
    }


def test_a_tool_is_still_the_function():
    assert place(Point(x=1), "a", json=True)["json"] is True


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"label": "a"}, "at: Field required"),
        ({"at": {"x": "far"}, "label": "a"}, "at.x: Input should be a valid integer"),
        ({"at": {"x": 1}, "label": "too long"}, "label: String should have at most 5 characters"),
        ({"at": {"x": 1}, "label": "a", "kind": "box"}, "kind: Input should be 'dot' or 'ring'"),
        ({"at": {"x": 1}, "label": "a", "colour": 1}, "colour: Extra inputs are not permitted"),
    ],
)
async def test_wrong_arguments_are_told_by_name_without_their_values(arguments: dict[str, Any], told: str):
    with pytest.raises(ToolError) as caught:
        await place.call(arguments)
    assert caught.value.message.startswith("wrong arguments for tool 'place': ")
    assert told in caught.value.message
    assert "far" not in caught.value.message
    assert "too long" not in caught.value.message


async def test_a_function_without_hints_or_parameters_takes_anything_or_nothing():
    assert await tool(name="any")(lambda value: value).call({"value": [1, {"a": None}]}) == [1, {"a": None}]
    nothing = FunctionTool(lambda: "done", name="nothing")
    assert nothing.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert await nothing.call({}) == "done"


async def test_methods_and_callable_objects_are_tools_too():
    class Counter:
        count = 0

        def add(self, by: int) -> int:
            self.count += by
            return self.count

        async def __call__(self, by: int) -> int:
            return self.add(by)

    counter = Counter()
    assert await tool(counter.add).call({"by": 2}) == 2
    assert await tool(name="counter")(counter).call({"by": "3"}) == 5


@dataclasses.dataclass
class Found:
    day: date


@pytest.mark.parametrize(
    ("result", "output"),
    [
        ("text", "text"),
        (None, None),
        (Point(x=1), {"x": 1, "y": 0}),
        ([Found(date(2026, 1, 2))], [{"day": "2026-01-02"}]),
        ({1: (2, 3)}, {"1": [2, 3]}),
        (b"bytes", "bytes"),
    ],
)
async def test_a_result_is_told_as_json(result: Any, output: Any):
    assert await FunctionTool(lambda: result, name="t").call({}) == output


@pytest.mark.parametrize("result", [object(), b"\xff", {"a": object()}, ContextVar("v")])
async def test_a_result_that_is_no_json_is_a_tool_error(result: Any):
    with pytest.raises(ToolError, match=r"tool 't' returned a \w+, which cannot be told as JSON"):
        await FunctionTool(lambda: result, name="t").call({})


async def test_what_a_function_raises_is_raised_as_it_is():
    def fails() -> None:
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there"):
        await tool(fails).call({})


async def test_a_thread_sees_the_context_of_the_call():
    who: ContextVar[str] = ContextVar("who")
    who.set("caller")

    @tool
    def asks() -> str:
        return who.get()

    assert await asks.call({}) == "caller"


async def test_any_number_of_blocking_functions_run_at_the_same_time():
    meeting = threading.Barrier(60, timeout=20)
    meet = FunctionTool(lambda: meeting.wait() >= 0, name="meet")
    assert await asyncio.gather(*(meet.call({}) for _ in range(60))) == [True] * 60


async def test_a_function_that_wants_to_end_the_process_is_a_failed_tool():
    async def leaves() -> None:
        sys.exit(3)

    for function in (lambda: sys.exit(3), leaves):
        with pytest.raises(ToolError, match="tool 't' wanted to end the process"):
            await FunctionTool(function, name="t").call({})


async def test_a_function_that_raises_stop_iteration_fails_as_any_other():
    with pytest.raises(RuntimeError, match="StopIteration"):
        await FunctionTool(lambda: next(iter(())), name="t").call({})


def test_a_function_that_never_returns_does_not_hold_up_the_end_of_the_process():
    code = (
        "import asyncio, threading\n"
        "from aixgo.tools import FunctionTool\n"
        "stuck = FunctionTool(lambda: threading.Event().wait(), name='stuck')\n"
        "async def main():\n"
        "    try:\n"
        "        await asyncio.wait_for(stuck.call({}), 0.05)\n"
        "    except TimeoutError:\n"
        "        print('gave up')\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "gave up\n"


def _spread(*values: int) -> None: ...
def _named(**values: int) -> None: ...
def _positional(value: int, /) -> None: ...
def _unreadable(value: "Nowhere") -> None: ...  # noqa: F821, UP037
def _no_json(value: ContextVar[int]) -> None: ...


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_spread, "cannot be given by name"),
        (_named, "cannot be given by name"),
        (_positional, "cannot be given by name"),
        (_unreadable, "cannot be read: name 'Nowhere' is not defined"),
        (_no_json, "has a type that no JSON can hold"),
        (lambda: None, "tool name '<lambda>' is not usable"),
    ],
)
def test_a_function_that_cannot_be_a_tool_is_refused_when_it_is_made(function: Callable[..., Any], told: str):
    with pytest.raises(ConfigError, match=told):
        tool(function)


@given(st.text())
def test_any_name_becomes_one_that_vendors_take(name: str):
    made = acceptable_name(name)
    assert FunctionTool(lambda: 1, name=made).name == made


def test_a_long_description_is_cut_for_the_model():
    assert len(offer(FunctionTool(lambda: 1, name="t", description="x" * 5000)).description) == MAX_DESCRIPTION


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(), st.lists), st.integers(1, 50))
def test_an_output_is_whole_or_cut_with_a_note(output: Any, limit: int):
    whole = as_text(output, 1_000_000)
    shown = as_text(output, limit)
    assert shown == whole if len(whole) <= limit else shown.startswith(whole[:limit] + "\n[cut: ")
