"""The embedded model, `local/smollm2-135m`: llama.cpp inside this process, or served by another one.

Owns the loading of the model and the HTTP server that llama.cpp opens for it. Requests go through the same mapping as
those to any server of the OpenAI format. The model knows no tool calls: tools are offered to it as a JSON schema that
makes it choose between them. Above: `models.py`, and whoever serves the model to a fleet (`serve_model`).
"""

from __future__ import annotations

import asyncio
import importlib
import socket
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary

from aixgo.errors import ConfigError, InvalidCompletion, InvalidMessage, ProviderUnavailable, WrongState
from aixgo.llm.contract import ChatMessage, Chunk, Completion, CompletionRequest, ToolOffer, ToolUse
from aixgo.llm.openai import Endpoint, OpenAIClient
from aixgo.llm.weights import require_weights
from aixgo.message import from_json
from aixgo.names import nearest

MODEL = "smollm2-135m"
"""The one model that is embedded; `local/smollm2-135m` to users."""
CONTEXT_TOKENS = 2048
"""Prompt and completion of one request together."""
DEFAULT_PARALLEL = 4
"""Requests that are answered at the same time. Each place also remembers the prompt that it saw last."""

_PROMPT_CACHE_MIB = 256
_ERRORS_ONLY = 1
# A process has the weights in memory once, however many clients it has; the lock and this table are what they share.
_LOADED: WeakValueDictionary[Path, ServedModel] = WeakValueDictionary()
_LOADING = threading.Lock()


class ServedModel:
    """The embedded model behind an HTTP server of the OpenAI format. It runs until `close`."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.base_url = f"{server.listening_address}/v1"

    def close(self) -> None:
        """Stop the server and free the model. Blocks for a moment."""
        self._server = None


def serve_model(path: Path, host: str = "127.0.0.1", port: int = 0, n_parallel: int = DEFAULT_PARALLEL) -> ServedModel:
    """Load the weights at `path` and serve them; blocks for about a second. Port 0 is any free one.

    Raises ConfigError when xllamacpp is not installed, WrongState when the port is taken, ProviderUnavailable when the
    model cannot be loaded.
    """
    _check_port(host, port)
    llama = _import_llama()
    params = llama.CommonParams()
    params.model.path = str(path)
    params.model_alias = {MODEL}
    params.hostnames, params.port = [host], port
    params.n_parallel, params.n_ctx = n_parallel, n_parallel * CONTEXT_TOKENS
    # On busy cores two threads are slower than one.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.ui, params.verbosity = False, False, _ERRORS_ONLY
    params.cache_ram_mib = _PROMPT_CACHE_MIB
    try:
        return ServedModel(llama.Server(params))
    except RuntimeError as error:
        raise ProviderUnavailable(
            f"the embedded model cannot be served from {path} at {host}:{port}: {error}"
        ) from error


def _check_port(host: str, port: int) -> None:
    """Raise WrongState when the port is taken: the engine itself only says that it could not start."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise WrongState(
                f"cannot serve the model at {host}:{port}: {error.strerror}; choose another port"
            ) from error


def check_embedded(model: str) -> None:
    """Raise ConfigError when `model` is not the embedded one."""
    if model != MODEL:
        raise ConfigError(f"there is no embedded model {model!r}; {nearest(model, [MODEL])}")


class EmbeddedClient:
    """The vendor `local`. With `url` another process serves the model; else it is loaded here at the first request.

    `directory` is where the weights lie; None is the user's cache.
    """

    vendor = "local"

    def __init__(self, url: str = "", directory: Path | None = None) -> None:
        self._url = url
        self._directory = directory
        self._served: ServedModel | None = None
        self._client: OpenAIClient | None = None
        self._opening = asyncio.Lock()

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion. Raises ConfigError without the package or the weights, ProviderError."""
        client = await self._open()
        return _with_tool_use(request, await client.complete(_adapted(request)))

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces; a choice of tools comes in one piece, because its JSON is not the answer's text."""
        client = await self._open()
        if request.tools:
            completion = _with_tool_use(request, await client.complete(_adapted(request)))
            yield Chunk(completion.text)
            yield Chunk(completion=completion)
            return
        async with aclosing(cast("Any", client.stream(_adapted(request)))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def close(self) -> None:
        """Close the connections; the model itself goes with its last client."""
        if self._client is not None:
            await self._client.close()
        # Freeing the model blocks, so the reference to it is dropped in a thread.
        held = [self._served]
        self._client = self._served = None
        await asyncio.to_thread(held.clear)

    async def _open(self) -> OpenAIClient:
        async with self._opening:
            if self._client is None:
                if not self._url:
                    self._served = await asyncio.to_thread(_load, self._directory)
                url = self._url or cast("ServedModel", self._served).base_url
                self._client = OpenAIClient(Endpoint("local", url, images=False))
        return self._client


def _load(directory: Path | None) -> ServedModel:
    _import_llama()
    path = require_weights(directory)
    with _LOADING:
        served = _LOADED.get(path)
        if served is None:
            served = _LOADED[path] = serve_model(path)
        return served


def _import_llama() -> Any:
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise ConfigError(
            "local/ models need the xllamacpp package; install it with: pip install 'aixgo[local]'. Or set a key"
            " (OPENAI_API_KEY) and use openai/..., or run Ollama and use ollama/..."
        ) from error


def _adapted(request: CompletionRequest) -> CompletionRequest:
    extra = {"cache_prompt": True} | dict(request.extra)
    if not request.tools:
        return replace(request, extra={"extra_body": extra})
    offers = "\n".join(f"- {offer.name}: {offer.description}" for offer in request.tools)
    told = ChatMessage("system", f"You can use one of these tools, or answer yourself:\n{offers}")
    choices = [_tool_choice(offer) for offer in request.tools] + [_object({"answer": {"type": "string"}})]
    return replace(
        request, messages=(told, *request.messages), tools=(), schema={"anyOf": choices}, extra={"extra_body": extra}
    )


def _tool_choice(offer: ToolOffer) -> dict[str, Any]:
    return _object({"tool": {"const": offer.name}, "arguments": dict(offer.parameters)})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _with_tool_use(request: CompletionRequest, completion: Completion) -> Completion:
    if not request.tools:
        return completion
    try:
        chosen = from_json(completion.text.encode())
    except InvalidMessage as error:
        raise InvalidCompletion(
            f"the embedded model's choice of a tool was cut off: {completion.text[:200]!r}"
        ) from error
    if not isinstance(chosen, dict) or "tool" not in chosen:
        text = chosen.get("answer", "") if isinstance(chosen, dict) else completion.text
        return replace(completion, text=text)
    use = ToolUse(f"call_{len(request.messages)}", chosen["tool"], chosen["arguments"])
    return replace(completion, text="", tool_uses=(use,), stop_reason="tool_calls")
