"""What pydantic found, in words and with the line.

Owns the translation of one of pydantic's errors into a Problem: the nearest right key for an unknown one, what was
expected and what stands there. Above: `load.py` and `checks.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel

from aixgo.config.problems import Problems
from aixgo.config.schema import TAGS, Config, dotted
from aixgo.names import nearest

if TYPE_CHECKING:
    from aixgo.config.document import Document, Location

_KINDS: tuple[tuple[type[Any], str], ...] = (
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (str, "text"),
    (Mapping, "a mapping"),
    (Sequence, "a list"),
)
_WORDS = {
    "string_type": "must be text",
    "dict_type": "must be a mapping (`key: value`)",
    "model_type": "must be a mapping (`key: value`)",
    "model_attributes_type": "must be a mapping (`key: value`)",
    "tuple_type": "must be a list",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
}


def describe(
    error: Mapping[str, Any],
    below: Location,
    document: Document,
    problems: Problems,
    model: type[BaseModel] = Config,
) -> None:
    """Note one entry of `ValidationError.errors()`; `below` is where the validated `model` stands in the document."""
    inner = tuple(part for part in error["loc"] if part not in TAGS)
    location = (*below, *inner)
    what = dotted(location)
    if error["type"] == "extra_forbidden":
        what = f"unknown key {what!r}; {nearest(str(inner[-1]), _keys(model, inner[:-1]))}"
    elif error["type"] == "missing":
        hint = "`version: 2`" if location == ("version",) else f"`{inner[-1]}:`"
        what = f"{what} is missing; add {hint}"
    elif location == ("version",):
        what = f"version is {error['input']!r}, and this aixgo reads version 2; write `version: 2`"
    else:
        what = f"{what}: {_reason(error)}" if what else _reason(error)
    problems.add(document.line(location), what)


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] in _WORDS:
        return f"{_WORDS[error['type']]}, and is {_kind(error['input'])}"
    return str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), type(value).__name__)


def _keys(annotation: Any, location: Location) -> list[str]:
    """The keys that the model at a location of the schema has."""
    models = _models(annotation)
    if not location:
        return [name for model in models for name in model.model_fields]
    if isinstance(location[0], int):
        return _keys(annotation, location[1:])
    for model in models:
        if location[0] in model.model_fields:
            return _keys(model.model_fields[location[0]].annotation, location[1:])
    return _keys(annotation, location[1:])  # a key of a mapping from names to models


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation holds, however deep: in a union, a tuple, the values of a mapping."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    if get_origin(annotation) in {Union, UnionType, tuple, dict} or hasattr(annotation, "__metadata__"):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []
