"""OpenAI's wire format, and what others make of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aixgo.llm.contract import StopReason
from aixgo.usage import Usage

from tests.unit.llm.vendor_server import Exchange
from tests.vendors.dialect import Dialect, Said, pieces


class OpenAI(Dialect):
    stops: ClassVar[Mapping[StopReason, str]] = {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "refused": "content_filter",
    }
    schema_refusal = "'response_format' of type 'json_schema' is not supported with this model"
    usage: ClassVar[Mapping[str, Any]] = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    frame: ClassVar[Mapping[str, Any]] = {"id": "1", "created": 1, "model": "model-1-0613"}

    def body(self, said: Said) -> Any:
        calls = [
            {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": json.dumps(use.arguments)}}
            for use in said.uses
        ]
        message = {"role": "assistant", "content": said.text or None} | ({"tool_calls": calls} if calls else {})
        choice = {"index": 0, "finish_reason": self.stops[said.stop], "message": message}
        return {**self.frame, "object": "chat.completion", "choices": [choice], "usage": self.usage}

    def events(self, said: Said) -> Sequence[tuple[str, Any]]:
        made = [self._delta({"content": piece}) for piece in pieces(said.text)]
        for index, use in enumerate(said.uses):
            head = {"index": index, "id": use.id, "type": "function", "function": {"name": use.name, "arguments": ""}}
            made.append(self._delta({"tool_calls": [head]}))
            for piece in pieces(json.dumps(use.arguments)):
                made.append(self._delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}))
        made.append(self._delta({}, self.stops[said.stop]))
        usage = {**self.frame, "object": "chat.completion.chunk", "choices": [], "usage": self.usage}
        return [*made, ("", usage), ("", "[DONE]")]

    def beginning(self, text: str) -> Sequence[tuple[str, Any]]:
        return [self._delta({"content": text})]

    def error(self, status: int, words: str) -> Any:
        return {"error": {"message": words, "type": "x", "inner": "inside"}}

    def wants_stream(self, exchange: Exchange) -> bool:
        return exchange.body.get("stream", False)

    def key_of(self, exchange: Exchange) -> str:
        return exchange.headers["authorization"].removeprefix("Bearer ")

    def images(self, body: Any) -> Sequence[str]:
        parts = [part for turn in body["messages"] if isinstance(turn["content"], list) for part in turn["content"]]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        return [url.partition("base64,")[2] or url for url in urls]

    def results(self, body: Any) -> Sequence[tuple[str, str]]:
        return [(turn["tool_call_id"], turn["content"]) for turn in body["messages"] if turn["role"] == "tool"]

    def asks_schema(self, body: Any) -> bool:
        return "response_format" in body

    def sent(self, body: Any) -> str:
        return json.dumps(body["messages"])

    def embeddings(self, vectors: Sequence[Sequence[float]]) -> Any:
        data = [{"object": "embedding", "index": at, "embedding": list(one)} for at, one in enumerate(vectors)]
        usage = {"prompt_tokens": 10, "total_tokens": 10}
        return {"object": "list", "model": "model-1-0613", "data": data[::-1], "usage": usage}

    def embedded(self, body: Any) -> Sequence[str]:
        return body["input"]

    def _delta(self, delta: Mapping[str, Any], reason: str | None = None) -> tuple[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return "", {**self.frame, "object": "chat.completion.chunk", "choices": [choice]}


class XAI(OpenAI):
    """OpenAI's format; reasoning is counted beside the completion."""

    usage: ClassVar[Mapping[str, Any]] = {**OpenAI.usage, "completion_tokens": 5}


class DeepSeek(OpenAI):
    """OpenAI's format, without embeddings."""

    embeds = False


class Ollama(OpenAI):
    """OpenAI's format on one's own machine: no key, no details of tokens, `stop` where tools are wanted."""

    keyed = False
    url_variable = "OLLAMA_HOST"
    stops: ClassVar[Mapping[StopReason, str]] = {**OpenAI.stops, "tool_calls": "stop"}
    spent = Usage(prompt_tokens=10, completion_tokens=7)
    usage: ClassVar[Mapping[str, Any]] = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
    frame: ClassVar[Mapping[str, Any]] = {**OpenAI.frame, "system_fingerprint": "fp_ollama"}


class VLLM(OpenAI):
    """vLLM's server, as any other of OpenAI's format: `openai/...` at an address of one's own, without a key.

    It has fields of its own, and some of OpenAI's are null.
    """

    keyed = False
    spent = Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4)
    usage: ClassVar[Mapping[str, Any]] = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": None,
    }
    frame: ClassVar[Mapping[str, Any]] = {**OpenAI.frame, "prompt_logprobs": None, "kv_transfer_params": None}

    def body(self, said: Said) -> Any:
        made = super().body(said)
        made["choices"][0] |= {"stop_reason": None, "logprobs": None, "token_ids": None}
        made["choices"][0]["message"] |= {"reasoning_content": "hm", "refusal": None, "audio": None}
        return made

    def _delta(self, delta: Mapping[str, Any], reason: str | None = None) -> tuple[str, Any]:
        event, data = super()._delta(delta, reason)
        data["choices"][0]["delta"] = {"reasoning_content": None, **delta}
        return event, data
