"""The vendors, by the first part of a model's name, and their settings: keys, addresses and limits.

Owns the table of vendors and ModelSettings. The environment is read in one place, `ModelSettings.from_environment`.
Above: `models.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from aixgo.errors import ConfigError
from aixgo.llm.limits import VendorLimits
from aixgo.llm.sdk_client import Endpoint
from aixgo.names import nearest

MAX_KEY_BYTES = 16_384
"""Of a file that holds a key."""
_FILE = "_FILE"
"""What a variable ends with that names a file, in which the value is."""


@dataclass(frozen=True, slots=True)
class _Vendor:
    """How a vendor is reached when nobody says otherwise. `path` is what an address without a path is given, and
    `key_alias` another variable that its key is often in.
    """

    base_url: str
    url_env: str
    key_env: str = ""
    native_schema: bool = True
    limit_name: str = "max_tokens"
    images: bool = True
    path: str = "/v1"
    key_alias: str = ""


_HOSTED: Mapping[str, _Vendor] = {
    "openai": _Vendor(
        "https://api.openai.com/v1", "OPENAI_BASE_URL", "OPENAI_API_KEY", limit_name="max_completion_tokens"
    ),
    "anthropic": _Vendor("https://api.anthropic.com", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", path=""),
    "gemini": _Vendor(
        "https://generativelanguage.googleapis.com",
        "GEMINI_BASE_URL",
        "GEMINI_API_KEY",
        path="",
        key_alias="GOOGLE_API_KEY",
    ),
    "xai": _Vendor("https://api.x.ai/v1", "XAI_BASE_URL", "XAI_API_KEY"),
    "deepseek": _Vendor(
        "https://api.deepseek.com/v1", "DEEPSEEK_BASE_URL", "DEEPSEEK_API_KEY", native_schema=False, images=False
    ),
    "ollama": _Vendor("http://127.0.0.1:11434/v1", "OLLAMA_HOST"),
}

VENDORS = (*_HOSTED, "local", "test")
"""What a model's name may begin with."""
NO_EMBEDDINGS = ("anthropic", "deepseek")
"""Vendors that have no embeddings."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Keys, addresses and limits of the vendors.

    `keys`, `urls` and `limits` are by vendor. `local_url` is the base URL of another process that serves the embedded
    model, so that nothing is loaded here; `model_dir` is where its weights lie (default: the user's cache).
    """

    keys: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr])
    urls: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)  # one may hold a password
    local_url: str = ""
    model_dir: Path | None = None
    limits: Mapping[str, VendorLimits] = field(default_factory=dict[str, VendorLimits])

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ModelSettings:
        """The settings that environment variables give: OPENAI_API_KEY or OPENAI_API_KEY_FILE, OPENAI_BASE_URL, and so
        on for each vendor; GOOGLE_API_KEY where there is no GEMINI_API_KEY; OLLAMA_HOST, AIXGO_LOCAL_MODEL_URL,
        AIXGO_MODEL_DIR; AIXGO_<VENDOR>_MAX_CONCURRENCY, AIXGO_<VENDOR>_REQUESTS_PER_MINUTE and
        AIXGO_<VENDOR>_MAX_TRIES. Raises ConfigError, naming the variable.
        """
        given = os.environ if environment is None else environment
        model_dir = given.get("AIXGO_MODEL_DIR")
        keys = {name: _key_of(given, vendor) for name, vendor in _HOSTED.items() if vendor.key_env}
        return cls(
            keys={name: key for name, key in keys.items() if key is not None},
            urls={
                name: _address(given[vendor.url_env], vendor.path)
                for name, vendor in _HOSTED.items()
                if given.get(vendor.url_env)
            },
            local_url=given.get("AIXGO_LOCAL_MODEL_URL", ""),
            model_dir=Path(model_dir) if model_dir else None,
            limits={name: _limits(given, f"AIXGO_{name.upper()}") for name in VENDORS},
        )


def endpoint_of(vendor: str, settings: ModelSettings) -> Endpoint:
    """Where a vendor is reached, by the settings. Raises ConfigError for one that nobody knows."""
    if vendor not in _HOSTED:
        raise ConfigError(f"there is no model vendor {vendor!r}; {nearest(vendor, VENDORS)}")
    known, url = _HOSTED[vendor], settings.urls.get(vendor)
    return Endpoint(
        vendor,
        url or known.base_url,
        settings.keys.get(vendor),
        # Servers that only speak the OpenAI format often want no key, and know the older parameter alone.
        key_env="" if vendor == "openai" and url else known.key_env,
        native_schema=known.native_schema,
        limit_name="max_tokens" if url else known.limit_name,
        images=known.images,
    )


def key_variables(vendor: str) -> tuple[str, ...]:
    """The environment variables that a vendor's key may come from, the usual one first; () for one that wants none."""
    known = _HOSTED.get(vendor)
    names = (known.key_env, known.key_alias) if known else ()
    return tuple(each for name in names if name for each in (name, f"{name}{_FILE}"))


def _key_of(given: Mapping[str, str], vendor: _Vendor) -> SecretStr | None:
    key = _key(given, vendor.key_env)
    return _key(given, vendor.key_alias) if key is None and vendor.key_alias else key


def _key(given: Mapping[str, str], name: str) -> SecretStr | None:
    """A key from the variable `name`, or from the file that `name`_FILE names, as secrets of containers are mounted."""
    direct, path = given.get(name, "").strip(), given.get(f"{name}{_FILE}", "")
    if direct and path:
        raise ConfigError(f"both {name} and {name}_FILE are set; unset one of them")
    source = f"{name}{_FILE}" if path else name
    key = _read(source, path) if path else direct
    # An HTTP library that refuses a key shows it.
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"what {source} gives is no key: it has spaces, line breaks or letters beyond ASCII")
    return SecretStr(key) if key else None


def _read(source: str, path: str) -> str:
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_KEY_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{source} names {path}, which cannot be read: {why}") from None
    if len(text) > MAX_KEY_BYTES or not text.strip():
        raise ConfigError(f"{source} names {path}, which holds no key")
    return text.strip()


def _limits(given: Mapping[str, str], prefix: str) -> VendorLimits:
    tries = _count(given, f"{prefix}_MAX_TRIES")
    return VendorLimits(
        _count(given, f"{prefix}_MAX_CONCURRENCY"),
        _count(given, f"{prefix}_REQUESTS_PER_MINUTE"),
        VendorLimits().max_tries if tries is None else tries,
    )


def _count(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= 1_000_000):
        raise ConfigError(f"{name} is {text[:20]!r}; it is a whole number from 1 to 1000000")
    return int(text)


def _address(url: str, path: str) -> str:
    """A base URL; OLLAMA_HOST is often just host:port."""
    url = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
    return url if url.count("/") > 2 else f"{url}{path}"
