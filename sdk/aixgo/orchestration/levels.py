"""What goes down the levels of a hierarchy and comes up: goal, level, managers, state; assignments, summaries, errors.

Pure: no I/O. Owns these records and how they stand in metadata. Above: the pattern hierarchical.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator
from pydantic.json_schema import SkipJsonSchema

from aixgo.errors import AixgoError, InvalidInput, InvalidMessage, InvalidReply
from aixgo.message import Message, to_json
from aixgo.orchestration.failures import labelled
from aixgo.plans import MAX_TASK, cut
from aixgo.runtime.contract import Outcome

HIERARCHY = "hierarchy"
"""The metadata of requests."""
STATE_KEY = "hierarchy_state"
"""The metadata of replies: what a team adds to the state."""
MAX_STATE_BYTES = 65_536
MAX_LEVELS = 100
_TOLD = 1000
"""Characters of an error that a manager is told."""


class Assignment(BaseModel):
    """A task for a team; `manager` leads it, where it is a list of workers."""

    model_config = ConfigDict(frozen=True)

    to: str = Field(description="The team.")
    manager: SkipJsonSchema[str | None] = None
    task: str = Field(description="What the team is to do.")

    @field_validator("task")
    @classmethod
    def _bounded_task(cls, value: str) -> str:
        if not value.strip() or len(value) > MAX_TASK:
            raise ValueError(f"a task has 1 to {MAX_TASK} characters, and this one has {len(value)}")
        return value

    def led_by(self, manager: str | None) -> Assignment:
        """The same assignment under that manager."""
        return Assignment(to=self.to, task=self.task, manager=manager)

    def to_json(self) -> dict[str, Any]:
        """As it stands in metadata; without `manager` when there is none."""
        return self.model_dump(mode="json", exclude_none=True)


class Plan(BaseModel):
    """What a manager answers when it is asked who does what."""

    model_config = ConfigDict(frozen=True)

    assignments: tuple[Assignment, ...]


def assignments_model(teams: Collection[str], leads: Collection[str], most: int) -> type[Plan]:
    """The Plan that is valid here: its JSON schema goes to the manager. With one lead there is nothing to choose."""
    return _assignments_model(tuple(teams), tuple(leads), most)


@lru_cache(maxsize=128)
def _assignments_model(teams: tuple[str, ...], leads: tuple[str, ...], most: int) -> type[Plan]:
    """See `assignments_model`. Models are kept, because making one takes a millisecond."""
    fields: dict[str, Any] = {"to": (Literal[teams], ...)}
    if len(leads) > 1:
        lead: Any = Literal[leads]
        fields["manager"] = (lead | None, None)
    assignment: Any = create_model("Assignment", __base__=Assignment, **fields)
    assignments: Any = Annotated[tuple[assignment, ...], Field(min_length=1, max_length=most)]
    return create_model("Plan", __base__=Plan, assignments=(assignments, ...))


class Place(BaseModel):
    """Where in a hierarchy a call is: the metadata `hierarchy` of its request."""

    model_config = ConfigDict(frozen=True)

    goal: str = ""
    level: int = Field(default=1, ge=1, le=MAX_LEVELS)
    managers: tuple[str, ...] = Field(default=(), max_length=MAX_LEVELS)
    state: Mapping[str, Any] = Field(default_factory=dict[str, Any])

    @classmethod
    def of(cls, message: Message) -> Self:
        """The place that a request names; the top, for one that names none. Raises InvalidInput, naming the field."""
        try:
            place = cls.model_validate(message.metadata.get(HIERARCHY) or {})
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
            raise InvalidInput(f"metadata.{HIERARCHY} is {{goal, level, managers, state}}: {faults}") from error
        if (reason := _unusable(place.state)) is not None:
            raise InvalidInput(f"metadata.{HIERARCHY}.state {reason}")
        return place if place.goal else place.model_copy(update={"goal": message.text})

    def below(self, manager: str) -> Place:
        """The place of those that `manager`, who leads here, gives tasks to."""
        return self.model_copy(update={"level": self.level + 1, "managers": (*self.managers, manager)})

    def with_state(self, state: Mapping[str, Any]) -> Place:
        """The same place, and what is known by now."""
        return self.model_copy(update={"state": state})

    def to_json(self) -> dict[str, Any]:
        """As it stands in metadata."""
        return {
            "goal": self.goal,
            "level": self.level,
            "managers": list(self.managers),
            "state": dict(self.state),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What teams bring: summaries and errors by team, and the state with theirs merged into it."""

    summaries: Mapping[str, str]
    errors: Mapping[str, Mapping[str, str]]
    state: Mapping[str, Any]

    @classmethod
    def of(cls, teams: Sequence[str], outcomes: Sequence[Outcome], state: Mapping[str, Any]) -> Found:
        """Those of outcomes, in their order; a later team's entry of the state wins."""
        found = cls({}, {}, state)
        for label, outcome in zip(labelled(teams), outcomes, strict=True):
            found = found._with(label, outcome)
        return found

    def to_json(self) -> dict[str, Any]:
        """As it stands in metadata; without `team_errors` when none failed."""
        told: dict[str, Any] = {"summaries": dict(self.summaries)}
        return told | {"team_errors": dict(self.errors)} if self.errors else told

    def _with(self, key: str, outcome: Outcome) -> Found:
        if outcome.message is None:
            return self._failed(key, cast("AixgoError", outcome.error))
        state: Any = outcome.message.metadata.get(STATE_KEY, {})
        merged: Any = {**self.state, **cast("Mapping[str, Any]", state)} if isinstance(state, Mapping) else state
        if (reason := _unusable(merged)) is not None:
            return self._failed(key, InvalidReply(f"its metadata {STATE_KEY} {reason}"))
        return replace(self, summaries={**self.summaries, key: outcome.message.text}, state=merged)

    def _failed(self, key: str, error: AixgoError) -> Found:
        told = {"class": type(error).__name__, "message": cut(str(error), _TOLD)}
        return replace(self, errors={**self.errors, key: told})


def _unusable(state: Any) -> str | None:
    """Why that is no state; None when it is one."""
    if not isinstance(state, Mapping):
        return f"is a {type(state).__name__}; use a JSON object"
    try:
        size = len(to_json(state))
    except InvalidMessage as error:
        return f"is {error.message}"
    return f"makes {size} bytes of state, and {MAX_STATE_BYTES} are allowed" if size > MAX_STATE_BYTES else None
