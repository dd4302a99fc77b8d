"""One connection to NATS, and questions to JetStream that are asked again until they are answered.

Owns connecting, reconnecting, time limits, and how the library's failures become typed errors. What is asked is said by
`nats_ledger.py`, `nats_receiver.py` and `nats.py` (above). The library is loaded when it is first needed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, cast

from pydantic import SecretStr

from aixgo.errors import ConfigError
from aixgo.mailboxes.contract import MailboxUnavailable

log = logging.getLogger(__name__)

TRY = 2.0
"""Seconds after which a question is asked again; what a server that was killed was asked is never answered."""
AGAIN = 0.1
"""Seconds between two questions to a server that is not ready."""
PING = 5
"""Seconds between two pings; a server that leaves two unanswered counts as gone."""
UNKNOWN_STREAM, UNKNOWN_CONSUMER, UNKNOWN_MESSAGE = 10059, 10014, 10037
WRONG_LAST_SEQUENCE, NO_ROOM = 10071, 10077
"""Error codes of JetStream (nats-server, server/errors.json)."""
NOT_THERE = (UNKNOWN_STREAM, UNKNOWN_MESSAGE, 10043, 10057)
"""What the deletion of a message that is deleted already is answered with."""


class NoStream(MailboxUnavailable):
    """Nobody takes what was published: there is no such stream, or JetStream is not up."""


class Refused(MailboxUnavailable):
    """JetStream says no, with one of its error codes: `number`."""

    def __init__(self, number: int, description: str) -> None:
        super().__init__(f"NATS refuses: {description} ({number})")
        self.number = number


class NatsLink:
    """The connection to the servers of `url` (several by commas), made when it is first used and kept up since.

    `sleep` paces attempts.
    """

    def __init__(self, url: SecretStr, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._url = url
        self._sleep = sleep
        self._client: Any = None
        self._lock = asyncio.Lock()
        self._last_error = ""
        self._wakers: set[Callable[[], None]] = set()

    async def client(self) -> Any:
        """The client, connected at least once; waits for as long as that takes. Raises ConfigError without nats-py."""
        async with self._lock:
            if self._client is None or self._client.is_closed:
                self._client = await self._connect()
            return self._client

    async def close(self) -> None:
        """Close the connection; what was sent until then gets there, if anybody is there."""
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            await client.close()

    def on_reconnect(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` after each reconnection, until what is returned is called."""
        self._wakers.add(wake)
        return lambda: self._wakers.discard(wake)

    async def send(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send without an answer; what cannot be sent now is not sent at all."""
        if self._client is not None and self._client.is_connected:
            await self._client.publish(subject, data, reply=reply)

    async def ask(self, subject: str, data: bytes, timeout: float, headers: Mapping[str, str] | None = None) -> Any:
        """The answer to a request, which is sent again until it comes.

        `timeout` is in seconds. Raises NoStream when nobody listens there, MailboxUnavailable when none came in time.
        """
        from nats import errors  # with `client`

        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    client = await self.connected()
                    try:
                        return await client.request(subject, data, timeout=TRY, headers=dict(headers or {}) or None)
                    except errors.NoRespondersError as error:
                        raise NoStream(f"nobody listens on {subject}") from error
                    except (errors.TimeoutError, errors.ConnectionClosedError, errors.OutboundBufferLimitError):
                        await self._sleep(AGAIN)
        except TimeoutError as error:
            raise self.silent(timeout) from error

    async def question(self, subject: str, content: Mapping[str, Any] | None, timeout: float) -> dict[str, Any]:
        """A question to JetStream's API and its answer. Raises Refused, MailboxUnavailable."""
        data = b"" if content is None else json.dumps(content).encode()
        return await self._answered(f"$JS.API.{subject}", data, timeout, None, patient=True)

    async def store(self, subject: str, data: bytes, timeout: float, headers: Mapping[str, str]) -> dict[str, Any]:
        """Put a message into the stream of `subject`. Raises NoStream, Refused, MailboxUnavailable."""
        return await self._answered(subject, data, timeout, headers, patient=False)

    async def max_payload(self, timeout: float) -> int:
        """The largest message that the server takes, in bytes. Raises MailboxUnavailable."""
        try:
            async with asyncio.timeout(timeout):
                return int((await self.client()).max_payload)
        except TimeoutError as error:
            raise self.silent(timeout) from error

    async def server(self) -> str:
        """An id that is new whenever the server has started. A cluster keeps its state, and has one for good."""
        info = (await self.connected())._server_info  # noqa: SLF001  # nats-py shows it nowhere else
        return f"cluster {info['cluster']}" if info.get("cluster") else str(info["server_id"])

    async def _answered(
        self, subject: str, data: bytes, timeout: float, headers: Mapping[str, str] | None, *, patient: bool
    ) -> dict[str, Any]:
        """An answer of JetStream. While it is not up it is asked again; `patient`: also while nobody listens."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise self.silent(timeout)
            try:
                answer = cast("dict[str, Any]", json.loads((await self.ask(subject, data, left, headers)).data))
            except NoStream:
                self._last_error = "JetStream is not up, or not enabled"
                if not patient:
                    raise
            else:
                error = answer.get("error")
                if error is None:
                    return answer
                if error.get("code") != 503 or error.get("err_code") == NO_ROOM:
                    raise Refused(int(error.get("err_code", 0)), str(error.get("description", "")))
                self._last_error = str(error.get("description", ""))
            await self._sleep(AGAIN)

    async def connected(self) -> Any:
        """The client, once it is connected now; waits for as long as that takes. Raises ConfigError without nats-py."""
        client = await self.client()
        while not client.is_connected:
            await self._sleep(AGAIN)
            client = await self.client()
        return client

    async def _connect(self) -> Any:
        try:
            from nats.aio.client import Client
        except ImportError as error:
            raise ConfigError("mailboxes in NATS need nats-py; install it with: pip install 'aixgo[nats]'") from error
        client: Any = Client()
        try:
            await client.connect(
                [each.strip() for each in self._url.get_secret_value().split(",")],
                name="aixgo",
                connect_timeout=2,
                reconnect_time_wait=0.2,
                max_reconnect_attempts=-1,
                ping_interval=PING,
                error_cb=partial(self._failed, client),
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
            )
        except BaseException:  # also a cancellation: a half-open connection is not left behind
            await client.close()
            raise
        return client

    async def _failed(self, client: Any, error: Exception) -> None:
        self._last_error = f"{type(error).__name__}: {error}"
        if client.is_connecting and _hung_up(error) and client._server_info.get("auth_required"):  # noqa: SLF001  # see `server`
            self._last_error += "; the server asks for authorization, and may have refused that of mailbox.url"
        log.debug("NATS: %s", self._last_error)

    async def _disconnected(self) -> None:
        if self._client is not None:
            log.warning("NATS is away; messages wait until it is back")

    async def _reconnected(self) -> None:
        log.info("NATS answers again")
        for wake in list(self._wakers):
            wake()

    def silent(self, timeout: float) -> MailboxUnavailable:
        """The error that says that nothing came in so many seconds, and what was last heard of the reason."""
        why = f" ({self._last_error})" if self._last_error else ""
        return MailboxUnavailable(
            f"NATS did not answer within {timeout:.3g} s{why}; check mailbox.url, and that nats-server runs with"
            " JetStream",
            retry_after=1.0,
        )


def _hung_up(error: Exception) -> bool:
    """Whether a server has closed the connection. The reason that it gave first is lost when that overtakes it."""
    from nats import errors  # with `client`

    return isinstance(error, ConnectionResetError | BrokenPipeError | errors.UnexpectedEOF)
