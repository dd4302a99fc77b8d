"""The JSON schema of the YAML file, for editors and checkers.

Made from `schema.py` and from the configurations of the patterns, so that it cannot differ from what is read.
"""

from __future__ import annotations

from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from aixgo.config.schema import Config
from aixgo.orchestration.catalog import PATTERNS, find_pattern

_DEFINITIONS = "#/$defs/{model}"
_OWN = r"^[\w.]+:\w+$"
"""A pattern of the user's own, as an import path."""
_MEMBER = {"$comment": "a pattern in the place of a member"}
_PATTERN = {"$ref": "#/$defs/PatternSpec"}


class _Members(GenerateJsonSchema):
    """Writes an agent in a pattern's configuration as what stands for it in YAML: a pattern in its place."""

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        """A mark that `_linked` replaces: a reference out of its own model is none that pydantic follows."""
        return dict(_MEMBER)


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a whole file."""
    schema = Config.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    model = definitions["AgentSpec"]["properties"]["model"]
    model.update(anyOf=[{"type": "string"}, {"type": "array", "items": {"type": "string"}}])
    model.pop("type", None)
    model.pop("items", None)
    chosen = [_config_of(pattern, definitions) for pattern in PATTERNS]
    for name in ("PatternSpec", "OrchestrationSpec"):
        definitions[name]["properties"]["pattern"]["anyOf"] = [{"enum": list(PATTERNS)}, {"pattern": _OWN}]
        definitions[name]["allOf"] = chosen
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "aixgo, version 2"}


def _config_of(pattern: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """That `config` of this pattern is what its class takes, whose definition is added to `definitions`."""
    config = find_pattern(pattern).Config
    made = _linked(config.model_json_schema(ref_template=_DEFINITIONS, schema_generator=_Members))
    definitions.update(made.pop("$defs", {}))
    definitions[config.__name__] = made
    return {
        "if": {"properties": {"pattern": {"const": pattern}}},
        "then": {"properties": {"config": {"$ref": _DEFINITIONS.format(model=config.__name__)}}},
    }


def _linked(node: Any) -> Any:
    if node == _MEMBER:
        return _PATTERN
    if isinstance(node, dict):
        return {key: _linked(value) for key, value in cast("dict[str, Any]", node).items()}
    return [_linked(item) for item in cast("list[Any]", node)] if isinstance(node, list) else node
