"""The wire formats of Anthropic and of Gemini, and all dialects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aixgo.llm.contract import StopReason, ToolUse

from tests.unit.llm.vendor_server import Exchange
from tests.vendors.dialect import Dialect, Said, pieces
from tests.vendors.openai_dialects import VLLM, XAI, DeepSeek, Ollama, OpenAI

__all__ = ["DIALECTS", "Dialect", "Said"]


class Anthropic(Dialect):
    embeds = False
    stops: ClassVar[Mapping[StopReason, str]] = {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "refused": "refusal",
    }
    schema_refusal = "'model-1' does not support output format."
    usage: ClassVar[Mapping[str, Any]] = {
        "input_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 1,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 2},
    }

    def body(self, said: Said) -> Any:
        blocks: list[Any] = [{"type": "text", "text": said.text}] if said.text else []
        blocks += [{"type": "tool_use", "id": u.id, "name": u.name, "input": dict(u.arguments)} for u in said.uses]
        return self._message(blocks, self.stops[said.stop], self.usage)

    def events(self, said: Said) -> Sequence[tuple[str, Any]]:
        texts = [{"type": "text_delta", "text": piece} for piece in pieces(said.text)]
        blocks: list[tuple[Any, list[Any]]] = [({"type": "text", "text": ""}, texts)] if said.text else []
        for use in said.uses:
            head = {"type": "tool_use", "id": use.id, "name": use.name, "input": {}}
            parts = pieces(json.dumps(use.arguments)) if use.arguments else [""]
            blocks.append((head, [{"type": "input_json_delta", "partial_json": part} for part in parts]))
        made = [self._started()]
        for index, (head, deltas) in enumerate(blocks):
            made.append(_event({"type": "content_block_start", "index": index, "content_block": head}))
            made += [_event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas]
            made.append(_event({"type": "content_block_stop", "index": index}))
        delta = {"stop_reason": self.stops[said.stop], "stop_sequence": None}
        ended = {"output_tokens": 7, "output_tokens_details": {"thinking_tokens": 2}}
        made.append(_event({"type": "message_delta", "delta": delta, "usage": ended}))
        return [*made, _event({"type": "message_stop"})]

    def beginning(self, text: str) -> Sequence[tuple[str, Any]]:
        head = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
        return [self._started(), _event(head), _event(delta)]

    def error(self, status: int, words: str) -> Any:
        return {"type": "error", "error": {"type": "x", "message": words}, "inner": "inside"}

    def wants_stream(self, exchange: Exchange) -> bool:
        return exchange.body.get("stream", False)

    def key_of(self, exchange: Exchange) -> str:
        return exchange.headers["authorization"].removeprefix("Bearer ")

    def images(self, body: Any) -> Sequence[str]:
        sources = [block["source"] for block in self._blocks(body) if block["type"] == "image"]
        return [source.get("data") or source["url"] for source in sources]

    def results(self, body: Any) -> Sequence[tuple[str, str]]:
        found = [block for block in self._blocks(body) if block["type"] == "tool_result"]
        return [(block["tool_use_id"], block["content"]) for block in found]

    def asks_schema(self, body: Any) -> bool:
        return "format" in body.get("output_config", {})

    def sent(self, body: Any) -> str:
        return json.dumps([body.get("system", ""), body["messages"]])

    def _blocks(self, body: Any) -> Sequence[Any]:
        return [block for turn in body["messages"] for block in turn["content"]]

    def _started(self) -> tuple[str, Any]:
        message = self._message([], None, {**self.usage, "output_tokens": 1, "output_tokens_details": None})
        return _event({"type": "message_start", "message": message})

    def _message(self, blocks: Sequence[Any], reason: str | None, usage: Any) -> Any:
        frame = {"id": "m", "type": "message", "role": "assistant", "model": "model-1-0613", "stop_sequence": None}
        return {**frame, "content": blocks, "stop_reason": reason, "usage": usage}


class Gemini(Dialect):
    stops: ClassVar[Mapping[StopReason, str]] = {
        "stop": "STOP",
        "length": "MAX_TOKENS",
        "tool_calls": "STOP",
        "refused": "SAFETY",
    }
    schema_refusal = "JSON mode is not enabled for this model: response mime type"
    usage: ClassVar[Mapping[str, Any]] = {
        "promptTokenCount": 10,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 2,
        "cachedContentTokenCount": 4,
        "totalTokenCount": 17,
    }

    def body(self, said: Said) -> Any:
        parts: list[Any] = [{"text": said.text}] if said.text else []
        return self._response([*parts, *map(self._call, said.uses)], self.stops[said.stop])

    def events(self, said: Said) -> Sequence[tuple[str, Any]]:
        made = [("", self._response([{"text": piece}])) for piece in pieces(said.text)]
        made += [("", self._response([self._call(use)])) for use in said.uses]
        return [*made, ("", self._response([], self.stops[said.stop]))]

    def beginning(self, text: str) -> Sequence[tuple[str, Any]]:
        return [("", self._response([{"text": text}]))]

    def error(self, status: int, words: str) -> Any:
        return {"error": {"code": status, "message": words, "status": "X", "inner": "inside"}}

    def wants_stream(self, exchange: Exchange) -> bool:
        return ":streamGenerateContent" in exchange.path

    def key_of(self, exchange: Exchange) -> str:
        return exchange.headers["x-goog-api-key"]

    def images(self, body: Any) -> Sequence[str]:
        parts = [part for turn in body["contents"] for part in turn["parts"]]
        inline = [part["inlineData"]["data"].translate(_STANDARD) for part in parts if "inlineData" in part]
        return inline + [_snake(part["fileData"])["file_uri"] for part in parts if "fileData" in part]

    def results(self, body: Any) -> Sequence[tuple[str, str]]:
        parts = [part for turn in body["contents"] for part in turn["parts"]]
        given = [part["functionResponse"] for part in parts if "functionResponse" in part]
        return [(one.get("id", ""), one["response"]["output"]) for one in given]

    def asks_schema(self, body: Any) -> bool:
        return "responseJsonSchema" in body["generationConfig"]

    def sent(self, body: Any) -> str:
        return json.dumps([body.get("systemInstruction", ""), body["contents"]])

    def embeddings(self, vectors: Sequence[Sequence[float]]) -> Any:
        embeddings = [{"values": list(one)} for one in vectors]
        return {"embeddings": embeddings, "usageMetadata": {"promptTokenCount": 10, "totalTokenCount": 10}}

    def embedded(self, body: Any) -> Sequence[str]:
        assert {one["model"] for one in body["requests"]} == {"models/model-1"}
        return [part["text"] for one in body["requests"] for part in one["content"]["parts"]]

    def _call(self, use: ToolUse) -> Any:
        return {"functionCall": {"id": use.id, "name": use.name, "args": dict(use.arguments)}}

    def _response(self, parts: Sequence[Any], reason: str | None = None) -> Any:
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        candidate |= {"finishReason": reason} if reason else {}
        return {"candidates": [candidate], "modelVersion": "model-1-0613", "usageMetadata": self.usage}


_STANDARD = str.maketrans("-_", "+/")
"""Google's JSON has base64 in its alphabet for addresses."""
DIALECTS = (
    OpenAI("openai"),
    XAI("xai"),
    DeepSeek("deepseek"),
    Ollama("ollama"),
    VLLM("openai", "vllm"),
    Anthropic("anthropic"),
    Gemini("gemini"),
)


def _event(data: Any) -> tuple[str, Any]:
    return data["type"], data


def _snake(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"file_uri": part.get("file_uri") or part.get("fileUri")}
