"""Answers that validate as a pydantic model: the schema that is asked for, and the repair of answers that miss it.

Knows no vendor: it is given the completion function to use, which is a metered one, so that every repair is bounded and
counted like any other LLM call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from pydantic import ValidationError

from aixgo.asked import unfenced
from aixgo.errors import InvalidCompletion
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest, SchemaT
from aixgo.message import to_json

MAX_REPAIRS = 2
"""How often a model is shown what was wrong with its answer and asked again."""

_CUT = 200


async def complete_structured(
    complete: Callable[[CompletionRequest], Awaitable[Completion]], request: CompletionRequest, schema: type[SchemaT]
) -> tuple[SchemaT, Completion]:
    """Complete until the answer validates as `schema`, with at most MAX_REPAIRS further attempts.

    The completion returned is the last one; its usage sums up all attempts. Raises InvalidCompletion; at once when the
    model refuses to answer.
    """
    request = replace(request, schema=strict_schema(schema.model_json_schema()))
    completion = await complete(request)
    for repairs in range(MAX_REPAIRS + 1):
        try:
            return _validated(completion, schema), completion
        except ValidationError as error:
            if repairs == MAX_REPAIRS or completion.stop_reason == "refused":
                raise _invalid(request, completion, schema.__name__, error) from error
            request = _ask_again(request, completion, error)
        repaired = await complete(request)
        completion = replace(repaired, usage=completion.usage + repaired.usage)
    raise AssertionError("the last round returns or raises")


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as vendors' strict modes want it: every property required, no others, no defaults or titles."""
    return cast("dict[str, Any]", _strict(schema))


def instruction(schema: Mapping[str, Any]) -> str:
    """What to tell a model that has no schema mode."""
    return f"Answer with one JSON object and nothing else. It must follow this JSON schema:\n{to_json(schema).decode()}"


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(item) for item in cast("list[Any]", node)]
    if not isinstance(node, Mapping):
        return node
    node = cast("Mapping[str, Any]", node)
    made = {key: _strict(value) for key, value in node.items() if key not in ("default", "title", "properties")}
    properties = node.get("properties")
    if isinstance(properties, Mapping):
        named = cast("Mapping[str, Any]", properties)
        made["properties"] = {name: _strict(part) for name, part in named.items()}
        made["required"] = list(named)
        made["additionalProperties"] = False
    return made


def _validated(completion: Completion, schema: type[SchemaT]) -> SchemaT:
    return schema.model_validate_json(unfenced(completion.text))


def _invalid(
    request: CompletionRequest, completion: Completion, wanted: str, error: ValidationError
) -> InvalidCompletion:
    if completion.stop_reason == "refused":
        return InvalidCompletion(f"model {completion.model} refuses to answer: {completion.text[:_CUT]!r}")
    cut = f"; it was cut off, raise max_tokens above {request.max_tokens}" if completion.stop_reason == "length" else ""
    return InvalidCompletion(
        f"model {completion.model} does not answer as a {wanted} after {MAX_REPAIRS} repairs:"
        f" {_faults(error)}; it said {completion.text[:_CUT]!r}{cut}"
    )


def _ask_again(request: CompletionRequest, completion: Completion, error: ValidationError) -> CompletionRequest:
    fault = "it was cut off; be shorter" if completion.stop_reason == "length" else _faults(error)
    turns = (
        ChatMessage("assistant", completion.text),
        ChatMessage("user", f"That does not fit: {fault}. Answer again, with the JSON object only."),
    )
    return replace(request, messages=(*request.messages, *turns))


def _faults(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:5])
