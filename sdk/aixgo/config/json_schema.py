"""The JSON schema of the YAML file, for editors and checkers.

Made from `schema.py`, so that it cannot differ from what is read.
"""

from __future__ import annotations

from typing import Any

from aixgo.config.schema import Config
from aixgo.orchestration.catalog import PATTERNS


def json_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a whole file."""
    schema = Config.model_json_schema()
    schema["$defs"]["PatternSpec"]["properties"]["pattern"]["enum"] = list(PATTERNS)
    schema["$defs"]["OrchestrationSpec"]["properties"]["pattern"]["enum"] = list(PATTERNS)
    model = schema["$defs"]["AgentSpec"]["properties"]["model"]
    model.update(anyOf=[{"type": "string"}, {"type": "array", "items": {"type": "string"}}])
    model.pop("type", None)
    model.pop("items", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "aixgo, version 2"}
