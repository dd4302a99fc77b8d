"""OpenAI, and every server that speaks its chat and embeddings formats: the official SDK behind the contracts.

Owns the connection, the deadline, cancellation and the mapping of errors; `openai_wire.py` maps the data. The SDK takes
a second to import, so it is loaded in a thread when the first request is made. Above: `models.py`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from pydantic import SecretStr

from aixgo.call import DEFAULT_TIMEOUT, remaining
from aixgo.errors import (
    ConfigError,
    ProviderDenied,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from aixgo.llm.contract import Chunk, Completion, CompletionRequest
from aixgo.llm.embeddings import Embedded
from aixgo.llm.openai_wire import StreamedAnswer, completion, embedded, parameters

if TYPE_CHECKING:
    import openai
    from openai.types import CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

_CUT = 500
_EMBEDDING_TIMEOUT = 60.0  # nothing is generated, so what takes longer has gone wrong
_BY_STATUS: Mapping[int, type[ProviderError]] = {
    401: ProviderDenied,
    403: ProviderDenied,
    408: ProviderTimeout,
    429: RateLimited,
}
_NO_KEY = SecretStr("none")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server of the OpenAI format.

    `key_env` names the setting that a missing key is to be put into; empty: the server wants none. `native_schema`
    says whether it knows `response_format: json_schema`; `limit_name` is its parameter for the completion's bound.
    """

    vendor: str
    base_url: str
    key: SecretStr | None = field(default=None, repr=False)
    key_env: str = ""
    native_schema: bool = True
    limit_name: str = "max_tokens"


