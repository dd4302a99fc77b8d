"""Anthropic: the official SDK behind the contract.

Owns the SDK's client and its exceptions; `anthropic_wire.py` maps the data, `sdk_client.py` has the rest. Above:
`models.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, cast

from aixgo.llm.anthropic_wire import StreamedMessage, completion, is_expressible, parameters
from aixgo.llm.contract import Completion, CompletionRequest
from aixgo.llm.sdk_client import Opened, Refusal, SdkClient, time_left, words_of

if TYPE_CHECKING:
    import anthropic
    from anthropic.types import Message, RawMessageStreamEvent

_STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The status that an error of this type has; in a stream it comes after a 200. Source: Anthropic's API reference."""


class AnthropicClient(SdkClient):
    """A client of Anthropic's messages."""

    package = extra = "anthropic"

    def _connect(self, sdk: Any, key: str) -> Opened:
        http = importlib.import_module("httpx2")
        client = sdk.AsyncAnthropic(
            api_key=key,
            base_url=self.endpoint.base_url,
            max_retries=0,
            open_telemetry=False,  # the metering has the span of every request
            http_client=sdk.DefaultAsyncHttpxClient(trust_env=False) if self.endpoint.is_local else None,
        )
        timeouts = (sdk.APITimeoutError, http.TimeoutException)
        return Opened(client, timeouts, (sdk.AnthropicError, http.HTTPError, ValueError))

    async def _ask(self, client: Any, request: CompletionRequest, *, native: bool) -> Completion:
        answer = await client.messages.create(**self._parameters(request, native=native))
        return completion(cast("Message", answer))

    async def _pieces(
        self, client: Any, request: CompletionRequest, *, native: bool
    ) -> AsyncGenerator[RawMessageStreamEvent]:
        stream = await client.messages.create(**self._parameters(request, native=native), stream=True)
        try:
            async for event in cast("anthropic.AsyncStream[RawMessageStreamEvent]", stream):
                yield event
        finally:
            await stream.close()

    def _gathering(self, request: CompletionRequest) -> StreamedMessage:
        return StreamedMessage(request.model)

    def _refusal(self, error: Exception) -> Refusal | None:
        status = getattr(error, "status_code", None)
        if status is None:
            return None
        failed = cast("anthropic.APIStatusError", error)
        if status < 400:
            status = _STATUSES.get(failed.type or "", 500)
        return Refusal(status, words_of(error, "error", "message"), failed.response.headers, failed.type or "")

    def _parameters(self, request: CompletionRequest, *, native: bool) -> dict[str, Any]:
        schema = _native(request.schema) if native and request.schema is not None else None
        return parameters(request, schema) | {"timeout": time_left()}


def _native(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema as the vendor takes it; None for one that it cannot follow."""
    if not is_expressible(schema):
        return None
    transform = importlib.import_module("anthropic").transform_schema
    try:
        return cast("Mapping[str, Any]", transform(dict(schema)))
    except ValueError:
        return None
