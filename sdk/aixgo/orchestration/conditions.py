"""Conditions on a message: when a step is taken, as YAML can say it.

Owns their language and their truth, and nothing else. Above: patterns with conditional steps.

    when:
      polish: {metadata.language: en}                 # equals
      shorten: {text: {contains: lorem}, payload.words: {above: 100}}     # all must hold
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, RootModel, field_validator

from aixgo.message import Message

ROOTS = ("text", "payload", "metadata")
_ABSENT = object()


class Test(BaseModel):
    """What must be true of one value; every key that is given must hold. What is absent fails all but `not` and
    `exists: false`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    equals: Any = None
    not_: Any = Field(default=None, alias="not", description="The value is another one, or absent.")
    in_: tuple[Any, ...] | None = Field(default=None, alias="in", description="The value is one of these.")
    contains: Any = Field(default=None, description="A text has this in it (in any case), a list has it as an item.")
    above: float | None = None
    below: float | None = None
    exists: bool | None = None

    def holds(self, value: Any) -> bool:
        """Whether it is true of `value`."""
        return all(_CHECKS[key](value, getattr(self, key)) for key in self.model_fields_set)


class Condition(RootModel[dict[str, Any]]):
    """Paths to what must be true there. A path is `text`, `payload`, `payload.a.b` or `metadata.key`."""

    model_config = ConfigDict(frozen=True)

    @field_validator("root")
    @classmethod
    def _readable(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("a condition has at least one path, for example metadata.language")
        for path in value:
            if path.partition(".")[0] not in ROOTS:
                raise ValueError(f"path {path!r} begins with none of {', '.join(ROOTS)}")
        return {path: _test(test) for path, test in value.items()}

    def __call__(self, message: Message) -> bool:
        """Whether all of it is true of `message`."""
        return all(test.holds(_at(message, path)) for path, test in self.root.items())


Predicate: TypeAlias = Callable[[Message], bool]
"""A condition in Python: a Condition, or any function of the message."""


def _test(given: Any) -> Test:
    if isinstance(given, Test):
        return given
    return Test.model_validate(given) if isinstance(given, Mapping) else Test(equals=given)


def _at(message: Message, path: str) -> Any:
    root, *keys = path.split(".")
    value: Any = message.text if root == "text" else getattr(message, root)
    for key in keys:
        if not isinstance(value, Mapping):
            return _ABSENT
        value = cast("Mapping[str, Any]", value).get(key, _ABSENT)
    return value


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted.casefold() in value.casefold()
    return isinstance(value, (list, tuple)) and wanted in value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _above(value: Any, limit: float) -> bool:
    number = _number(value)
    return number is not None and number > limit


def _below(value: Any, limit: float) -> bool:
    number = _number(value)
    return number is not None and number < limit


_CHECKS: Mapping[str, Callable[[Any, Any], bool]] = {
    "equals": lambda value, wanted: value is not _ABSENT and value == wanted,
    "not_": lambda value, unwanted: value is _ABSENT or value != unwanted,
    "in_": lambda value, wanted: value is not _ABSENT and value in wanted,
    "contains": _contains,
    "above": _above,
    "below": _below,
    "exists": lambda value, wanted: (value is not _ABSENT) == wanted,
}
