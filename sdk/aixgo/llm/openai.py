"""OpenAI, and every server that speaks its chat and embeddings formats: the official SDK behind the contracts.

Owns the SDK's client and its exceptions; `openai_wire.py` maps the data, `sdk_client.py` has the rest. Above:
`models.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from aixgo.llm.contract import Completion, CompletionRequest
from aixgo.llm.embeddings import TIMEOUT, Embedded
from aixgo.llm.openai_wire import StreamedAnswer, completion, embedded, parameters
from aixgo.llm.sdk_client import Endpoint, Opened, Refusal, SdkClient, time_left, words_of

if TYPE_CHECKING:
    import openai
    from openai.types import CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

__all__ = ["Endpoint", "OpenAIClient"]


class OpenAIClient(SdkClient):
    """A client of one endpoint of the OpenAI format."""

    package = extra = "openai"
    models: Mapping[str, int] = {}

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of `texts`, in one request. Raises what `complete` does."""
        opened = await self._open()
        create = opened.client.embeddings.create
        with self._errors(opened, model):
            # The SDK asks for base64 when nothing is said, which compatible servers often do not know.
            answer = await create(
                model=model, input=list(texts), encoding_format="float", timeout=min(time_left(), TIMEOUT)
            )
        return embedded(cast("CreateEmbeddingResponse", answer))

    def _connect(self, sdk: Any, key: str) -> Opened:
        http = _http_library(sdk)
        client = sdk.AsyncOpenAI(
            api_key=key,
            base_url=self.endpoint.base_url,
            max_retries=0,
            http_client=sdk.DefaultAsyncHttpxClient(trust_env=False) if self.endpoint.is_local else None,
        )
        timeouts = (sdk.APITimeoutError, http.TimeoutException)
        return Opened(client, timeouts, (sdk.OpenAIError, http.HTTPError, ValueError))

    async def _ask(self, client: Any, request: CompletionRequest, *, native: bool) -> Completion:
        answer = await client.chat.completions.create(**self._parameters(request, native=native))
        return completion(cast("ChatCompletion", answer))

    async def _pieces(
        self, client: Any, request: CompletionRequest, *, native: bool
    ) -> AsyncGenerator[ChatCompletionChunk]:
        wanted = self._parameters(request, native=native) | {"stream": True, "stream_options": {"include_usage": True}}
        stream = cast("openai.AsyncStream[ChatCompletionChunk]", await client.chat.completions.create(**wanted))
        try:
            async for piece in stream:
                yield piece
        finally:
            await stream.close()

    def _gathering(self, request: CompletionRequest) -> StreamedAnswer:
        return StreamedAnswer(request.model)

    def _refusal(self, error: Exception) -> Refusal | None:
        status = getattr(error, "status_code", None)
        if status is None:
            return None
        failed = cast("openai.APIStatusError", error)
        return Refusal(status, words_of(error, "message"), failed.response.headers, failed.code or "")

    def _parameters(self, request: CompletionRequest, *, native: bool) -> dict[str, Any]:
        made = parameters(request, native_schema=native, limit_name=self.endpoint.limit_name)
        return made | {"timeout": time_left()}


def _http_library(sdk: Any) -> Any:
    """The library under the SDK (httpx or httpx2, by its version), whose errors it lets through while streaming."""
    base = next(cls for cls in sdk.DefaultAsyncHttpxClient.__mro__ if cls.__name__ == "AsyncClient")
    return importlib.import_module(base.__module__.partition(".")[0])
