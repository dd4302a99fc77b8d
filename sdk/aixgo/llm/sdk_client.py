"""What the clients over vendors' SDKs share: opening, deadlines, errors, and parameters that a model may not take.

Owns Endpoint, and SdkClient, of which a vendor's file makes a Client by mapping requests, answers and exceptions. An
SDK takes seconds to import, so it is loaded in a thread when the first request is made. SDKs never try again: that is
`retrying.py`. Above: the vendors' files.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Literal, Protocol, cast
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
from aixgo.llm.contract import ELSEWHERE, Chunk, Completion, CompletionRequest
from aixgo.telemetry.secrets import scrub
from aixgo.usage import NO_USAGE, Usage

log = logging.getLogger(__name__)

_CUT = 500
_BY_STATUS: Mapping[int, type[ProviderError]] = {
    401: ProviderDenied,
    402: ProviderDenied,
    403: ProviderDenied,
    408: ProviderTimeout,
    429: RateLimited,
}
_SPENT = "insufficient_quota"
"""OpenAI's code for an account without credit: a 429 that no waiting helps."""

Feature = Literal["schema", "logprobs", "temperature"]
_SAID_OF: Mapping[Feature, tuple[str, ...]] = {
    "schema": ("response_format", "output_config", "output_format", "output format", "schema", "mime type"),
    "logprobs": ("logprobs",),
    "temperature": ("temperature",),
}
"""Words by which a refusal names a parameter that can be done without."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server of a vendor's format.

    `key_env` names the setting that a missing key is to be put into; empty: the server wants none. `native_schema`
    says whether it can be held to a JSON schema; `limit_name` is the OpenAI format's parameter for the completion's
    bound; `images` says whether there are models that see.
    """

    vendor: str
    base_url: str = field(repr=False)  # it may hold a password
    key: SecretStr | None = field(default=None, repr=False)
    key_env: str = ""
    native_schema: bool = True
    limit_name: str = "max_tokens"
    images: bool = True

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, for which a proxy from the environment is never meant."""
        return urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A vendor's answer that is an error: its HTTP status, its own words and code, and the response's headers."""

    status: int
    words: str
    headers: Mapping[str, str]
    code: str = ""
    retry_after: float | None = None
    """Seconds, where the body says so; else the headers are read."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An SDK's client, and the exceptions of the SDK and of the HTTP library under it, by what they mean."""

    client: Any
    timeouts: tuple[type[Exception], ...]
    failures: tuple[type[Exception], ...]


class Gathering(Protocol):
    """Puts the pieces of a stream together. `finished` says that the vendor ended it, rather than the connection."""

    texts: list[str]
    usage: Usage
    finished: bool

    def add(self, piece: Any, /) -> str:
        """Take one piece in; the text that is new."""
        ...

    def completion(self) -> Completion:
        """The whole; raises InvalidCompletion when a use of a tool is broken."""
        ...


