"""One delivery of one letter: a block in which a new call tree begins, and whose end settles the letter.

Implements the runtime contract's Delivery for every kind of mailbox; what settling means is the mailbox's.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType

from aixgo.call import DEFAULT_TIMEOUT, CallState, entered
from aixgo.errors import DeadlineExceeded, WrongState
from aixgo.mailboxes.contract import Letter, Settlement
from aixgo.message import Message
from aixgo.telemetry.endings import ending
from aixgo.telemetry.invocations import delivery, spent
from aixgo.usage import Ledger


class LetterDelivery:
    """The delivery number `attempt` of a letter to `owner`. It can be entered once."""

    def __init__(self, owner: str, letter: Letter, attempt: int, settlement: Settlement) -> None:
        self.message = letter.message
        self.sender = letter.sender
        self.attempt = attempt
        self.redelivered = attempt > 1 or letter.replays > 0
        self._owner = owner
        self._traceparent = letter.traceparent
        self._settlement = settlement
        self._block = AsyncExitStack()
        self._begun = False

    async def __aenter__(self) -> Message:
        if self._begun:
            raise WrongState("a delivery is entered once, and not after its recv() was closed; receive it again")
        self._begun = True
        deadline = asyncio.get_running_loop().time() + DEFAULT_TIMEOUT
        self._state = CallState(deadline, 1, (self._owner,), self.message.session_id, Ledger())
        self._span = self._block.enter_context(delivery(self._owner, self.message, self._traceparent))
        self._block.enter_context(entered(self._state))
        self._timer = await self._block.enter_async_context(asyncio.timeout_at(deadline))
        return self.message

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error
        spent(self._span, self._state)
        if error is not None:
            self._span.fail(ending(error, self._state))  # here: the timer below makes a TimeoutError of it
        try:
            await self._block.__aexit__(kind, error, trace)
        except TimeoutError as late:
            if not self._timer.expired():
                raise
            failure = DeadlineExceeded(f"a message to {self._owner!r} took over {DEFAULT_TIMEOUT:g} s")
            raise failure from late
        finally:
            await (self._settlement.done() if failure is None else self._settlement.failed(failure))

    async def release(self) -> None:
        """Give it back when nobody has entered it."""
        if not self._begun:
            self._begun = True
            await self._settlement.released()
