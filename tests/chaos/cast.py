"""The agents that are called while things break: idempotent and not, in one piece and streamed, and one that is stuck.

Each takes a moment, so that faults find calls under way. Above: `mesh.py`, which runs processes of them, and `load.py`,
which calls them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any, cast

from aixgo import Agent, Delta, Event, Message, Result

WORDS = tuple(f"word-{number}" for number in range(10))
"""What a stream says, word by word."""
TAKES = 0.3
"""Seconds that a call takes."""
WORK, ONCE, TELL, TELL_ONCE, STUCK = NAMES = ("work", "once", "tell", "tell-once", "stuck")


class Working(Agent):
    """Writes the number of the call into the file that the message names, takes a moment, and says where it ran."""

    def __init__(self, name: str, *, idempotent: bool) -> None:
        self.name, self.idempotent = name, idempotent

    async def execute(self, message: Message) -> Message:
        body = cast("dict[str, Any]", message.payload)
        note(body["journal"], self.name, body["number"])
        await asyncio.sleep(TAKES)
        return Message(body["number"], {"pid": os.getpid()})


class Telling(Working):
    """Does the same, and says the WORDS meanwhile."""

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        body = cast("dict[str, Any]", message.payload)
        note(body["journal"], self.name, body["number"])
        for word in WORDS:
            await asyncio.sleep(TAKES / len(WORDS))
            yield Delta(f"{word} ")
        yield Result(Message(body["number"], {"pid": os.getpid()}))


class Stuck(Agent):
    """Never answers: its calls end by their deadlines."""

    name = STUCK
    idempotent = True

    async def execute(self, message: Message) -> Message:
        await asyncio.Event().wait()
        return message


def note(journal: str, *words: object) -> None:
    """Add a line to a file that several processes write, at once, since this one may be about to die."""
    file = os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    try:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(file)


def new_agents() -> list[Agent]:
    """All of them, new."""
    return [
        Working(WORK, idempotent=True),
        Working(ONCE, idempotent=False),
        Telling(TELL, idempotent=True),
        Telling(TELL_ONCE, idempotent=False),
        Stuck(),
    ]
