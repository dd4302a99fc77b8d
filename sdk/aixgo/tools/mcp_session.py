"""One session with an MCP server, in a task of its own, through the official SDK (extra `mcp`).

Owns how a session is opened, that its end is noticed, and that it is closed by the task that opened it: the SDK's
cancel scopes (anyio) must be left where they were entered, while the agents that share a session come and go. The SDK
is imported when the first session is opened. Above: `mcp.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from aixgo.errors import ConfigError, WrongState
from aixgo.telemetry.outside import trace_headers
from aixgo.telemetry.secrets import HIDDEN, scrub

if TYPE_CHECKING:
    from types import TracebackType

    from mcp import Client

log = logging.getLogger(__name__)

CLOSE_TIMEOUT = 8.0
"""Seconds that a session gets to close: the SDK gives a server 2 s to end by itself, 2 s after SIGTERM, 2 s after
SIGKILL."""
_LONGEST_LINE, _LAST_WORDS = 64 * 1024, 0.5
"""Bytes of a line of a server's standard error, and seconds that are waited for what it wrote last: processes that it
left behind may keep the pipe open."""
_NOT_FOUND, _SESSION_HEADER = 404, "mcp-session-id"
_HTTP_TIMEOUT, _HTTP_READ_TIMEOUT = 30.0, 300.0
"""Seconds for connecting and writing, and for a server that holds its answer open (the SDK's own defaults)."""


@dataclass(frozen=True, slots=True)
class McpEndpoint:
    """Where an MCP server is: a `command` to start, which then speaks over stdin and stdout, or the `url` of one that
    speaks streamable HTTP.

    A started server gets the variables of `env`, and of this process's own only what the SDK passes on (HOME, LOGNAME,
    PATH, SHELL, TERM, USER). `headers` go with each HTTP request. Raises ConfigError unless exactly one is given.
    """

    command: Sequence[str] = ()
    url: str = field(default="", repr=False)  # it may hold a key
    env: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr], repr=False)
    headers: Mapping[str, SecretStr] = field(default_factory=dict[str, SecretStr], repr=False)

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.url):
            raise ConfigError("an MCP server needs either `command` (a list of words to start it) or `url`; give one")
        if self.url and urlsplit(self.url).scheme not in ("http", "https"):
            raise ConfigError("the url of an MCP server begins with http:// or https://")
        if (self.url and self.env) or (self.command and self.headers):
            raise ConfigError("an MCP server has `env` with a `command`, and `headers` with a `url`")

    @property
    def secrets(self) -> Sequence[str]:
        """The texts that must not be shown."""
        given = (*self.env.values(), *self.headers.values())
        return tuple(secret.get_secret_value() for secret in given if secret.get_secret_value())


class Session:
    """One session, opened at once in a task of its own. `client` waits for it; `close` ends it."""

    def __init__(self, endpoint: McpEndpoint, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        self._client: asyncio.Future[Client] = loop.create_future()
        # Whoever waited may be gone; asyncio is not to complain that nobody has seen the error.
        self._client.add_done_callback(lambda made: made.exception())
        self._stopping = asyncio.Event()
        self._lost = False
        self.forgotten = False
        """Whether the server said that it does not know the session any more, and so did nothing."""
        # In an empty context: the session outlives the call, with its deadline and trace, that happened to need it.
        self._task = loop.create_task(self._run(endpoint, timeout), name="mcp session", context=Context())

    @property
    def alive(self) -> bool:
        """False once the server has gone, or `lose` or `close` was called."""
        return not (self._lost or self._stopping.is_set() or self._task.done())

    def lose(self) -> None:
        """Use it no more: the other side is gone, or does not answer."""
        self._lost = True

    def forget(self) -> None:
        """Use it no more: the server has forgotten it."""
        self._lost = self.forgotten = True

    async def client(self) -> Client:
        """The SDK's client, once the session stands. Raises what opening it raised."""
        return await asyncio.shield(self._client)

    async def close(self) -> None:
        """End the session, and the server when it was started for it. Calls that are still out fail."""
        self._stopping.set()
        if not self._client.done():
            self._task.cancel()
        _, pending = await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT)
        if pending:
            log.warning("a session with an MCP server does not end")

    async def _run(self, endpoint: McpEndpoint, timeout: float) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(timeout):
                    client = await stack.enter_async_context(_connected(endpoint, self))
                self._client.set_result(client)
                await self._stopping.wait()
        except Exception as error:  # noqa: BLE001  # whatever the SDK and its transports raise; the waiter gets it
            if self._client.done():
                log.info("a session with an MCP server broke off: %s", type(error).__name__)
            else:
                self._client.set_exception(error)
        finally:
            if not self._client.done():
                self._client.set_exception(WrongState("the session was closed while it was being opened"))


