"""Agents that note what happens to them, so that tests see effects and not only replies.

Owns the journal of a process. The agent `journal` reads it out: it answers when an entry is there, so that no test has
to poll. Above: `agents.py`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, cast

from aixgo import Agent, Delta, Event, Message, Result
from aixgo import call as ambient
from aixgo.errors import InvalidInput


class Journal:
    """What the agents of one process have done, by key, in order."""

    def __init__(self) -> None:
        self._entries: dict[str, list[Any]] = {}
        self._noted = asyncio.Event()

    def note(self, key: str, entry: Any) -> None:
        """Add an entry and wake who waits."""
        self._entries.setdefault(key, []).append(entry)
        self._noted.set()
        self._noted = asyncio.Event()

    def read(self, key: str) -> list[Any]:
        """The entries of a key so far."""
        return self._entries.get(key, [])

    async def wait(self, key: str, count: int) -> list[Any]:
        """The entries of a key, once there are `count`."""
        while len(self.read(key)) < count:
            await self._noted.wait()
        return self.read(key)


class Witness(Agent):
    """An agent that writes into the journal of its process."""

    def __init__(self, journal: Journal, name: str = "") -> None:
        self.name = name or self.name
        self.journal = journal

    async def execute(self, message: Message) -> Message:
        """Not what a reactive witness is for."""
        raise InvalidInput(f"{self.name} answers no calls; send to it")


class JournalReader(Witness):
    """Answers with the entries of `key`, once there are `count`; with `note`, adds one instead."""

    name = "journal"

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        if "note" in body:
            self.journal.note(body["key"], body["note"])
            return Message("noted")
        return Message(list(await self.journal.wait(body["key"], body["count"])))


class Slow(Witness):
    """Works until it is cancelled; notes `started` and `cancelled` under the key in the text."""

    name = "slow"

    async def execute(self, message: Message) -> Message:
        self.journal.note(message.text, "started")
        try:
            await asyncio.Event().wait()
        finally:
            self.journal.note(message.text, "cancelled")
        return message


class Narrow(Witness):
    """Takes one call at a time, and lets one wait; notes its text under the key in it, and goes on when released."""

    name = "narrow"
    max_concurrent_calls = 1
    max_queue = 1

    async def execute(self, message: Message) -> Message:
        key, _, text = message.text.partition(" ")
        self.journal.note(key, text)
        await self.journal.wait(f"release {key}", 1)
        return Message(text)


class Stubborn(Witness):
    """Ignores its first cancellation, and goes on until `release` is noted under its key."""

    name = "stubborn"

    async def execute(self, message: Message) -> Message:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.journal.note(message.text, "ignored")
            await self.journal.wait(f"release {message.text}", 1)
        return message


class Flaky(Witness):
    """Idempotent; notes each execution under the key in the text, and raises."""

    name = "flaky"
    idempotent = True

    async def execute(self, message: Message) -> Message:
        self.journal.note(message.text, "ran")
        raise ConnectionError("a connection of the agent's own broke")


class Crowd(Witness):
    """Notes how many of its calls run at once, and lets them go when `size` of them do."""

    name = "crowd"

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        self.journal.note(body["key"], os.getpid())
        await self.journal.wait(body["key"], body["size"])
        return Message("together")


class Endless(Witness):
    """Streams without end; notes `closed` under the key in the text when it is stopped."""

    name = "endless"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        try:
            for number in range(10**9):
                yield Delta(str(number))
                await asyncio.sleep(0)
        finally:
            self.journal.note(message.text, "closed")


class Torrent(Witness):
    """Streams SIZE events of 1 KiB as fast as it can; notes every hundredth under the key in the text."""

    name = "torrent"
    SIZE = 20_000

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for number in range(self.SIZE):
            if number % 100 == 0:
                self.journal.note(message.text, number)
            yield Delta("x" * 1024)
        yield Result(Message("over"))


class Collector(Witness):
    """Notes each delivery under the message's session. A text `fail N` fails its first N attempts."""

    name = "collector"

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            try:
                async with delivery as message:
                    state = ambient.current()
                    assert state is not None
                    self.journal.note(
                        message.session_id,
                        {
                            "payload": message.payload,
                            "attempt": delivery.attempt,
                            "sender": list(delivery.sender),
                            "depth": state.depth,
                            "path": list(state.path),
                            "remaining": ambient.remaining(),
                            "tokens": None if state.budget is None else state.budget.left()[0],
                        },
                    )
                    if message.text.startswith("fail") and delivery.attempt <= int(message.text.split()[1]):
                        raise ValueError("not yet")
            except ValueError:
                continue


class Crashing(Witness):
    """Its `start` dies of the first attempt of every delivery."""

    name = "crashing"

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            async with delivery as message:
                self.journal.note(message.session_id, delivery.attempt)
                if delivery.attempt == 1:
                    raise ValueError("start dies")


class Waking(Witness):
    """Is ready once `awake` is noted under its name."""

    name = "waking"

    async def execute(self, message: Message) -> Message:
        return message

    def ready(self) -> bool:
        return bool(self.journal.read("waking"))
