"""Conditions on a message: when a step is taken, as YAML can say it.

Owns their language and their truth, and nothing else. Above: patterns with conditional steps.

    when:
      polish: {metadata.language: en}                 # equals
      shorten: {text: {contains: lorem}, payload.words: {above: 100}}     # all must hold
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, field_validator

from aixgo.message import Message

ROOTS = ("text", "payload", "metadata")
_ABSENT = object()
_LONGEST_INDEX = 10


class Comparison(BaseModel):
    """What must be true of one value; every key that is given must hold. What is absent fails all but `not` and
    `exists: false`. Values are compared as JSON values are: `true` is not 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    equals: Any = None
    not_: Any = Field(default=None, alias="not", description="The value is another one, or absent.")
    in_: tuple[Any, ...] | None = Field(default=None, alias="in", description="The value is one of these.")
    contains: Any = Field(default=None, description="A text has this in it (in any case), a list has it as an item.")
    above: float | None = Field(default=None, description="A number greater than this.")
    below: float | None = Field(default=None, description="A number less than this.")
    exists: bool | None = Field(default=None, description="Whether there is such a value, null included.")

    def holds(self, value: Any) -> bool:
        """Whether it is true of `value`."""
        return all(_CHECKS[key](value, getattr(self, key)) for key in self.model_fields_set)


class Condition(RootModel[dict[str, Any]]):
    """Paths to what must be true there. A path is `text`, `payload`, `payload.a.b` or `metadata.key`; a number below a
    list is an item's place, from 0.
    """

    model_config = ConfigDict(frozen=True)

    @field_validator("root")
    @classmethod
    def _readable(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("a condition has at least one path, for example metadata.language")
        return {_checked(path): _comparison(path, given) for path, given in value.items()}

    def __call__(self, message: Message) -> bool:
        """Whether all of it is true of `message`."""
        return all(comparison.holds(_at(message, path)) for path, comparison in self.root.items())


Predicate: TypeAlias = Callable[[Message], bool]
"""A condition in Python: a Condition, or any function of the message."""


def _checked(path: str) -> str:
    """A path that can be followed; raises ValueError for any other."""
    root, *keys = path.split(".")
    if root not in ROOTS:
        raise ValueError(f"path {path!r} begins with none of {', '.join(ROOTS)}")
    if (root == "text" and keys) or not all(keys) or (root == "metadata" and not keys):
        raise ValueError(f"path {path!r} is not text, payload, payload.KEY or metadata.KEY")
    return path


def _comparison(path: str, given: Any) -> Comparison:
    if isinstance(given, Comparison):
        return given
    if not isinstance(given, Mapping):
        return Comparison(equals=given)
    comparison = cast("Mapping[str, Any]", given)
    if not comparison:
        raise ValueError(f"{path}: nothing is asked of it; {_known()}")
    try:
        return Comparison.model_validate(comparison)
    except ValidationError as error:
        raise ValueError(f"{path}: {'; '.join(_fault(one) for one in error.errors())}") from error


def _fault(one: Mapping[str, Any]) -> str:
    key = ".".join(map(str, one["loc"]))
    if one["type"] == "extra_forbidden":
        return f"{key} is no comparison; {_known()}; for an object write {{equals: ...}}"
    return f"{key}: {one['msg']}"


def _known() -> str:
    return f"known are: {', '.join(field.alias or name for name, field in Comparison.model_fields.items())}"


def _at(message: Message, path: str) -> Any:
    root, *keys = path.split(".")
    value: Any = message.text if root == "text" else getattr(message, root)
    for key in keys:
        value = _below(value, key)
    return value


def _below(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value).get(key, _ABSENT)
    if isinstance(value, (list, tuple)) and key.isascii() and key.isdigit() and len(key) < _LONGEST_INDEX:
        items = cast("Sequence[Any]", value)
        return items[int(key)] if int(key) < len(items) else _ABSENT
    return _ABSENT


def _same(value: Any, other: Any) -> bool:
    return isinstance(value, bool) is isinstance(other, bool) and value == other


def _contains(value: Any, wanted: Any) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted.casefold() in value.casefold()
    return isinstance(value, (list, tuple)) and any(_same(item, wanted) for item in cast("Sequence[Any]", value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_CHECKS: Mapping[str, Callable[[Any, Any], bool]] = {
    "equals": _same,
    "not_": lambda value, unwanted: not _same(value, unwanted),
    "in_": lambda value, wanted: any(_same(value, one) for one in wanted),
    "contains": _contains,
    "above": lambda value, limit: _is_number(value) and value > limit,
    "below": lambda value, limit: _is_number(value) and value < limit,
    "exists": lambda value, wanted: (value is not _ABSENT) == wanted,
}
