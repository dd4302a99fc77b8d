"""Langfuse: the spans that there are anyway, sent to it as the observations that it knows, and scores.

Owns what LANGFUSE_* mean and the life of Langfuse's client, which shares the process's one tracer provider. The SDK is
imported only here and in `observations.py` (below, what a span becomes), in two seconds, before a process serves.
Above: `setup.py`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aixgo.errors import ConfigError
from aixgo.telemetry.secrets import scrub

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from pydantic import SecretStr

    from aixgo.telemetry.setup import Telemetry

_log = logging.getLogger(__name__)

DEFAULT_HOST = "https://cloud.langfuse.com"
REQUEST_TIMEOUT = 5
"""Seconds of one request to Langfuse, which are made beside the calls."""
MAX_TAGS, MAX_TAG = 20, 200
"""Tags of a trace, and characters of one (Langfuse's limit)."""
_KEYS = ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")


@dataclass(frozen=True, slots=True)
class LangfuseSettings:
    """Where Langfuse is and who asks. `environment`, `release` and `tags` are those of all traces of the process."""

    public_key: str
    secret_key: SecretStr
    host: str = DEFAULT_HOST
    environment: str = ""
    release: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        parts = urlsplit(self.host)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = self.host.rpartition("@")[2]  # what stands before it may be a password
            raise ConfigError(f"LANGFUSE_HOST is {shown!r}, which is no URL; write {DEFAULT_HOST}, or your own")
        if len(self.tags) > MAX_TAGS or any(len(tag) > MAX_TAG for tag in self.tags):
            raise ConfigError(f"LANGFUSE_TAGS has at most {MAX_TAGS} tags of at most {MAX_TAG} characters")

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> LangfuseSettings | None:
        """The settings that LANGFUSE_* give; None, with a warning, without both keys. Raises ConfigError.

        LANGFUSE_HOST (or LANGFUSE_BASE_URL), LANGFUSE_TRACING_ENVIRONMENT and LANGFUSE_RELEASE are Langfuse's own;
        LANGFUSE_TAGS, by commas, is ours.
        """
        from pydantic import SecretStr  # 0.1 s that a process without Langfuse does not wait for

        given = {name: value.strip() for name, value in variables.items() if name.startswith("LANGFUSE_")}
        missing = [name for name in _KEYS if not given.get(name)]
        if missing:
            _log.warning("Langfuse is asked for and off: set %s", " and ".join(missing))
            return None
        return cls(
            public_key=given[_KEYS[0]],
            secret_key=SecretStr(given[_KEYS[1]]),
            host=(given.get("LANGFUSE_BASE_URL") or given.get("LANGFUSE_HOST") or DEFAULT_HOST).rstrip("/"),
            environment=given.get("LANGFUSE_TRACING_ENVIRONMENT", ""),
            release=given.get("LANGFUSE_RELEASE", ""),
            tags=tuple(tag.strip() for tag in given.get("LANGFUSE_TAGS", "").split(",") if tag.strip()),
        )


def begin_langfuse(telemetry: Telemetry, settings: LangfuseSettings) -> None:
    """Send the spans of `telemetry`'s tracer provider to Langfuse too, until it is closed.

    An unreachable host costs one warning. Raises ConfigError without the extra, or without a provider that can have
    another reader.
    """
    provider = telemetry.tracer_provider
    if not hasattr(provider, "add_span_processor") or provider is None:
        raise ConfigError("the tracer provider of this process takes no further exporter; Langfuse needs a real one")
    _check_installed()
    if _clients().get(settings.public_key) is not None:
        _log.warning(
            "a Langfuse client with this public key was made before; spans go where it sends them. Make yours with"
            " langfuse.get_client() after aixgo has started, or leave out `langfuse: true`"
        )
        return
    quiet = _one_warning()
    quiet.__enter__()
    telemetry.on_close(lambda: quiet.__exit__(None, None, None))
    gate = _Gate()
    end = _connect(provider, settings, gate)
    telemetry.on_close(lambda: _clients().pop(settings.public_key, None))
    telemetry.on_close(gate.close)
    telemetry.on_flush(end)


class _Gate:
    """Lets spans through until it is closed: a processor cannot be taken from a provider that is not ours."""

    def __init__(self) -> None:
        self.open = True

    def close(self) -> None:
        self.open = False

    def lets_through(self, span: ReadableSpan) -> bool:
        """Ours, and what Langfuse takes by itself: spans of known LLM libraries and of its own SDK."""
        from langfuse import is_default_export_span

        scope = span.instrumentation_scope
        return self.open and ((scope is not None and scope.name == "aixgo") or is_default_export_span(span))


def _connect(provider: TracerProvider, settings: LangfuseSettings, gate: _Gate) -> Callable[[], None]:
    """Make the client. What is returned delivers what it still has and ends it; it may block."""
    import httpx  # comes with langfuse
    from langfuse import Langfuse  # 2 s

    from aixgo.telemetry.observations import ContextOfCalls, langfuse_exporter  # see above

    http = httpx.Client(timeout=REQUEST_TIMEOUT)
    client = Langfuse(
        public_key=settings.public_key,
        secret_key=settings.secret_key.get_secret_value(),
        base_url=settings.host,
        timeout=REQUEST_TIMEOUT,
        httpx_client=http,
        environment=settings.environment or None,
        release=settings.release or None,
        tracer_provider=provider,
        span_exporter=langfuse_exporter(settings, REQUEST_TIMEOUT),
        should_export_span=gate.lets_through,
    )
    provider.add_span_processor(ContextOfCalls(client, lambda: gate.open))

    def end() -> None:
        client.shutdown()
        http.close()  # which the client leaves open

    return end


def _check_installed() -> None:
    try:
        import langfuse  # noqa: F401  # pyright: ignore[reportUnusedImport]  # whether it can be
    except ImportError as error:
        raise ConfigError(
            f"observability.langfuse needs a package that is not installed ({error});"
            " install it with: pip install 'aixgo[langfuse]'"
        ) from error


def _clients() -> dict[str, Any]:
    """Langfuse's clients by public key. It keeps also those that were shut down, which take nothing more."""
    manager: Any = importlib.import_module("langfuse._client.resource_manager")  # there is no public way
    return manager.LangfuseResourceManager._instances  # noqa: SLF001  # see above


@contextmanager
def _one_warning() -> Generator[None]:
    """Inside the block the first complaint of Langfuse's SDK is a warning of ours, and the others are not said."""
    logger = logging.getLogger("langfuse")
    once = _Once()
    logger.addFilter(once)
    try:
        yield
    finally:
        logger.removeFilter(once)


class _Once(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and not self._said:
            self._said = True
            _log.warning("Langfuse: %s; calls go on without it", scrub(record.getMessage())[:500])
        return False