class OpenAIClient:
    """A client of one endpoint. Unary requests are tried again by the SDK, at most `max_retries` times."""

    def __init__(self, endpoint: Endpoint, *, max_retries: int = 2) -> None:
        self.vendor = endpoint.vendor
        self.models: Mapping[str, int] = {}
        self._endpoint = endpoint
        self._max_retries = max_retries
        self._sdk: openai.AsyncOpenAI | None = None
        self._opening = asyncio.Lock()
        self._without_schema: set[str] = set()

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion. Raises ProviderError and its subclasses, ConfigError without the `openai` package."""
        sdk = await self._open()
        native = self._endpoint.native_schema and request.model not in self._without_schema
        try:
            with self._errors(request.model):
                answer = await _create(sdk, self._parameters(request, native=native))
        except ProviderRejected as error:
            if not (native and request.schema is not None and "response_format" in error.message):
                raise
            self._without_schema.add(request.model)
            return await self.complete(request)
        return completion(cast("ChatCompletion", answer))

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces. Ending the iteration early closes the HTTP request."""
        sdk = (await self._open()).with_options(max_retries=0)
        wanted = self._parameters(request, native=self._endpoint.native_schema)
        wanted |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = StreamedAnswer(request.model)
        with self._errors(request.model):
            stream = cast("openai.AsyncStream[ChatCompletionChunk]", await _create(sdk, wanted))
            try:
                async for piece in stream:
                    text = answer.add(piece)
                    if text:
                        yield Chunk(text)
            finally:
                await stream.close()
        if not answer.finished:
            raise ProviderUnavailable(f"{self._where(request.model)} ended its stream before the answer was complete")
        yield Chunk(completion=answer.completion())

    async def embed(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of `texts`, in one request. Raises what `complete` does."""
        sdk = await self._open()
        create = cast("Any", sdk.embeddings.create)
        with self._errors(model):
            # The SDK asks for base64 when nothing is said, which compatible servers often do not know.
            answer = await create(
                model=model, input=list(texts), encoding_format="float", timeout=min(_time_left(), _EMBEDDING_TIMEOUT)
            )
        return embedded(cast("CreateEmbeddingResponse", answer))

    async def close(self) -> None:
        """Close the connections."""
        if self._sdk is not None:
            await self._sdk.close()
            self._sdk = None

    def _parameters(self, request: CompletionRequest, *, native: bool) -> dict[str, Any]:
        made = parameters(request, native_schema=native, limit_name=self._endpoint.limit_name)
        return made | {"timeout": _time_left()}

    async def _open(self) -> openai.AsyncOpenAI:
        async with self._opening:
            if self._sdk is None:
                self._sdk = await asyncio.to_thread(self._connect)
        return self._sdk

    def _connect(self) -> openai.AsyncOpenAI:
        sdk = _import_sdk(self.vendor)
        key = self._endpoint.key
        if self._endpoint.key_env and (key is None or not key.get_secret_value()):
            raise ProviderDenied(f"{self.vendor}/ models need a key; set {self._endpoint.key_env}")
        # A proxy from the environment is never meant for a server on this machine.
        local = urlsplit(self._endpoint.base_url).hostname in ("localhost", "127.0.0.1", "::1")
        return sdk.AsyncOpenAI(
            api_key=(key or _NO_KEY).get_secret_value(),
            base_url=self._endpoint.base_url,
            max_retries=self._max_retries,
            http_client=sdk.DefaultAsyncHttpxClient(trust_env=False) if local else None,
        )

    @contextmanager
    def _errors(self, model: str) -> Generator[None]:
        sdk = _import_sdk(self.vendor)
        http = _http_library(sdk)
        try:
            yield
        except sdk.APITimeoutError as error:
            raise ProviderTimeout(f"{self._where(model)} did not answer in time") from error
        except sdk.APIStatusError as error:
            raise self._by_status(error, model) from error
        except sdk.APIConnectionError as error:
            raise ProviderUnavailable(f"{self._where(model)} cannot be reached: {error.__cause__ or error}") from error
        except sdk.OpenAIError as error:
            raise ProviderUnavailable(f"{self._where(model)} failed: {self._told(error)}") from error
        except http.TimeoutException as error:
            raise ProviderTimeout(f"{self._where(model)} stopped answering") from error
        except http.HTTPError as error:
            raise ProviderUnavailable(f"{self._where(model)} broke off its answer: {error}") from error

    def _by_status(self, error: openai.APIStatusError, model: str) -> ProviderError:
        status = error.status_code
        cls = _BY_STATUS.get(status, ProviderUnavailable if status >= 500 else ProviderRejected)
        made = cls(f"{self._where(model)} answers {status}: {self._told(error)}", fields={"status": status})
        made.retry_after = _retry_after(error.response.headers)
        return made

    def _told(self, error: openai.OpenAIError) -> str:
        """The vendor's own words, without the rest of the body, and without a key that it may have quoted."""
        body = getattr(error, "body", None)
        words = cast("Mapping[str, Any]", body).get("message") if isinstance(body, Mapping) else None
        told = str(words or (type(error).__name__ if body else error))
        key = self._endpoint.key
        if key is not None and key.get_secret_value():
            told = told.replace(key.get_secret_value(), "***")
        return told[:_CUT]

    def _where(self, model: str) -> str:
        return f"{self.vendor}/{model} at {self._endpoint.base_url}"


def _time_left() -> float:
    """Seconds that a request may take."""
    left = remaining()
    return DEFAULT_TIMEOUT if left is None else max(left, 0.001)


async def _create(sdk: openai.AsyncOpenAI, wanted: Mapping[str, Any]) -> Any:
    create = cast("Any", sdk.chat.completions.create)
    return await create(**wanted)


def _import_sdk(vendor: str) -> Any:
    try:
        return importlib.import_module("openai")
    except ImportError as error:
        raise ConfigError(
            f"{vendor}/ models need the openai package; install it with: pip install 'aixgo[openai]'"
        ) from error


def _http_library(sdk: Any) -> Any:
    """The library under the SDK (httpx or httpx2, by its version), whose errors it lets through while streaming."""
    base = next(cls for cls in sdk.DefaultAsyncHttpxClient.__mro__ if cls.__name__ == "AsyncClient")
    return importlib.import_module(base.__module__.partition(".")[0])


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms`, or `retry-after` in its form in seconds."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
    return None
