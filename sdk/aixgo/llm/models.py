"""From a model's name to the provider or the embedder that answers: `vendor/model`, one client a vendor.

Owns what stands around a vendor's client: metering, and above it retries and the vendor's limits. Below: `vendors.py`
and the clients, whose SDKs are loaded with the first request. Above: the agents.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from aixgo.errors import ConfigError
from aixgo.llm.anthropic import AnthropicClient
from aixgo.llm.chat import Chat
from aixgo.llm.contract import Client, Provider
from aixgo.llm.embedded import EmbeddedClient, check_embedded
from aixgo.llm.embeddings import Embedder, EmbeddingClient, MeteredEmbedder, WordsClient
from aixgo.llm.gemini import GeminiClient
from aixgo.llm.limits import Gate, VendorLimits
from aixgo.llm.metering import Metered
from aixgo.llm.minilm import MiniLMClient
from aixgo.llm.openai import OpenAIClient
from aixgo.llm.pricing import Price, Prices
from aixgo.llm.retrying import Retrying, Sleep, Tries
from aixgo.llm.scripted import ScriptedClient, ScriptedModel
from aixgo.llm.vendors import NO_EMBEDDINGS, VENDORS, ModelSettings, endpoint_of
from aixgo.names import nearest

__all__ = ["VENDORS", "ModelSettings", "Models"]

_HERE = ("local", "test")
"""Vendors whose embeddings are made in this process, where trying again helps nobody."""


class Models:
    """Where agents get their models. One for a process; `close` it at the end.

    `scripted` are the models of tests, by the name after `test/`; `prices` are the user's own, by `model` or
    `vendor/model`; `folder` is where relative paths of scripts (`test/script:PATH`) begin; `sleep` waits before a
    request is tried again. Without `settings` the environment is read.
    """

    def __init__(
        self,
        settings: ModelSettings | None = None,
        *,
        scripted: Mapping[str, ScriptedModel] | None = None,
        prices: Mapping[str, Price] | None = None,
        folder: Path | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._settings = ModelSettings.from_environment() if settings is None else settings
        self._scripted = ScriptedClient(scripted, folder)
        self._prices = Prices(prices)
        self._providers: dict[str, Provider] = {}
        self._embedding: dict[str, EmbeddingClient] = {}
        self._gates: dict[str, Gate] = {}
        self._sleep = sleep

    def provider(self, name: str) -> tuple[Provider, str]:
        """The metered provider of `vendor/model`, and the vendor's own name of the model.

        Raises ConfigError for a name that cannot be used. Nothing is loaded or connected before the first request.
        """
        vendor, model = _parts(name, "local/smollm2-135m")
        if vendor not in self._providers:
            self._providers[vendor] = self._provider(vendor)
        if vendor == "test":
            self._scripted.check(model)
        elif vendor == "local":
            check_embedded(model)
        return self._providers[vendor], model

    def chat(self, names: Sequence[str]) -> Chat:
        """The models of an agent: the first, and fallbacks for when it fails. Raises ConfigError."""
        if not names:
            raise ConfigError("no model is named; set `model`, for example to local/smollm2-135m")
        return Chat([self.provider(name) for name in names])

    def embedder(self, name: str) -> Embedder:
        """The metered embedder of `vendor/model`: `local/minilm`, `openai/text-embedding-3-small`,
        `gemini/gemini-embedding-001`, `test/words`.

        Raises ConfigError for a name that cannot be used. Nothing is loaded or connected before the first request.
        """
        vendor, model = _parts(name, "local/minilm")
        if vendor not in self._embedding:
            self._embedding[vendor] = self._embedding_client(vendor)
        client = self._embedding[vendor]
        if client.models and model not in client.models:
            raise ConfigError(f"there is no embedding model {name!r}; {nearest(model, client.models)}")
        return MeteredEmbedder(client, model, self._prices, None if vendor in _HERE else self._tries(vendor))

    async def close(self) -> None:
        """Close every provider and embedder that was made."""
        for clients in (self._providers, self._embedding):
            while clients:
                _, client = clients.popitem()
                await client.close()

    def _client(self, vendor: str) -> Client:
        if vendor == "test":
            return self._scripted
        if vendor == "local":
            return EmbeddedClient(self._settings.local_url, self._settings.model_dir)
        endpoint = endpoint_of(vendor, self._settings)
        if vendor == "anthropic":
            return AnthropicClient(endpoint)
        if vendor == "gemini":
            return GeminiClient(endpoint)
        return OpenAIClient(endpoint)

    def _embedding_client(self, vendor: str) -> EmbeddingClient:
        if vendor == "test":
            return WordsClient()
        if vendor == "local":
            return MiniLMClient()
        if vendor in NO_EMBEDDINGS:
            raise ConfigError(f"{vendor}/ has no embeddings here; use local/minilm, or openai/text-embedding-3-small")
        endpoint = endpoint_of(vendor, self._settings)
        return GeminiClient(endpoint) if vendor == "gemini" else OpenAIClient(endpoint)

    def _provider(self, vendor: str) -> Provider:
        metered = Metered(self._client(vendor), self._prices)
        # Scripts say themselves what fails and how often.
        return metered if vendor == "test" else Retrying(metered, self._tries(vendor))

    def _tries(self, vendor: str) -> Tries:
        if vendor not in self._gates:
            self._gates[vendor] = Gate(vendor, self._settings.limits.get(vendor, VendorLimits()))
        return Tries(self._gates[vendor], sleep=self._sleep)


def _parts(name: str, example: str) -> tuple[str, str]:
    vendor, slash, model = name.partition("/")
    if not slash or not model:
        raise ConfigError(f"model {name!r} is not of the form vendor/model, for example {example}")
    return vendor, model