class SdkClient(ABC):
    """A Client over a vendor's SDK. `now` is the wall clock in seconds since the epoch, to read dates in headers by.

    A parameter that a model refuses, and that can be done without, is left out from then on: schemas are asked for in
    words, log probabilities and the temperature are dropped.
    """

    package: ClassVar[str]
    """What is imported."""
    extra: ClassVar[str]
    """The extra of aixgo that installs it."""

    def __init__(self, endpoint: Endpoint, *, now: Callable[[], float] = time.time) -> None:
        self.vendor = endpoint.vendor
        self.endpoint = endpoint
        self._now = now
        self._opened: Opened | None = None
        self._opening = asyncio.Lock()
        self._refused: set[tuple[str, Feature]] = set()

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion. Raises ProviderError and its subclasses, ConfigError without the SDK's package."""
        opened = await self._open()
        self._check(request)
        blamed: set[Feature] = set()
        while True:
            wanted, native = self._known(request)
            try:
                with self._errors(opened, request.model):
                    return await self._ask(opened.client, wanted, native=native)
            except ProviderRejected as error:
                if not self._give_up(wanted, error, blamed, native=native):
                    raise

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces. Ending the iteration early closes the HTTP request."""
        opened = await self._open()
        self._check(request)
        begun = done = False
        blamed: set[Feature] = set()
        while not done:
            wanted, native = self._known(request)
            try:
                async with aclosing(self._chunks(opened, wanted, native=native)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                done = True
            except ProviderRejected as error:
                if begun or not self._give_up(wanted, error, blamed, native=native):
                    raise

    async def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await self._close(opened.client)

    @abstractmethod
    def _connect(self, sdk: Any, key: str) -> Opened:
        """Make the SDK's client; in a thread. `sdk` is the imported package."""

    @abstractmethod
    async def _ask(self, client: Any, request: CompletionRequest, *, native: bool) -> Completion:
        """One request, mapped; `native` says whether to hand over its schema, or else to ask for it in words."""

    @abstractmethod
    def _pieces(self, client: Any, request: CompletionRequest, *, native: bool) -> AsyncGenerator[Any]:
        """The vendor's pieces of a streamed request. Closing it closes the HTTP request."""

    @abstractmethod
    def _gathering(self, request: CompletionRequest) -> Gathering:
        """What puts those pieces together."""

    @abstractmethod
    def _refusal(self, error: Exception) -> Refusal | None:
        """The vendor's answer in an exception of the SDK; None when there was none."""

    async def _close(self, client: Any) -> None:
        await client.close()

    async def _chunks(self, opened: Opened, request: CompletionRequest, *, native: bool) -> AsyncGenerator[Chunk]:
        answer = self._gathering(request)
        try:
            with self._errors(opened, request.model):
                async with aclosing(self._pieces(opened.client, request, native=native)) as pieces:
                    async for piece in pieces:
                        text = answer.add(piece)
                        if text:
                            yield Chunk(text)
            if not answer.finished:
                raise self._cut_short(request.model)
        except ProviderError as error:
            # What the vendor reported before it broke off is known better than any estimate.
            if not answer.texts and not error.usage.total_tokens and answer.usage != NO_USAGE:
                error.usage = replace(answer.usage, incomplete=True)
            raise
        yield Chunk(completion=answer.completion())

    def _cut_short(self, model: str) -> ProviderUnavailable:
        error = ProviderUnavailable(f"{self._where(model)} ended its stream before the answer was complete")
        error.usage = Usage(incomplete=True)  # the vendor was at work, and may charge for what has not come
        return error

    async def _open(self) -> Opened:
        async with self._opening:
            if self._opened is None:
                self._opened = await asyncio.to_thread(self._load)
        return self._opened

    def _load(self) -> Opened:
        sdk = self._import()
        key = self.endpoint.key.get_secret_value() if self.endpoint.key else ""
        if self.endpoint.key_env and not key:
            env = self.endpoint.key_env
            raise ProviderDenied(f"{self.vendor}/ models need a key; set {env}, or {env}_FILE to a file that has it")
        return self._connect(sdk, key or "none")

    def _import(self) -> Any:
        try:
            return importlib.import_module(self.package)
        except ImportError as error:
            raise ConfigError(
                f"{self.vendor}/ models need the {self.package} package; install it with:"
                f" pip install 'aixgo[{self.extra}]'"
            ) from error

    def _check(self, request: CompletionRequest) -> None:
        if not self.endpoint.images and any(turn.images for turn in request.messages):
            raise ProviderRejected(
                f"{self.vendor}/{request.model} sees no images; use a model that does", fields={ELSEWHERE: True}
            )

    def _known(self, request: CompletionRequest) -> tuple[CompletionRequest, bool]:
        """The request without what its model refused before, and whether it takes a schema."""
        model = request.model
        if (model, "logprobs") in self._refused:
            request = replace(request, top_logprobs=0)
        if (model, "temperature") in self._refused:
            request = replace(request, temperature=None)
        return request, self.endpoint.native_schema and (model, "schema") not in self._refused

    def _give_up(
        self, request: CompletionRequest, error: ProviderRejected, blamed: set[Feature], *, native: bool
    ) -> bool:
        """Leave out a parameter that the model refuses; False when none was sent that the refusal may be about.

        `blamed` are those left out for this request before, which turn out not to have been the fault then.
        """
        model, said = request.model, error.message.lower()
        sent: dict[Feature, bool] = {
            "schema": native and request.schema is not None,
            "logprobs": request.top_logprobs > 0,
            "temperature": request.temperature is not None,
        }
        for feature, was_sent in sent.items():
            if was_sent and any(words in said for words in _SAID_OF[feature]):
                blamed.add(feature)
                self._refused.add((model, feature))
                log.info("%s/%s is asked without its %s from now on: %s", self.vendor, model, feature, error)
                return True
        self._refused -= {(model, feature) for feature in blamed}
        return False

    @contextmanager
    def _errors(self, opened: Opened, model: str) -> Generator[None]:
        try:
            yield
        except opened.failures as error:
            refusal = self._refusal(error)
            if refusal is not None:
                # Its text quotes the vendor's whole answer, in which a key may stand.
                raise self._by_status(refusal, model) from None
            if isinstance(error, opened.timeouts):
                raise ProviderTimeout(f"{self._where(model)} did not answer in time") from error
            told = self._masked(str(error.__cause__ or error) or type(error).__name__)
            raise ProviderUnavailable(f"{self._where(model)} cannot be reached, or broke off: {told}") from error

    def _by_status(self, refusal: Refusal, model: str) -> ProviderError:
        status = refusal.status
        made = _BY_STATUS.get(status, ProviderUnavailable if status >= 500 else ProviderRejected)
        if refusal.code == _SPENT:
            made = ProviderDenied
        error = made(f"{self._where(model)} answers {status}: {self._masked(refusal.words)}", fields={"status": status})
        error.retry_after = refusal.retry_after
        if error.retry_after is None:
            error.retry_after = retry_after(refusal.headers, self._now())
        if refusal.headers.get("x-should-retry") == "false":
            error.fields["final"] = True
        return error

    def _masked(self, words: str) -> str:
        """Words from outside: without what is secret, which may be quoted in them, and cut."""
        key = self.endpoint.key
        if key is not None and key.get_secret_value():
            words = words.replace(key.get_secret_value(), "***")
        return scrub(words)[:_CUT]

    def _where(self, model: str) -> str:
        return f"{self.vendor}/{model} at {scrub(self.endpoint.base_url)}"


def time_left() -> float:
    """Seconds that a request may take: until the deadline of the call, or the default outside of any."""
    left = remaining()
    return DEFAULT_TIMEOUT if left is None else max(left, 0.001)


def words_of(error: Exception, *path: str) -> str:
    """The vendor's own words in the `body` of an SDK's exception, without the rest of the body."""
    body: Any = getattr(error, "body", None)
    words: Any = body
    for key in path:
        words = cast("Mapping[str, Any]", words).get(key) if isinstance(words, Mapping) else None
    return str(words) if words else type(error).__name__ if body else str(error)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by `retry-after-ms`, or by `retry-after` (RFC 9110, 10.2.3) in seconds or as a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - now)
    except (KeyError, ValueError):
        return None
