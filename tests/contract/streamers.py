"""Agents that stream, well and badly. Above: `agents.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

from aixgo import Agent, Delta, Event, Message, Result

from tests.contract.failures import OutOfStock


class Streaming(Agent):
    """Streams the words of the text, then a Result with all of it."""

    name = "words"

    async def execute(self, message: Message) -> Message:
        return Message(message.text)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for word in message.text.split():
            yield Delta(word)
        yield Result(Message(message.text))


class BreaksOff(Streaming):
    """Streams the words, then raises."""

    name = "breaks-off"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for word in message.text.split():
            yield Delta(word)
        raise OutOfStock("words", 0)


class NoResult(Streaming):
    """Streams the words and no Result."""

    name = "no-result"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        for word in message.text.split():
            yield Delta(word)


class NoEvent(Streaming):
    """Streams what is no Event."""

    name = "no-event"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Delta("first")
        yield cast("Event", "second")


class GoesOn(Streaming):
    """Streams a Result, and does not stop."""

    name = "goes-on"

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        yield Result(Message("first"))
        yield Delta("too late")
        yield Result(Message("second"))
