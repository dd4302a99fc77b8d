"""Gemini's formats, both ways: requests of the contracts as parameters, answers as completions and embeddings.

Pure mapping, no I/O, and nothing of the `google-genai` package is needed at run time. Above it: `gemini.py`.
"""

from __future__ import annotations

import mimetypes
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aixgo.errors import InvalidCompletion
from aixgo.llm.arguments import unusable
from aixgo.llm.contract import (
    ChatMessage,
    Completion,
    CompletionRequest,
    Image,
    StopReason,
    TokenChoice,
    ToolOffer,
    ToolUse,
)
from aixgo.llm.dialogue import by_side, opened
from aixgo.llm.embeddings import Embedded
from aixgo.llm.structured import instruction
from aixgo.usage import NO_USAGE, Usage

if TYPE_CHECKING:
    from google.genai.types import (
        Candidate,
        EmbedContentResponse,
        FunctionCall,
        GenerateContentResponse,
        GenerateContentResponseUsageMetadata,
        LogprobsResult,
    )

_STOP_REASONS: Mapping[str, StopReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "refused",
    "RECITATION": "refused",
    "BLOCKLIST": "refused",
    "PROHIBITED_CONTENT": "refused",
    "SPII": "refused",
    "IMAGE_SAFETY": "refused",
    "MODEL_ARMOR": "refused",
}
_UNREADABLE_CALLS = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS")
_SEAL = "gemini:"
_OUR_ID = "aixgo_"
"""How ids begin that are made here, because Gemini gives uses of tools none; it is not told them."""


def contents(request: CompletionRequest) -> list[dict[str, Any]]:
    """The conversation, without what the system says before it."""
    names = {use.id: use.name for turn in request.messages for use in turn.tool_uses}
    sides = by_side(opened(request.messages)[1], lambda turn: _parts(turn, names))
    return [{"role": "model" if ours else "user", "parts": parts} for ours, parts in sides]


def config(request: CompletionRequest, *, native_schema: bool) -> dict[str, Any]:
    """The rest of a request: what `config` of `generate_content` is."""
    system = opened(request.messages)[0]
    # A schema and tools at once are refused by models before Gemini 3.
    native = native_schema and not request.tools
    if request.schema is not None and not native:
        system = f"{system}\n\n{instruction(request.schema)}".strip()
    made: dict[str, Any] = {
        "max_output_tokens": request.max_tokens,
        "automatic_function_calling": {"disable": True},
        "automatic_continuation": False,  # one request, one metered answer
    }
    made |= {"system_instruction": system} if system else {}
    made |= {"temperature": request.temperature} if request.temperature is not None else {}
    made |= {"stop_sequences": list(request.stop)} if request.stop else {}
    made |= (
        {"tools": [{"function_declarations": [_declared(offer) for offer in request.tools]}]} if request.tools else {}
    )
    made |= {"response_logprobs": True, "logprobs": request.top_logprobs} if request.top_logprobs else {}
    if request.schema is not None and native:
        made |= {"response_mime_type": "application/json", "response_json_schema": dict(request.schema)}
    return made | dict(request.extra)


