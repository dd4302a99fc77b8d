"""Plans: steps, what each needs, and what must hold before one is carried out.

Pure: no I/O. Owns the shape of a plan (also as the JSON schema that a planner answers by), its validation, the
references `{step.ID}` to results, and the order that the needs leave. Above: the role `planner` and the pattern
planning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic.json_schema import SkipJsonSchema

from aixgo.names import nearest

MAX_STEPS = 20
"""Steps of one plan when nobody says otherwise."""
MAX_TASK = 10_000
"""Characters of one step's task."""
MAX_FILLED = 100_000
"""Characters that the results put into one task may have together."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SHOWN = 10
_REFERENCE = re.compile(r"\{step\.([^{}]*)\}")


class Step(BaseModel):
    """One step. `needs` are the steps that must be done before it, those that its task refers to included; `agent` is
    empty in a plan that assigns none.
    """

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: str
    agent: SkipJsonSchema[str] = ""
    task: str = Field(description="What to do. {step.ID} stands for the result of the step with that id.")
    needs: tuple[str, ...] = Field(
        default=(), validate_default=True, description="The ids of the steps that must be done before it."
    )

    @field_validator("id")
    @classmethod
    def _usable_id(cls, value: str) -> str:
        if not _ID.fullmatch(value):
            raise ValueError(f"{value[:80]!r} is no id; use 1 to 64 letters, digits, '_' or '-'")
        return value

    @field_validator("task")
    @classmethod
    def _bounded_task(cls, value: str) -> str:
        if not value.strip() or len(value) > MAX_TASK:
            raise ValueError(f"a task has 1 to {MAX_TASK} characters, and this one has {len(value)}")
        return value

    @field_validator("needs")
    @classmethod
    def _with_references(cls, value: tuple[str, ...], info: Any) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*value, *references(info.data.get("task", "")))))

    def to_json(self) -> dict[str, Any]:
        """As it stands in payloads and metadata; without `agent` when none is assigned."""
        return self.model_dump(mode="json", exclude=None if self.agent else {"agent"})


class Plan(BaseModel):
    """What a planner answers."""

    model_config = ConfigDict(frozen=True)

    steps: tuple[Step, ...]


def plan_model(*, agents: Collection[str] = (), max_steps: int = MAX_STEPS, done: Collection[str] = ()) -> type[Plan]:
    """The Plan that is valid here: its JSON schema goes to the planner, and its ValidationError says what is wrong.

    `agents` are those that steps can be assigned to; without any, steps have none. `done` are ids of steps whose
    results stand already: they may be needed, may not be used again, and make a plan without steps possible.
    """
    return _plan_model(tuple(agents), max_steps, tuple(done))


@lru_cache(maxsize=128)
def _plan_model(agents: tuple[str, ...], max_steps: int, done: tuple[str, ...]) -> type[Plan]:
    """See `plan_model`. Models are kept, because making one takes a millisecond."""
    step: Any = Step
    if agents:
        agent: Any = Literal[agents]
        step = create_model("Step", __base__=Step, agent=(agent, ...))
    # Lengths of texts are checked in Step: not every vendor takes them in a schema.
    steps: Any = Annotated[
        tuple[step, ...],
        Field(min_length=0 if done else 1, max_length=max_steps),
        AfterValidator(partial(_checked, done=frozenset(done))),
    ]
    return create_model("Plan", __base__=Plan, steps=(steps, ...))


def problems(steps: Sequence[Step], done: Collection[str] = ()) -> Iterator[str]:
    """What keeps these steps from being carried out: ids twice, needs that are no steps, circles."""
    ids = Counter(step.id for step in steps)
    for name in (name for name, count in ids.items() if count > 1):
        yield f"{ids[name]} steps have the id {name!r}; give each its own"
    for name in (name for name in ids if name in done):
        yield f"step {name!r} is done already; give the new step another id"
    known = {*ids, *done}
    for step in steps:
        for need in step.needs:
            if need not in known:
                yield f"step {step.id!r} needs {need!r}, which is no step; {nearest(need, known)}"
    circle = _circle(steps)
    if circle:
        yield f"steps need each other in a circle: {' > '.join(circle)}"


def references(task: str) -> tuple[str, ...]:
    """The ids that a task refers to as `{step.ID}`, each once, in order."""
    return tuple(dict.fromkeys(_REFERENCE.findall(task)))


def filled(task: str, results: Mapping[str, str]) -> str:
    """`task` with each `{step.ID}` replaced by that step's result; what stands in a result is left as it is.

    Results are cut so that together they have at most MAX_FILLED characters.
    """
    count = len(_REFERENCE.findall(task))
    return _REFERENCE.sub(lambda found: cut(results.get(found[1], found[0]), MAX_FILLED // count), task)


def sorter(steps: Iterable[Step]) -> TopologicalSorter[str]:
    """The steps' ids in the order that their needs leave; needs that are none of the steps are done already."""
    steps = tuple(steps)
    ids = {step.id for step in steps}
    return TopologicalSorter({step.id: [need for need in step.needs if need in ids] for step in steps})


def cut(text: str, limit: int) -> str:
    """`text`, or its beginning and an ellipsis: `limit` characters at most."""
    return text if len(text) <= limit else f"{text[: max(limit - 1, 0)]}\N{HORIZONTAL ELLIPSIS}"


def _checked(steps: tuple[Step, ...], *, done: frozenset[str]) -> tuple[Step, ...]:
    found = "; ".join(islice(problems(steps, done), _SHOWN))
    if found:
        raise ValueError(found)
    return steps


def _circle(steps: Sequence[Step]) -> Sequence[str]:
    try:
        sorter(steps).prepare()
    except CycleError as error:
        return error.args[1]
    return ()