@asynccontextmanager
async def _connected(endpoint: McpEndpoint, session: Session) -> AsyncGenerator[Client]:
    sdk = await asyncio.to_thread(_import_sdk)
    async with AsyncExitStack() as stack:
        if endpoint.command:
            transport = _over_stdio(endpoint, await stack.enter_async_context(_errors_of(endpoint)))
        else:
            transport = await _over_http(endpoint, session.forget, stack)
        yield await stack.enter_async_context(sdk.Client(_watched(transport, session.lose)))


@asynccontextmanager
async def _watched(
    transport: AbstractAsyncContextManager[Any], lost: Callable[[], None]
) -> AsyncGenerator[tuple[Any, Any]]:
    async with transport as (read, write):
        yield _Watched(read, lost), write


def _over_stdio(endpoint: McpEndpoint, errors: IO[str]) -> AbstractAsyncContextManager[Any]:
    stdio = importlib.import_module("mcp.client.stdio")
    command, *words = endpoint.command
    env = {name: secret.get_secret_value() for name, secret in endpoint.env.items()}
    server = stdio.StdioServerParameters(command=command, args=words, env=env)
    return stdio.stdio_client(server, errlog=errors)


@asynccontextmanager
async def _errors_of(endpoint: McpEndpoint) -> AsyncGenerator[IO[str]]:
    """A file for the standard error of a server, which goes on to ours without what is secret."""
    reading, writing = os.pipe()
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb", buffering=0)
    )
    passing = asyncio.create_task(_pass_on(reader, endpoint.secrets))
    try:
        with os.fdopen(writing, "w") as errors:
            yield errors
        await asyncio.wait({passing}, timeout=_LAST_WORDS)
    finally:
        passing.cancel()
        pipe.close()


async def _pass_on(reader: asyncio.StreamReader, secrets: Sequence[str]) -> None:
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than the limit; the reader has dropped it
            continue
        if not line:
            return
        text = line.decode(errors="replace")
        for secret in secrets:
            text = text.replace(secret, HIDDEN)
        print(scrub(text), end="", file=sys.__stderr__, flush=True)


async def _over_http(
    endpoint: McpEndpoint, forgotten: Callable[[], None], stack: AsyncExitStack
) -> AbstractAsyncContextManager[Any]:
    async def look(response: Any) -> None:
        # 404 to a request with a session means that a new one is to be begun (MCP 2025-11-25, Session Management).
        if response.status_code == _NOT_FOUND and _SESSION_HEADER in response.request.headers:
            forgotten()

    async def trace(request: Any) -> None:
        # The SDK tells the server in `_meta` of the message (MCP SEP-414); proxies on the way read headers only. It
        # sends a message in the context of the call that the message is from.
        for name, text in trace_headers().items():
            request.headers.setdefault(name, text)

    http, streamable = importlib.import_module("httpx2"), importlib.import_module("mcp.client.streamable_http")
    # A proxy from the environment is never meant for a server on this machine.
    local = urlsplit(endpoint.url).hostname in ("localhost", "127.0.0.1", "::1")
    client = http.AsyncClient(
        headers={name: secret.get_secret_value() for name, secret in endpoint.headers.items()},
        timeout=http.Timeout(_HTTP_TIMEOUT, read=_HTTP_READ_TIMEOUT),
        trust_env=not local,
        event_hooks={"request": [trace], "response": [look]},
    )
    return streamable.streamable_http_client(endpoint.url, http_client=await stack.enter_async_context(client))


class _Watched:
    """The read end of a transport, which says when the other side has gone: the SDK keeps that to itself."""

    def __init__(self, stream: Any, lost: Callable[[], None]) -> None:
        self._stream = stream
        self._lost = lost

    @property
    def last_context(self) -> Any:
        """The context in which the last message was sent, where the transport knows it; the SDK looks for it."""
        return getattr(self._stream, "last_context", None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._lost()
            raise

    async def receive(self) -> Any:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(kind, error, trace)


def _import_sdk() -> Any:
    try:
        return importlib.import_module("mcp")
    except ImportError as error:
        raise ConfigError("MCP servers need the mcp package; install it with: pip install 'aixgo[mcp]'") from error
