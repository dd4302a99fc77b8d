"""Gemini: Google's official SDK behind the contracts, with a key of the Gemini API.

Owns the SDK's client and its exceptions; `gemini_wire.py` maps the data, `sdk_client.py` has the rest. Above:
`models.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aixgo.llm.contract import Completion, CompletionRequest
from aixgo.llm.embeddings import TIMEOUT, Embedded
from aixgo.llm.gemini_wire import GatheredAnswer, config, contents, embedded, texts_to_embed
from aixgo.llm.sdk_client import Opened, Refusal, SdkClient, time_left

if TYPE_CHECKING:
    from google.genai.errors import APIError
    from google.genai.types import EmbedContentResponse, GenerateContentResponse

_ANSWERED: ContextVar[AsyncExitStack | None] = ContextVar("aixgo_gemini_answered", default=None)
"""What closes the HTTP response of the stream that is being opened. The SDK leaves one that is not read to its end to
the garbage collector.
"""
_CONNECTIONS = 1000  # as the SDKs of OpenAI and Anthropic have it
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
_KEY_INVALID = "API_KEY_INVALID"


@dataclass(frozen=True, slots=True)
class _Client:
    """The SDK's client, and the HTTP client under it, which the SDK leaves to be closed by whoever made it."""

    sdk: Any
    http: Any

    async def close(self) -> None:
        self.sdk.close()
        await self.http.aclose()


class GeminiClient(SdkClient):
    """A client of the Gemini API."""

    package = "google.genai"
    extra = "gemini"
    models: Mapping[str, int] = {}

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of `texts`, in one request. Raises what `complete` does."""
        opened = await self._open()
        config = {"http_options": {"timeout": _milliseconds(min(time_left(), TIMEOUT))}}
        with self._errors(opened, model):
            answer = await opened.client.sdk.aio.models.embed_content(
                model=model, contents=texts_to_embed(texts), config=config
            )
        return embedded(cast("EmbedContentResponse", answer), model)

    def _connect(self, sdk: Any, key: str) -> Opened:
        http = importlib.import_module("httpx2")
        # A client of our own: with aiohttp installed the SDK would use that, whose errors and time limits are others.
        connections = http.AsyncClient(
            trust_env=not self.endpoint.is_local,
            follow_redirects=True,
            limits=http.Limits(max_connections=_CONNECTIONS),
            event_hooks={"response": [_close_later]},
        )
        options = sdk.types.HttpOptions(base_url=self.endpoint.base_url, httpx_async_client=connections)
        client = sdk.Client(vertexai=False, api_key=key, http_options=options)
        failures = (sdk.errors.APIError, http.HTTPError, ValueError)
        return Opened(_Client(client, connections), (http.TimeoutException,), failures)

    async def _ask(self, client: Any, request: CompletionRequest, *, native: bool) -> Completion:
        answer = await client.sdk.aio.models.generate_content(**_parameters(request, native=native))
        gathered = self._gathering(request)
        gathered.add(cast("GenerateContentResponse", answer))
        return gathered.completion()

    async def _pieces(
        self, client: Any, request: CompletionRequest, *, native: bool
    ) -> AsyncGenerator[GenerateContentResponse]:
        stream = await client.sdk.aio.models.generate_content_stream(**_parameters(request, native=native))
        async with aclosing(stream) as responses, AsyncExitStack() as connection:
            # The request is sent here, and nothing is given out before the variable is as it was.
            token = _ANSWERED.set(connection)
            try:
                response = await anext(responses, None)
            finally:
                _ANSWERED.reset(token)
            while response is not None:
                yield cast("GenerateContentResponse", response)
                response = await anext(responses, None)

    def _gathering(self, request: CompletionRequest) -> GatheredAnswer:
        return GatheredAnswer(request.model, len(request.messages))

    def _refusal(self, error: Exception) -> Refusal | None:
        if not hasattr(error, "details"):
            return None
        failed, raw = cast("APIError", error), cast("Any", error)
        details = _details(raw.details)
        # A wrong key is an invalid argument to Google.
        denied = any(one.get("reason") == _KEY_INVALID for one in details)
        headers: Mapping[str, str] = getattr(raw.response, "headers", None) or {}
        words = failed.message or failed.status or ""
        return Refusal(401 if denied else failed.code, words, headers, failed.status or "", _delay(details))


async def _close_later(response: Any) -> None:
    connection = _ANSWERED.get()
    if connection is not None:
        connection.push_async_callback(response.aclose)


def _parameters(request: CompletionRequest, *, native: bool) -> dict[str, Any]:
    made = config(request, native_schema=native)
    made["http_options"] = {"timeout": _milliseconds(time_left())}
    return {"model": request.model, "contents": contents(request), "config": made}


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _details(body: Any) -> list[Mapping[str, Any]]:
    """The `details` of Google's error model (google.rpc.Status as JSON)."""
    inner: Any = cast("Mapping[str, Any]", body).get("error", body) if isinstance(body, Mapping) else None
    found: Any = cast("Mapping[str, Any]", inner).get("details") if isinstance(inner, Mapping) else None
    listed = cast("list[Any]", found) if isinstance(found, list) else []
    return [cast("Mapping[str, Any]", one) for one in listed if isinstance(one, Mapping)]


def _delay(details: list[Mapping[str, Any]]) -> float | None:
    """Seconds of google.rpc.RetryInfo, whose JSON is like "12.5s"."""
    for one in details:
        if one.get("@type") == _RETRY_INFO:
            try:
                return float(str(one.get("retryDelay", "")).removesuffix("s"))
            except ValueError:
                return None
    return None
