"""The OpenAI formats, both ways: requests of the contracts as parameters, answers as completions and embeddings.

Pure mapping, no I/O, and nothing of the `openai` package is needed at run time. Above it: `openai.py`.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from aixgo.errors import InvalidCompletion
from aixgo.llm.arguments import tool_use
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest, Image, StopReason, TokenChoice, ToolUse
from aixgo.llm.embeddings import Embedded
from aixgo.llm.structured import instruction
from aixgo.message import to_json
from aixgo.usage import NO_USAGE, Usage

if TYPE_CHECKING:
    from openai.types import CompletionUsage, CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall

_STOP_REASONS: Mapping[str, StopReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "refused",
}


def parameters(request: CompletionRequest, *, native_schema: bool, limit_name: str) -> dict[str, Any]:
    """What `chat.completions.create` is called with. `limit_name` is the parameter that bounds the completion."""
    messages = [_turn(turn) for turn in request.messages]
    made: dict[str, Any] = {"model": request.model, "messages": messages, limit_name: request.max_tokens}
    if request.temperature is not None:
        made["temperature"] = request.temperature
    if request.stop:
        made["stop"] = list(request.stop)
    if request.tools:
        made["tools"] = [_tool(offer.name, offer.description, offer.parameters) for offer in request.tools]
    if request.top_logprobs:
        made |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.schema is not None and native_schema:
        made["response_format"] = _response_format(request.schema)
    elif request.schema is not None:
        messages.insert(0, {"role": "system", "content": instruction(request.schema)})
    return made | dict(request.extra)


def completion(answer: ChatCompletion) -> Completion:
    """The answer of an unary request; raises InvalidCompletion for one without a choice, or with broken tool calls."""
    if not answer.choices:
        raise InvalidCompletion(f"the vendor answered {answer.model} without a choice")
    choice = answer.choices[0]
    message = choice.message
    calls = [call for call in message.tool_calls or () if call.type == "function"]
    spent = usage(answer.usage)
    return Completion(
        message.content or message.refusal or "",
        answer.model,
        spent,
        "refused" if message.refusal else _stop_reason(choice.finish_reason, used=bool(calls)),
        tuple(tool_use(spent, call.id, call.function.name, call.function.arguments) for call in calls),
        _tokens(choice.logprobs),
    )


def embedded(answer: CreateEmbeddingResponse) -> Embedded:
    """The vectors of an answer, in the order of the texts; servers that count no tokens leave the usage out."""
    vectors = [one.embedding for one in sorted(answer.data, key=lambda one: one.index)]
    reported = cast("Any", answer.usage)
    spent = NO_USAGE if reported is None else Usage(prompt_tokens=reported.prompt_tokens)
    return Embedded(vectors, answer.model, spent)


def usage(reported: CompletionUsage | None) -> Usage:
    """The tokens that the vendor reports; NO_USAGE when it reports none.

    xAI counts reasoning beside the completion rather than in it, which shows in its total.
    """
    if reported is None:
        return NO_USAGE
    prompt, answer = reported.prompt_tokens_details, reported.completion_tokens_details
    reasoning = (answer.reasoning_tokens or 0) if answer else 0
    beside = (reported.total_tokens or 0) - reported.prompt_tokens - reported.completion_tokens
    return Usage(
        prompt_tokens=reported.prompt_tokens,
        completion_tokens=reported.completion_tokens + (reasoning if 0 < reasoning <= beside else 0),
        cached_tokens=(prompt.cached_tokens or 0) if prompt else 0,
        cache_write_tokens=getattr(prompt, "cache_write_tokens", None) or 0,  # SDKs before 3 do not know it
        reasoning_tokens=reasoning,
    )


@dataclass(slots=True)
class StreamedAnswer:
    """Puts the chunks of a stream together. `finished` says that the vendor ended it, rather than the connection."""

    model: str
    texts: list[str] = field(default_factory=list[str])
    usage: Usage = NO_USAGE
    finished: bool = False
    _reason: str = "stop"
    _refused: bool = False
    _calls: dict[int, list[str]] = field(default_factory=dict[int, "list[str]"])

    def add(self, chunk: ChatCompletionChunk) -> str:
        """Take one chunk in; the text that is new."""
        self.model = chunk.model or self.model
        if chunk.usage is not None:
            self.usage = usage(chunk.usage)
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        if choice.finish_reason is not None:
            self.finished, self._reason = True, choice.finish_reason
        return self._take(choice.delta)

    def completion(self) -> Completion:
        """The whole; raises InvalidCompletion when a tool call's arguments are broken."""
        uses = tuple(tool_use(self.usage, *parts) for _, parts in sorted(self._calls.items()))
        reason = "refused" if self._refused else _stop_reason(self._reason, used=bool(uses))
        return Completion("".join(self.texts), self.model, self.usage, reason, uses)

    def _take(self, delta: ChoiceDelta) -> str:
        for call in delta.tool_calls or ():
            self._take_call(call)
        self._refused = self._refused or bool(delta.refusal)
        text = delta.content or delta.refusal or ""
        if text:
            self.texts.append(text)
        return text

    def _take_call(self, call: ChoiceDeltaToolCall) -> None:
        parts = self._calls.setdefault(call.index, ["", "", ""])
        parts[0] = call.id or parts[0]
        if call.function is not None:
            parts[1] += call.function.name or ""
            parts[2] += call.function.arguments or ""


def _turn(turn: ChatMessage) -> dict[str, Any]:
    made: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.images:
        text = [{"type": "text", "text": turn.content}] if turn.content else []
        made["content"] = [*text, *(_image(image) for image in turn.images)]
    if turn.tool_call_id:
        made["tool_call_id"] = turn.tool_call_id
    if turn.tool_uses:
        made["tool_calls"] = [_call(use) for use in turn.tool_uses]
    return made


def _image(image: Image) -> dict[str, Any]:
    url = image.url or f"data:{image.media_type};base64,{b64encode(image.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _call(use: ToolUse) -> dict[str, Any]:
    function = {"name": use.name, "arguments": to_json(dict(use.arguments)).decode()}
    return {"id": use.id, "type": "function", "function": function}


def _tool(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": dict(parameters)}
    return {"type": "function", "function": function}


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema), "strict": _closed(schema)}}


def _closed(node: Any) -> bool:
    """Whether every object names all its properties, which strict mode demands."""
    if isinstance(node, Mapping):
        part = cast("Mapping[str, Any]", node)
        is_open = part.get("type") == "object" and part.get("additionalProperties") is not False
        return not is_open and all(_closed(value) for value in part.values())
    return not isinstance(node, list) or all(_closed(item) for item in cast("list[Any]", node))


def _tokens(logprobs: Any) -> Sequence[TokenChoice]:
    content = getattr(logprobs, "content", None) or ()
    return tuple(TokenChoice(token.token, {top.token: top.logprob for top in token.top_logprobs}) for token in content)


def _stop_reason(reason: str, *, used: bool) -> StopReason:
    """Some servers of the format say `stop` where the model wants tools used."""
    if used and reason == "stop":
        return "tool_calls"
    return _STOP_REASONS.get(reason, "other")
