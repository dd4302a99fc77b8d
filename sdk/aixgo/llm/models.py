"""From a model's name to the provider or the embedder that answers: `vendor/model`, metered, one client a vendor.

Owns the table of vendors and their settings. The environment is read in one place, `ModelSettings.from_environment`.
Above: the agents.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from aixgo.errors import ConfigError
from aixgo.llm.chat import Chat
from aixgo.llm.contract import Client, Provider
from aixgo.llm.embedded import EmbeddedClient, check_embedded
from aixgo.llm.embeddings import Embedder, EmbeddingClient, MeteredEmbedder, WordsClient
from aixgo.llm.metering import Metered
from aixgo.llm.minilm import MiniLMClient
from aixgo.llm.openai import Endpoint, OpenAIClient
from aixgo.llm.pricing import Price, Prices
from aixgo.llm.scripted import ScriptedClient, ScriptedModel
from aixgo.names import nearest

LATER = {"anthropic": "Anthropic", "gemini": "Google Gemini"}
"""Vendors that the design names and that are not built yet."""


@dataclass(frozen=True, slots=True)
class _Vendor:
    """How a vendor of the OpenAI format is reached when nobody says otherwise."""

    base_url: str
    url_env: str
    key_env: str = ""
    native_schema: bool = True
    limit_name: str = "max_tokens"


_OPENAI_FORMAT: Mapping[str, _Vendor] = {
    "openai": _Vendor(
        "https://api.openai.com/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY", limit_name="max_completion_tokens"
    ),
    "xai": _Vendor("https://api.x.ai/v1", "XAI_BASE_URL", "XAI_API_KEY"),
    "deepseek": _Vendor("https://api.deepseek.com/v1", "DEEPSEEK_BASE_URL", "DEEPSEEK_API_KEY", native_schema=False),
    "ollama": _Vendor("http://localhost:11434/v1", "OLLAMA_HOST"),
}

VENDORS = (*_OPENAI_FORMAT, "local", "test")
"""Vendors that work today."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Keys and addresses of the vendors.

    `keys` and `urls` are by vendor. `local_url` is the base URL of another process that serves the embedded model, so
    that nothing is loaded here; `model_dir` is where its weights lie (default: the user's cache).
    """

    keys: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr])
    urls: Mapping[str, str] = field(default_factory=dict[str, str])
    local_url: str = ""
    model_dir: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ModelSettings:
        """The settings that environment variables give: OPENAI_API_KEY, OPENAI_BASE_URL, XAI_API_KEY,
        DEEPSEEK_API_KEY, OLLAMA_HOST, AIXGO_LOCAL_MODEL_URL, AIXGO_MODEL_DIR, ...
        """
        given = os.environ if environment is None else environment
        vendors = _OPENAI_FORMAT.items()
        model_dir = given.get("AIXGO_MODEL_DIR")
        return cls(
            keys={name: SecretStr(given[vendor.key_env]) for name, vendor in vendors if given.get(vendor.key_env)},
            urls={name: _base_url(given[vendor.url_env]) for name, vendor in vendors if given.get(vendor.url_env)},
            local_url=given.get("AIXGO_LOCAL_MODEL_URL", ""),
            model_dir=Path(model_dir) if model_dir else None,
        )


class Models:
    """Where agents get their models. One for a process; `close` it at the end.

    `scripted` are the models of tests, by the name after `test/`; `prices` are the user's own, by `model` or
    `vendor/model`; `folder` is where relative paths of scripts (`test/script:PATH`) begin. Without `settings` the
    environment is read.
    """

    def __init__(
        self,
        settings: ModelSettings | None = None,
        *,
        scripted: Mapping[str, ScriptedModel] | None = None,
        prices: Mapping[str, Price] | None = None,
        folder: Path | None = None,
    ) -> None:
        self._settings = ModelSettings.from_environment() if settings is None else settings
        self._scripted = ScriptedClient(scripted, folder)
        self._prices = Prices(prices)
        self._providers: dict[str, Metered] = {}
        self._embedding: dict[str, EmbeddingClient] = {}

    def provider(self, name: str) -> tuple[Provider, str]:
        """The metered provider of `vendor/model`, and the vendor's own name of the model.

        Raises ConfigError for a name that cannot be used. Nothing is loaded or connected before the first request.
        """
        vendor, model = _parts(name, "local/smollm2-135m")
        if vendor not in self._providers:
            self._providers[vendor] = Metered(self._client(vendor), self._prices)
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
        """The metered embedder of `vendor/model`: `local/minilm`, `openai/text-embedding-3-small`, `test/words`.

        Raises ConfigError for a name that cannot be used. Nothing is loaded or connected before the first request.
        """
        vendor, model = _parts(name, "local/minilm")
        if vendor not in self._embedding:
            self._embedding[vendor] = self._embedding_client(vendor)
        client = self._embedding[vendor]
        if client.models and model not in client.models:
            raise ConfigError(f"there is no embedding model {name!r}; {nearest(model, client.models)}")
        return MeteredEmbedder(client, model, self._prices.find(vendor, model))

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
        return self._openai_format(vendor)

    def _embedding_client(self, vendor: str) -> EmbeddingClient:
        if vendor == "test":
            return WordsClient()
        if vendor == "local":
            return MiniLMClient()
        return self._openai_format(vendor)

    def _openai_format(self, vendor: str) -> OpenAIClient:
        if vendor in LATER:
            raise ConfigError(f"models of {LATER[vendor]} ({vendor}/...) are not supported yet; use one of {VENDORS}")
        if vendor not in _OPENAI_FORMAT:
            raise ConfigError(f"there is no model vendor {vendor!r}; {nearest(vendor, VENDORS)}")
        return OpenAIClient(self._endpoint(vendor))

    def _endpoint(self, name: str) -> Endpoint:
        vendor, url = _OPENAI_FORMAT[name], self._settings.urls.get(name)
        key = self._settings.keys.get(name)
        # Servers that only speak the format often want no key, and know the older parameter alone.
        key_env = "" if name == "openai" and url else vendor.key_env
        limit_name = "max_tokens" if url else vendor.limit_name
        return Endpoint(name, url or vendor.base_url, key, key_env, vendor.native_schema, limit_name)


def _parts(name: str, example: str) -> tuple[str, str]:
    vendor, slash, model = name.partition("/")
    if not slash or not model:
        raise ConfigError(f"model {name!r} is not of the form vendor/model, for example {example}")
    return vendor, model


def _base_url(url: str) -> str:
    """OLLAMA_HOST is often just host:port."""
    url = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
    return url if url.count("/") > 2 else f"{url}/v1"
