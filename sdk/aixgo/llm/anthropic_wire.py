"""Anthropic's format of messages, both ways: requests of the contract as parameters, answers as completions.

Pure mapping, no I/O, and nothing of the `anthropic` package is needed at run time. Above it: `anthropic.py`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from aixgo.llm.arguments import tool_use
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest, Image, StopReason, ToolUse
from aixgo.llm.dialogue import by_side, opened
from aixgo.llm.structured import instruction
from aixgo.message import from_json, to_json
from aixgo.usage import NO_USAGE, Usage

if TYPE_CHECKING:
    from anthropic.types import Message, MessageDeltaUsage, RawMessageStreamEvent
    from anthropic.types import Usage as Reported

_STOP_REASONS: Mapping[str, StopReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refused",
}
_HOTTEST = 1.0
"""Where Anthropic's scale of temperatures ends."""
_SEAL = "anthropic:"
_THINKING = ("thinking", "redacted_thinking")


def parameters(request: CompletionRequest, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `messages.create` is called with. With `schema` None, one that the request has is asked for in words."""
    system, turns = opened(request.messages)
    if request.schema is not None and schema is None:
        system = f"{system}\n\n{instruction(request.schema)}".strip()
    sides = by_side(turns, _blocks)
    made: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": "assistant" if ours else "user", "content": blocks} for ours, blocks in sides],
    }
    if system:
        made["system"] = system
    if request.stop:
        made["stop_sequences"] = list(request.stop)
    return made | _tools(request) | {"extra_body": _extra(request, schema)}


def is_expressible(schema: Any) -> bool:
    """Whether the vendor's schema mode can hold a model to all of `schema`: each part has one type, and objects name
    all their properties.
    """
    if isinstance(schema, list):
        return all(is_expressible(part) for part in cast("list[Any]", schema))
    if not isinstance(schema, Mapping):
        return True
    part = cast("Mapping[str, Any]", schema)
    if isinstance(part.get("type"), list):
        return False
    if part.get("type") == "object" and (not part.get("properties") or part.get("additionalProperties")):
        return False
    return all(is_expressible(value) for value in part.values())


def completion(answer: Message) -> Completion:
    """The answer of an unary request."""
    gathered = StreamedMessage(answer.model, usage=usage(answer.usage), reason=_stop_reason(answer.stop_reason))
    for index, block in enumerate(answer.content):
        gathered.take_block(index, cast("Any", block))
    return gathered.completion()


def usage(reported: Reported) -> Usage:
    """The tokens that the vendor reports: it leaves those written to and read from its cache out of `input_tokens`."""
    return _usage(reported, NO_USAGE)


def _usage(reported: Reported | MessageDeltaUsage, before: Usage) -> Usage:
    read, written = reported.cache_read_input_tokens, reported.cache_creation_input_tokens
    prompt = before.prompt_tokens
    if reported.input_tokens is not None:
        prompt = reported.input_tokens + (read or 0) + (written or 0)
    details = reported.output_tokens_details
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=reported.output_tokens,
        cached_tokens=before.cached_tokens if read is None else read,
        cache_write_tokens=before.cache_write_tokens if written is None else written,
        reasoning_tokens=before.reasoning_tokens if details is None else details.thinking_tokens,
    )


@dataclass(slots=True)
class _Call:
    """A use of a tool as it comes: whole, or its arguments in pieces of JSON."""

    id: str
    name: str
    arguments: list[str]


@dataclass(slots=True)
class StreamedMessage:
    """Puts the events of a stream together; see `sdk_client.Gathering`."""

    model: str
    texts: list[str] = field(default_factory=list[str])
    usage: Usage = NO_USAGE
    finished: bool = False
    reason: StopReason = "other"
    _calls: dict[int, _Call] = field(default_factory=dict[int, _Call])
    _thinking: dict[int, dict[str, str]] = field(default_factory=dict[int, "dict[str, str]"])

    def add(self, event: RawMessageStreamEvent) -> str:
        """Take one event in; the text that is new."""
        match event.type:
            case "message_start":
                self.model, self.usage = event.message.model, usage(event.message.usage)
            case "content_block_start":
                return self.take_block(event.index, cast("Any", event.content_block))
            case "content_block_delta":
                return self._take_delta(event.index, cast("Any", event.delta))
            case "message_delta":
                self.usage = _usage(event.usage, self.usage)
                self.reason = _stop_reason(event.delta.stop_reason)
            case "message_stop":
                self.finished = True
            case _:
                pass
        return ""

    def take_block(self, index: int, block: Any) -> str:
        """Take a block of content in, whole or at its beginning; its text."""
        if block.type == "tool_use":
            self._calls[index] = _Call(block.id, block.name, [to_json(block.input).decode()] if block.input else [])
        elif block.type in _THINKING:
            self._thinking[index] = cast("dict[str, str]", block.model_dump(mode="json", exclude_none=True))
        elif block.type == "text":
            return self._take_text(block.text)
        return ""

    def completion(self) -> Completion:
        """The whole; raises InvalidCompletion when a tool call's arguments are broken."""
        sealed = _SEAL + to_json([self._thinking[index] for index in sorted(self._thinking)]).decode()
        uses = [
            tool_use(
                self.usage, call.id, call.name, "".join(call.arguments), sealed if not at and self._thinking else ""
            )
            for at, (_, call) in enumerate(sorted(self._calls.items()))
        ]
        return Completion("".join(self.texts), self.model, self.usage, self.reason, tuple(uses))

    def _take_delta(self, index: int, delta: Any) -> str:
        match delta.type:
            case "text_delta":
                return self._take_text(delta.text)
            case "input_json_delta":
                self._calls[index].arguments.append(delta.partial_json)
            case "thinking_delta":
                self._thinking[index]["thinking"] = self._thinking[index].get("thinking", "") + delta.thinking
            case "signature_delta":
                self._thinking[index]["signature"] = delta.signature
            case _:
                pass
        return ""

    def _take_text(self, text: str) -> str:
        if text:
            self.texts.append(text)
        return text


def _blocks(turn: ChatMessage) -> Sequence[Mapping[str, Any]]:
    if turn.role == "tool":
        return [{"type": "tool_result", "tool_use_id": turn.tool_call_id, "content": turn.content}]
    text = [{"type": "text", "text": turn.content}] if turn.content.strip() else []
    if turn.role == "assistant":
        uses = [
            {"type": "tool_use", "id": use.id, "name": use.name, "input": dict(use.arguments)} for use in turn.tool_uses
        ]
        return [*_unsealed(turn.tool_uses), *text, *uses]
    return [*(_image(image) for image in turn.images), *text]


def _unsealed(uses: Sequence[ToolUse]) -> Sequence[Mapping[str, Any]]:
    """What the model thought before it asked for tools, which it wants to see again."""
    sealed = uses[0].reasoning if uses else ""
    if not sealed.startswith(_SEAL):
        return ()
    return cast("Sequence[Mapping[str, Any]]", from_json(sealed.removeprefix(_SEAL).encode()))


def _image(image: Image) -> Mapping[str, Any]:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    data = b64encode(image.data).decode()
    return {"type": "image", "source": {"type": "base64", "media_type": image.media_type, "data": data}}


def _tools(request: CompletionRequest) -> dict[str, Any]:
    if request.tools:
        return {"tools": [_tool(offer.name, offer.description, offer.parameters) for offer in request.tools]}
    # A conversation in which tools were used is refused unless they are declared; they are not to be used again.
    used = {use.name for turn in request.messages for use in turn.tool_uses}
    if not used:
        return {}
    return {"tools": [_tool(name, "", {"type": "object"}) for name in sorted(used)], "tool_choice": {"type": "none"}}


def _tool(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "description": description, "input_schema": dict(parameters)}


def _extra(request: CompletionRequest, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the SDK's method has no parameter for: the temperature (newer models take none), and the caller's own."""
    made: dict[str, Any] = {}
    if request.temperature is not None:
        made["temperature"] = min(request.temperature, _HOTTEST)
    made |= request.extra
    if schema is not None:
        made["output_config"] = {**made.get("output_config", {}), "format": {"type": "json_schema", "schema": schema}}
    return made


def _stop_reason(reason: str | None) -> StopReason:
    return _STOP_REASONS.get(reason or "", "other")
