"""What patterns ask of the agents with a model: an answer by a schema, a conversation before it, handing over.

Owns what becomes of the metadata that such requests have (`aixgo.asked`, `aixgo.conversation`) in a request to a model,
and back. Above: the roles `llm` and `react`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from aixgo.asked import HANDOFF_REASON, HANDOFF_TO, HANDOFFS, RESPONSE_SCHEMA, unfenced
from aixgo.conversation import Turn, turns_of
from aixgo.errors import InvalidCompletion, InvalidInput, InvalidMessage
from aixgo.llm.contract import ChatMessage, Completion, ToolOffer
from aixgo.message import JSON, Message, from_json, to_json

HAND_OVER = "hand_over"
"""The tool with which a model hands over to another agent."""
MAX_SCHEMA_BYTES = 65_536
MAX_HANDOFFS = 100

_CUT = 200


def schema_of(message: Message) -> Mapping[str, Any] | None:
    """The JSON schema that the answer must follow; None when there is none. Raises InvalidInput."""
    schema = message.metadata.get(RESPONSE_SCHEMA)
    if schema is None:
        return None
    if not isinstance(schema, Mapping):
        raise InvalidInput(
            f"metadata.{RESPONSE_SCHEMA} is a {type(schema).__name__}; pass the JSON schema of an object"
        )
    size = len(to_json(schema))
    if size > MAX_SCHEMA_BYTES:
        raise InvalidInput(f"metadata.{RESPONSE_SCHEMA} has {size} bytes and {MAX_SCHEMA_BYTES} are allowed")
    return cast("Mapping[str, Any]", schema)


def structured(completion: Completion) -> JSON:
    """A completion's text as the JSON object that was asked for. Raises InvalidCompletion."""
    try:
        answer = from_json(unfenced(completion.text).encode())
    except InvalidMessage as error:
        raise _no_object(completion) from error
    if not isinstance(answer, dict):
        raise _no_object(completion)
    return answer


def history(name: str, message: Message) -> Sequence[ChatMessage]:
    """The conversation that comes with a message, as agent `name` sees it: what other agents said bears their name."""
    return [as_chat(name, turn) for turn in turns_of(message) or ()]


def as_chat(name: str, turn: Turn) -> ChatMessage:
    """One turn of a conversation as agent `name` puts it to its model."""
    others = turn.name and turn.name != name
    return ChatMessage(turn.role, f"{turn.name}: {turn.content}" if others else turn.content)


def handoff_offer(message: Message) -> ToolOffer | None:
    """The tool that lets the model hand over to the agents that the request names; None when it names none."""
    given = message.metadata.get(HANDOFFS)
    if not given:
        return None
    if not isinstance(given, Mapping) or len(cast("Mapping[str, Any]", given)) > MAX_HANDOFFS:
        raise InvalidInput(f"metadata.{HANDOFFS} must be an object, agent -> description, of at most {MAX_HANDOFFS}")
    agents = cast("Mapping[str, Any]", given)
    about = "; ".join(f"{agent}: {text}" if text else agent for agent, text in agents.items())
    properties = {
        "to": {"type": "string", "enum": list(agents)},
        "reason": {"type": "string", "description": "Why, in a few words."},
    }
    parameters = {"type": "object", "properties": properties, "required": ["to", "reason"]}
    return ToolOffer(
        HAND_OVER,
        f"Hand the conversation over to another agent when it should answer instead of you. {about}",
        parameters | {"additionalProperties": False},
    )


def handed_over(completion: Completion) -> Mapping[str, Any]:
    """The metadata of a reply that hands over; empty when the model did not."""
    for use in completion.tool_uses:
        if use.name == HAND_OVER:
            return {
                HANDOFF_TO: str(use.arguments.get("to", "")),
                HANDOFF_REASON: str(use.arguments.get("reason", "")),
            }
    return {}


def _no_object(completion: Completion) -> InvalidCompletion:
    error = InvalidCompletion(
        f"model {completion.model} was asked for a JSON object and said {completion.text[:_CUT]!r}"
    )
    error.usage = completion.usage
    return error
