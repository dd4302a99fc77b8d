"""The bounded queue behind `send` and `recv`: what is taken out is acknowledged, or comes back.

Owns mailboxes in memory and their deliveries. Runtimes hold one mailbox for each agent of their process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType

from aixgo.call import DEFAULT_TIMEOUT, CallState, entered
from aixgo.errors import DeadlineExceeded, MailboxFull
from aixgo.message import Message
from aixgo.telemetry.endings import ending
from aixgo.telemetry.invocations import delivery, spent
from aixgo.usage import Ledger

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""Deliveries of one message before it is given up as a dead letter."""


@dataclass(slots=True)
class Letter:
    """A message in a mailbox: who sent it, in which trace, and how often it was delivered."""

    message: Message
    sender: tuple[str, ...] = ()
    traceparent: str = ""
    attempts: int = 0


class Mailbox:
    """A queue of at most `size` letters, those out for delivery included. One receiver takes each letter."""

    def __init__(self, owner: str, size: int) -> None:
        self.owner = owner
        self._size = size
        self._waiting: deque[Letter] = deque()
        self._out = 0
        self._arrived = asyncio.Event()
        self._closed = False
        self.dead_letters = 0

    def __len__(self) -> int:
        return len(self._waiting) + self._out

    def put(self, letter: Letter) -> None:
        """Add a letter; raises MailboxFull when there is no room."""
        if len(self) >= self._size:
            raise MailboxFull(
                f"the mailbox of {self.owner!r} holds {self._size} messages; send later, or raise mailbox_size",
                retry_after=1.0,
                fields={"agent": self.owner, "size": self._size},
            )
        self._waiting.append(letter)
        self._arrived.set()

    async def deliveries(self) -> AsyncIterator[LetterDelivery]:
        """Each letter as it comes, until the mailbox is closed."""
        while True:
            while self._waiting:
                letter = self._waiting.popleft()
                letter.attempts += 1
                self._out += 1
                yield LetterDelivery(self, letter)
            if self._closed:
                return
            self._arrived.clear()
            await self._arrived.wait()

    def settle(self, letter: Letter, done: bool) -> None:
        """A delivery has ended: forget the letter when it is done, else put it back, at most MAX_ATTEMPTS times."""
        self._out -= 1
        if done:
            return
        if letter.attempts < MAX_ATTEMPTS:
            self._waiting.append(letter)
            self._arrived.set()
            return
        self.dead_letters += 1
        log.error("message %s to %s failed %d times and is dropped", letter.message.id, self.owner, letter.attempts)

    def close(self) -> None:
        """End `deliveries` when the mailbox is empty."""
        self._closed = True
        self._arrived.set()


class LetterDelivery:
    """One delivery of one letter (the contract's Delivery)."""

    def __init__(self, mailbox: Mailbox, letter: Letter) -> None:
        self._mailbox = mailbox
        self._letter = letter
        self._block = AsyncExitStack()
        self._settled = False
        self.message = letter.message
        self.sender = letter.sender
        self.attempt = letter.attempts

    async def __aenter__(self) -> Message:
        deadline = asyncio.get_running_loop().time() + DEFAULT_TIMEOUT
        owner = self._mailbox.owner
        self._state = CallState(deadline, 1, (owner,), self.message.session_id, Ledger())
        self._span = self._block.enter_context(delivery(owner, self.message, self._letter.traceparent))
        self._block.enter_context(entered(self._state))
        self._timer = await self._block.enter_async_context(asyncio.timeout_at(deadline))
        return self.message

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._settled:
            self._settled = True
            self._mailbox.settle(self._letter, done=kind is None)
        spent(self._span, self._state)
        if error is not None:
            self._span.fail(ending(error, self._state))  # here: the timer below makes a TimeoutError of it
        try:
            await self._block.__aexit__(kind, error, trace)
        except TimeoutError as late:
            if not self._timer.expired():
                raise
            raise DeadlineExceeded(f"a message to {self._mailbox.owner!r} took over {DEFAULT_TIMEOUT:g} s") from late