@dataclass(slots=True)
class GatheredAnswer:
    """Puts the responses of a stream together, or takes the only one; see `sdk_client.Gathering`.

    `turn` is how many turns there were before, from which ids of uses of tools are made that no other turn has.
    """

    model: str
    turn: int
    texts: list[str] = field(default_factory=list[str])
    usage: Usage = NO_USAGE
    finished: bool = False
    _reason: str = ""
    _blocked: bool = False
    _uses: list[ToolUse] = field(default_factory=list[ToolUse])
    _tokens: list[TokenChoice] = field(default_factory=list[TokenChoice])

    def add(self, response: GenerateContentResponse) -> str:
        """Take one response in; the text that is new."""
        self.model = response.model_version or self.model
        if response.usage_metadata is not None:
            self.usage = usage(response.usage_metadata)
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason is not None:
            self.finished = self._blocked = True
        return self._take(response.candidates[0]) if response.candidates else ""

    def completion(self) -> Completion:
        """The whole; raises InvalidCompletion when the model's use of a tool cannot be read."""
        if self._reason in _UNREADABLE_CALLS:
            raise unusable(self.usage, "?", f"the vendor says {self._reason}")
        if not self.finished:
            broken = InvalidCompletion(f"the vendor answered {self.model} without a candidate")
            broken.usage = self.usage
            raise broken
        reason = _STOP_REASONS.get(self._reason, "other")
        reason = "refused" if self._blocked else "tool_calls" if self._uses and reason == "stop" else reason
        text = "".join(self.texts)
        return Completion(text, self.model, self.usage, reason, tuple(self._uses), tuple(self._tokens))

    def _take(self, candidate: Candidate) -> str:
        if candidate.finish_reason is not None:
            self.finished, self._reason = True, candidate.finish_reason.value
        if candidate.logprobs_result is not None:
            self._tokens += _tokens(candidate.logprobs_result)
        parts = (candidate.content.parts if candidate.content else None) or ()
        for part in parts:
            if part.function_call is not None:
                self._uses.append(self._use(part.function_call, part.thought_signature))
        text = "".join(part.text for part in parts if part.text and not part.thought)
        if text:
            self.texts.append(text)
        return text

    def _use(self, call: FunctionCall, signature: bytes | None) -> ToolUse:
        sealed = _SEAL + b64encode(signature).decode() if signature else ""
        id_ = call.id or f"{_OUR_ID}{self.turn}_{len(self._uses)}"
        return ToolUse(id_, call.name or "", call.args or {}, sealed)


def usage(reported: GenerateContentResponseUsageMetadata) -> Usage:
    """The tokens that the vendor reports: it counts those of reasoning apart from those of the answer."""
    thought = reported.thoughts_token_count or 0
    return Usage(
        prompt_tokens=(reported.prompt_token_count or 0) + (reported.tool_use_prompt_token_count or 0),
        completion_tokens=(reported.candidates_token_count or 0) + thought,
        cached_tokens=reported.cached_content_token_count or 0,
        reasoning_tokens=thought,
    )


def texts_to_embed(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Each text as a content of its own: bare texts would be parts of one to a model of several media."""
    return [{"role": "user", "parts": [{"text": text}]} for text in texts]


def embedded(answer: EmbedContentResponse, model: str) -> Embedded:
    """The vectors of an answer. Most models of embeddings count no tokens."""
    reported = answer.usage_metadata
    spent = Usage(prompt_tokens=(reported.prompt_token_count or 0) if reported else 0)
    return Embedded([one.values or () for one in answer.embeddings or ()], model, spent)


def _parts(turn: ChatMessage, names: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
    if turn.role == "tool":
        known = {} if turn.tool_call_id.startswith(_OUR_ID) else {"id": turn.tool_call_id}
        given = {"name": names.get(turn.tool_call_id, "?"), "response": {"output": turn.content}}
        return [{"function_response": given | known}]
    text = [{"text": turn.content}] if turn.content else []
    if turn.role == "assistant":
        return [*text, *(_call(use) for use in turn.tool_uses)]
    return [*(_image(image) for image in turn.images), *text]


def _call(use: ToolUse) -> Mapping[str, Any]:
    known = {} if use.id.startswith(_OUR_ID) else {"id": use.id}
    part: dict[str, Any] = {"function_call": {"name": use.name, "args": dict(use.arguments)} | known}
    if use.reasoning.startswith(_SEAL):
        part["thought_signature"] = b64decode(use.reasoning.removeprefix(_SEAL))
    return part


def _image(image: Image) -> Mapping[str, Any]:
    if image.data:
        return {"inline_data": {"data": image.data, "mime_type": image.media_type}}
    media_type = image.media_type or mimetypes.guess_type(urlsplit(image.url).path)[0]
    return {"file_data": {"file_uri": image.url} | ({"mime_type": media_type} if media_type else {})}


def _declared(offer: ToolOffer) -> Mapping[str, Any]:
    return {"name": offer.name, "description": offer.description, "parameters_json_schema": dict(offer.parameters)}


def _tokens(result: LogprobsResult) -> Sequence[TokenChoice]:
    tops = result.top_candidates or ()
    likeliest = [
        {
            one.token: one.log_probability
            for one in top.candidates or ()
            if one.token and one.log_probability is not None
        }
        for top in tops
    ]
    chosen = result.chosen_candidates or ()
    return [TokenChoice(token.token or "", top) for token, top in zip(chosen, likeliest, strict=False)]
