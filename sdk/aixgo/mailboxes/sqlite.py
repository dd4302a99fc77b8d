"""Mailboxes in one SQLite file: they outlive the process, and the processes of one machine may share them.

Implements `contract.py` over the standard library. The statements are in `sqlite_file.py` and run in one thread of
their own, so that a slow disk never holds up the event loop. Another process's letters are found by looking for them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from aixgo.errors import AgentNotFound
from aixgo.mailboxes.contract import (
    LASTING_MESSAGES,
    Count,
    DeadLetter,
    Letter,
    MailboxPolicy,
    MailboxUnavailable,
    reason_of,
)
from aixgo.mailboxes.delivery import LetterDelivery
from aixgo.mailboxes.sqlite_file import MailboxFile, Taken
from aixgo.message import new_id

log = logging.getLogger(__name__)
T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25
"""Seconds between two looks for letters of other processes; they grow, and vary so that nobody is unlucky."""


class SQLiteMailboxes:
    """Mailboxes in the file at `path`, which is made when it is first used.

    `clock` is in seconds since the epoch, because processes compare their times.
    """

    def __init__(
        self,
        path: str | Path,
        policy: MailboxPolicy | None = None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.policy = policy or MailboxPolicy(max_messages=LASTING_MESSAGES)
        self._file = MailboxFile(Path(path), self.policy)
        self._clock, self._sleep = clock, sleep
        self._holder = new_id()
        self._thread: ThreadPoolExecutor | None = None
        self._own: dict[str, asyncio.Event] = {}
        self._waiting: dict[str, int] = {}
        self._given_up: dict[str, int] = {}
        self._held: set[int] = set()
        self._keeper: asyncio.Task[None] | None = None

    def add(self, agent: str) -> None:
        self._own[agent] = asyncio.Event()

    def remove(self, agent: str) -> None:
        self._own.pop(agent).set()

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    async def put(self, agent: str, letter: Letter, timeout: float) -> bool:
        if agent in self._own:
            await self._run(self._file.make, agent)
        there = await self._run(self._file.put, agent, letter, self._clock())
        if there and agent in self._own:
            self._own[agent].set()
        return there

    async def receive(self, agent: str) -> AsyncGenerator[LetterDelivery]:
        arrived = self._own.get(agent)
        if arrived is None:
            raise AgentNotFound(f"no agent named {agent!r} has a mailbox here", fields={"agent": agent})
        self._keeper = self._keeper or asyncio.get_running_loop().create_task(self._keep(), name="hold letters")
        while (taken := await self._take(agent, arrived)) is not None:
            delivery = LetterDelivery(agent, taken.letter, taken.attempt, _Out(self, agent, taken))
            try:
                yield delivery
            except GeneratorExit:
                await delivery.release()
                raise

    def counts(self) -> Iterable[Count]:
        for agent in list(self._own):
            yield Count(agent, self._waiting.get(agent, 0), self._given_up.get(agent, 0))

    async def dead_letters(self, agent: str = "", limit: int = 100) -> Sequence[DeadLetter]:
        return await self._run(self._file.dead_letters, agent, limit)

    async def dead_letter(self, agent: str, id: str) -> DeadLetter:  # noqa: A002  # the contract's name
        return await self._run(self._file.dead_letter, agent, id)

    async def replay(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        await self._run(self._file.replay, agent, id, self._clock())
        self.look_again(agent)

    async def drop(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        await self._run(self._file.drop, agent, id)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._keeper = None
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.wrap_future(thread.submit(self._file.close))
            thread.shutdown(wait=False)

    def look_again(self, agent: str) -> None:
        """Something may be due in a mailbox of this process."""
        if agent in self._own:
            self._own[agent].set()

    async def settle(self, agent: str, taken: Taken, error: BaseException | None) -> None:
        """End a delivery. When the file cannot be written, the lease ends it, and the letter comes again."""
        now, policy = self._clock(), self.policy
        try:
            if error is None:
                await self._run(self._file.done, taken.seq, self._holder)
            elif taken.attempt < policy.max_deliveries:
                due = now + policy.pause(taken.attempt, error)
                await self._run(self._file.again, taken.seq, self._holder, due)
            elif await self._run(self._file.bury, taken.seq, self._holder, reason_of(error), now):
                self._given_up[agent] = self._given_up.get(agent, 0) + 1
                log.error("message %s to %s is a dead letter: %s", taken.letter.message.id, agent, reason_of(error))
            else:
                log.warning("there is no room for the dead letter %s of %s; it stays", taken.letter.message.id, agent)
        except MailboxUnavailable as failure:
            log.warning("message %s to %s comes again: %s", taken.letter.message.id, agent, failure)
        finally:
            self._held.discard(taken.seq)
            self.look_again(agent)

    async def release(self, agent: str, taken: Taken) -> None:
        """Give back a letter that nobody has begun with."""
        try:
            await self._run(lambda: self._file.again(taken.seq, self._holder, self._clock(), uncounted=True))
        except MailboxUnavailable as failure:
            log.warning("message %s to %s comes again: %s", taken.letter.message.id, agent, failure)
        finally:
            self._held.discard(taken.seq)
            self.look_again(agent)

    async def _take(self, agent: str, arrived: asyncio.Event) -> Taken | None:
        """The next letter, once there is one; None when the agent was removed."""
        pause = FIRST_PAUSE
        while self._own.get(agent) is arrived:
            arrived.clear()
            try:
                await self._run(self._file.make, agent)
                taken = await self._run(self._file.take, agent, self._holder, self._clock())
            except MailboxUnavailable as error:
                log.warning("the mailbox of %s cannot be read, and is tried again: %s", agent, error)
                taken = None
            if taken is not None:
                self._held.add(taken.seq)
                self._waiting[agent] = taken.waiting
                return taken
            await self._wait(arrived, pause * random.uniform(0.5, 1.0))  # noqa: S311  # no secret: it spreads the looks
            pause = min(LONGEST_PAUSE, 2 * pause)
        return None

    async def _wait(self, arrived: asyncio.Event, pause: float) -> None:
        """Wait until something arrives from this process, or the pause is over."""
        sleeping = asyncio.ensure_future(self._sleep(pause))
        waiting = asyncio.ensure_future(arrived.wait())
        try:
            await asyncio.wait({sleeping, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waiting.cancel()

    async def _keep(self) -> None:
        """Renew the letters that are out."""
        while True:
            await self._sleep(self.policy.ack_wait / 3)
            try:
                await self._run(self._file.renew, list(self._held), self._holder, self._clock())
            except MailboxUnavailable as error:
                log.warning("the letters that are out could not be renewed: %s", error)

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aixgo-mailboxes")
        try:
            # Shielded: a transaction that has begun ends whole, and its caller's cancellation comes after it.
            return await asyncio.shield(asyncio.wrap_future(self._thread.submit(work, *arguments)))
        except (sqlite3.Error, OSError) as error:
            raise MailboxUnavailable(f"the mailboxes in {self._file.path} cannot be used: {error}") from error


class _Out:
    """The settlement of a letter that is out."""

    def __init__(self, mailboxes: SQLiteMailboxes, agent: str, taken: Taken) -> None:
        self._mailboxes, self._agent, self._taken = mailboxes, agent, taken

    async def done(self) -> None:
        await self._mailboxes.settle(self._agent, self._taken, None)

    async def failed(self, error: BaseException) -> None:
        await self._mailboxes.settle(self._agent, self._taken, error)

    async def released(self) -> None:
        await self._mailboxes.release(self._agent, self._taken)
