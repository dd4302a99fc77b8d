"""The wire formats of the vendors: what a server of each answers, and what a request of each says.

One Dialect a format; the suite knows nothing else of vendors.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aixgo.llm.contract import StopReason, ToolUse
from aixgo.usage import Usage

from tests.unit.llm.vendor_server import Exchange, Handler

SPENT = Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4, reasoning_tokens=2)


@dataclass(frozen=True)
class Said:
    """What the model says, in no vendor's words."""

    text: str = ""
    uses: Sequence[ToolUse] = ()
    stop: StopReason = "stop"


class Dialect(ABC):
    """One vendor's format. `name` tells dialects of one vendor apart; `keyed` False: the server wants no key."""

    vendor: str
    name: str
    keyed: ClassVar[bool] = True
    embeds: ClassVar[bool] = True
    spent: ClassVar[Usage] = SPENT
    """What the answers say that was taken."""
    stops: ClassVar[Mapping[StopReason, str]]
    schema_refusal: ClassVar[str]
    """How a model that has no schema mode refuses it."""

    def __init__(self, vendor: str, name: str = "") -> None:
        self.vendor = vendor
        self.name = name or vendor

    @property
    def model(self) -> str:
        return f"{self.vendor}/model-1"

    @property
    def url_variable(self) -> str:
        return f"{self.vendor.upper()}_BASE_URL"

    @abstractmethod
    def body(self, said: Said) -> Any:
        """A whole answer."""

    @abstractmethod
    def events(self, said: Said) -> Sequence[tuple[str, Any]]:
        """A streamed answer: the event's name and its data."""

    @abstractmethod
    def error(self, status: int, words: str) -> Any:
        """The body of an error."""

    @abstractmethod
    def wants_stream(self, exchange: Exchange) -> bool: ...

    @abstractmethod
    def key_of(self, exchange: Exchange) -> str: ...

    @abstractmethod
    def images(self, body: Any) -> Sequence[str]:
        """The images of a request: base64 or addresses."""

    @abstractmethod
    def results(self, body: Any) -> Sequence[tuple[str, str]]:
        """What tools gave, as a request tells it: name or id of the use, and the text."""

    @abstractmethod
    def asks_schema(self, body: Any) -> bool:
        """Whether the vendor's own schema mode is asked for."""

    @abstractmethod
    def sent(self, body: Any) -> str:
        """Everything that is said in a request, of all roles."""

    def embeddings(self, vectors: Sequence[Sequence[float]]) -> Any:
        """A whole answer of a model of embeddings, to as many texts."""
        raise NotImplementedError

    def embedded(self, body: Any) -> Sequence[str]:
        """The texts of a request for embeddings."""
        raise NotImplementedError

    def embeds_as(self, *vectors: Sequence[float]) -> Handler:
        async def handle(exchange: Exchange) -> None:
            await exchange.answer(200, self.embeddings(vectors))

        return handle

    def answers(self, said: Said) -> Handler:
        """Answers whole or streamed, as the request wants it."""

        async def handle(exchange: Exchange) -> None:
            if not self.wants_stream(exchange):
                await exchange.answer(200, self.body(said))
                return
            await exchange.begin_stream()
            for event, data in self.events(said):
                await exchange.send(data, event)
            await exchange.end_stream()

        return handle

    def refuses(self, status: int, words: str, **headers: str) -> Handler:
        async def handle(exchange: Exchange) -> None:
            await exchange.answer(status, self.error(status, words), **headers)

        return handle

    def is_cut_off(self, said: Said) -> Handler:
        """Answers half of what it said that it would, and closes the connection."""

        async def handle(exchange: Exchange) -> None:
            data = json.dumps(self.body(said)).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            exchange.writer.write(head.encode() + data[: len(data) // 2])
            await exchange.writer.drain()
            exchange.writer.close()

        return handle

    def breaks_off(self, *, cleanly: bool) -> Handler:
        """Streams the beginning of an answer, and ends the response or just the connection."""

        async def handle(exchange: Exchange) -> None:
            await exchange.begin_stream()
            for event, data in self.beginning("Hello"):
                await exchange.send(data, event)
            if cleanly:
                await exchange.end_stream()
            exchange.writer.close()

        return handle

    @abstractmethod
    def beginning(self, text: str) -> Sequence[tuple[str, Any]]:
        """The events of an answer up to its first text."""


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


def pieces(text: str) -> Sequence[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def _event(data: Any) -> tuple[str, Any]:
    return data["type"], data


def _snake(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"file_uri": part.get("file_uri") or part.get("fileUri")}
