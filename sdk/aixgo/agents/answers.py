"""The answers that an aggregator is given, read out of a message.

Pure. Above: `aggregator.py` and its strategies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from aixgo.errors import InvalidInput, InvalidMessage, LimitExceeded
from aixgo.message import JSON, NO_METADATA, Message, Payload, from_json, to_json

MAX_ANSWERS = 1000
"""Answers that one message may hold."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one agent answered."""

    name: str
    payload: JSON
    metadata: Mapping[str, Any] = field(default_factory=lambda: NO_METADATA)

    @property
    def text(self) -> str:
        """The payload as text; a JSON value as compact JSON."""
        return self.payload if isinstance(self.payload, str) else to_json(self.payload).decode()


def answers_in(message: Message) -> Sequence[Answer]:
    """The answers of a message, in order; those of a list are named from 1. Raises InvalidInput, LimitExceeded."""
    answers = _results(message.metadata.get("parallel_results")) or _named(_parsed(message.payload))
    if not answers:
        raise InvalidInput(
            "an aggregator takes a JSON object (agent name -> answer), a JSON list of answers, or the metadata"
            " `parallel_results`, and the message has none of these"
        )
    if len(answers) > MAX_ANSWERS:
        raise LimitExceeded(f"the message has {len(answers)} answers and {MAX_ANSWERS} can be aggregated; send fewer")
    return answers


def message_of(replies: Mapping[str, Message], session_id: str) -> Message:
    """Replies by agent as the message that `answers_in` reads, in the shape that a parallel pattern hands on."""
    payloads = {name: reply.json for name, reply in replies.items()}
    results = {name: {"payload": payloads[name], "metadata": dict(reply.metadata)} for name, reply in replies.items()}
    return Message(payloads, {"parallel_results": results}, session_id=session_id)


def _results(results: Any) -> list[Answer]:
    if not isinstance(results, Mapping):
        return []
    return [_result(str(name), result) for name, result in cast("Mapping[Any, Any]", results).items()]


def _result(name: str, result: Any) -> Answer:
    if not isinstance(result, Mapping):
        return Answer(name, result)
    parts = cast("Mapping[str, Any]", result)
    metadata = parts.get("metadata")
    known = cast("Mapping[str, Any]", metadata) if isinstance(metadata, Mapping) else NO_METADATA
    return Answer(name, parts.get("payload"), known)


def _named(payload: Any) -> list[Answer]:
    if isinstance(payload, Mapping):
        return [Answer(str(name), answer) for name, answer in cast("Mapping[Any, Any]", payload).items()]
    if isinstance(payload, list):
        return [Answer(str(at), answer) for at, answer in enumerate(cast("list[Any]", payload), start=1)]
    return []


def _parsed(payload: Payload) -> Any:
    if not isinstance(payload, (str, bytes)):
        return payload
    try:
        return from_json(payload if isinstance(payload, bytes) else payload.encode(errors="surrogatepass"))
    except InvalidMessage:
        return None  # text that is no JSON holds no answers; the caller says so
