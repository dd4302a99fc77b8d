"""Making the streams of mailboxes in NATS: once, with the limits that are wanted, and never into a deletion that runs.

A server takes the name of a stream or consumer away before it removes its files: consumers are told and questions are
answered with "not found" while the files still go, and those of a new stream of that name go with them. It then takes
letters that it never delivers, or refuses all (seen with 2.9.10; the order is that of `stream.stop` in its source, up
to 2.14). Nothing says when a deletion is through, so what is known to have been there is made again after DELETION.
Below: `nats_link.py`. Above: `nats.py` and `nats_ledger.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aixgo.mailboxes.nats_link import UNKNOWN_STREAM, NatsLink, Refused

DELETION = 2.0
"""Seconds that a server is given to remove the files of what was deleted. It takes milliseconds on an idle machine."""


class Streams:
    """Makes streams, and remembers which were there. `sleep` paces what is made again."""

    def __init__(self, link: NatsLink, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._link, self._sleep = link, sleep
        self._seen: set[str] = set()

    async def make(self, wanted: Mapping[str, Any], timeout: float) -> None:
        """Make a stream, or give the one that there is the limits that are wanted.

        `timeout` is in seconds, for each question. Raises MailboxUnavailable, Refused.
        """
        name = wanted["name"]
        there = await self._config(name, timeout)
        if there is None and name in self._seen:
            await self._sleep(DELETION)
            there = await self._config(name, timeout)
        if there is None:
            await self._link.question(f"STREAM.CREATE.{name}", wanted, timeout)
        elif any(there.get(key, value) != value for key, value in wanted.items()):
            await self._link.question(f"STREAM.UPDATE.{name}", {**there, **wanted}, timeout)
        self._seen.add(name)

    async def _config(self, name: str, timeout: float) -> dict[str, Any] | None:
        try:
            return (await self._link.question(f"STREAM.INFO.{name}", None, timeout))["config"]
        except Refused as error:
            if error.number != UNKNOWN_STREAM:
                raise
            return None
