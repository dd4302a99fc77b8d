"""Mailboxes in NATS JetStream: they outlive every process, and agents on many machines share them.

Implements `contract.py`. Wiring of its parts: `nats_layout.py` (what lies where), `nats_link.py` (the connection),
`nats_streams.py` (making streams), `nats_receiver.py` (what comes in), `nats_ledger.py` (receipts and dead letters).
Needs the extra `nats`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pydantic import SecretStr

from aixgo.errors import AgentNotFound, InvalidMessage, LimitExceeded, MessageTooLarge
from aixgo.mailboxes import nats_layout as layout
from aixgo.mailboxes.contract import (
    LASTING_MESSAGES,
    SEND_TIMEOUT,
    Count,
    DeadLetter,
    Letter,
    MailboxPolicy,
    MailboxUnavailable,
    reason_of,
    unsettled,
)
from aixgo.mailboxes.delivery import LetterDelivery
from aixgo.mailboxes.letters import decode_letter, encode_letter, unreadable
from aixgo.mailboxes.nats_ledger import BUSY, DONE, REPLAYS, Ledger
from aixgo.mailboxes.nats_link import AGAIN, UNKNOWN_CONSUMER, NatsLink, NoStream, Refused
from aixgo.mailboxes.nats_receiver import NAK, Arrival, Receiver
from aixgo.mailboxes.nats_room import Room
from aixgo.mailboxes.nats_streams import Streams

log = logging.getLogger(__name__)

PAUSE = 0.5
"""Seconds before a receiver tries again after the server has failed it."""
HEADROOM = 4096
"""Bytes of the server's largest message that are kept for headers, which a dead letter has more of."""
MESSAGE_ID = "Nats-Msg-Id"


class NatsMailboxes:
    """The mailboxes on the NATS servers of `url`: `nats://user:password@host:4222`, several by commas.

    `replicas` is how many servers of a cluster keep each message. `clock` is in seconds since the epoch.
    """

    def __init__(
        self,
        url: SecretStr,
        policy: MailboxPolicy | None = None,
        *,
        replicas: int = 1,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.policy = policy or MailboxPolicy(max_messages=LASTING_MESSAGES)
        self._replicas, self._clock, self._sleep = replicas, clock, sleep
        self._link = NatsLink(url, sleep=sleep)
        self._room = Room(self._link, self.policy)
        self._streams = Streams(self._link, sleep)
        self._ledger = Ledger(self._link, self._streams, self.policy, replicas, sleep)
        self._link.on_reconnect(self._reconnected)
        self._own: dict[str, bool] = {}
        self._careful_until: dict[str, float] = {}
        self._receivers: dict[str, set[Receiver]] = {}
        self._waiting: dict[str, dict[str, int]] = {}
        self._given_up: dict[str, int] = {}

    def add(self, agent: str) -> None:
        self._own[agent] = False

    def remove(self, agent: str) -> None:
        del self._own[agent]
        for receiver in self._receivers.get(agent, ()):
            receiver.close()

    async def put(self, agent: str, letter: Letter, timeout: float) -> bool:
        return await self._put(agent, letter, letter.message.id, timeout)

    async def receive(self, agent: str) -> AsyncGenerator[LetterDelivery]:
        if agent not in self._own:
            raise AgentNotFound(f"no agent named {agent!r} has a mailbox here", fields={"agent": agent})

        async def prepare() -> None:
            await self._prepare(agent, SEND_TIMEOUT)

        while agent in self._own:
            try:
                async with Receiver(self._link, agent, self.policy, prepare, sleep=self._sleep) as receiver:
                    receivers = self._receivers.setdefault(agent, set())
                    receivers.add(receiver)
                    try:
                        while (delivery := await self._next(agent, receiver)) is not None:
                            try:
                                yield delivery
                            except GeneratorExit:
                                await delivery.release()
                                raise
                    finally:
                        receivers.discard(receiver)
            except MailboxUnavailable as error:
                log.warning("the mailbox of %s cannot be read, and is tried again: %s", agent, error)
                self._unmade(agent)
                await self._sleep(PAUSE)

    def counts(self) -> Iterable[Count]:
        for agent in list(self._own):
            yield Count(agent, sum(self._waiting.get(agent, {}).values()), self._given_up.get(agent, 0))

    async def dead_letters(self, agent: str = "", limit: int = 100) -> Sequence[DeadLetter]:
        return await self._ledger.dead_letters(agent, limit, SEND_TIMEOUT)

    async def dead_letter(self, agent: str, id: str) -> DeadLetter:  # noqa: A002  # the contract's name
        return (await self._ledger.dead_letter(agent, id, SEND_TIMEOUT))[0]

    async def replay(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        dead, record = await self._ledger.dead_letter(agent, id, SEND_TIMEOUT)
        letter = replace(dead.letter, replays=dead.letter.replays + 1)
        # An id of its own: that of the message is known already. It is the same when this is tried again.
        if not await self._put(agent, letter, f"{id}#{record.seq}", SEND_TIMEOUT):
            raise AgentNotFound(f"{agent!r} has no mailbox any more", fields={"agent": agent})
        await self._ledger.forget(record, SEND_TIMEOUT)

    async def drop(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        _, record = await self._ledger.dead_letter(agent, id, SEND_TIMEOUT)
        await self._ledger.forget(record, SEND_TIMEOUT)

    async def close(self) -> None:
        await self._link.close()
        self._own = dict.fromkeys(self._own, False)

    async def give_up(self, dead: DeadLetter, data: bytes, arrival: Arrival, receiver: Receiver) -> None:
        """Make a letter a dead one. Without room for it, it stays in its mailbox and comes again much later."""
        try:
            await self._ledger.bury(dead, data, SEND_TIMEOUT)
        except LimitExceeded as error:
            log.warning("message %s to %s stays in its mailbox: %s", dead.id, dead.agent, error.message)
            await receiver.settle(arrival, later(max(self.policy.backoff)), SEND_TIMEOUT)
            return
        self._given_up[dead.agent] = self._given_up.get(dead.agent, 0) + 1
        log.error("message %s to %s is a dead letter: %s", dead.id, dead.agent, dead.reason)
        await receiver.delete(arrival, SEND_TIMEOUT)

    async def _put(self, agent: str, letter: Letter, key: str, timeout: float) -> bool:
        data = encode_letter(agent, letter)
        try:
            async with asyncio.timeout(timeout):
                await self._check_size(data, timeout)
                return await self._store(agent, letter, data, key, timeout)
        except TimeoutError as error:
            raise self._link.silent(timeout) from error

    async def _store(self, agent: str, letter: Letter, data: bytes, key: str, timeout: float) -> bool:
        """Put a letter into its stream; one of this process's agents is made first, of others it has to be there."""
        subject = layout.mail_subject(agent, letter.message.session_id)
        headers = {MESSAGE_ID: key, REPLAYS: str(letter.replays)}
        while True:
            if agent in self._own:
                await self._make(agent, timeout)
            if not await self._room.check(agent, len(data), timeout):
                return False
            try:
                await self._link.store(subject, data, timeout, headers)
            except NoStream:  # it was deleted, or the server has restarted and is not ready
                self._unmade(agent)
                self._room.forget(agent)
                await self._sleep(AGAIN)
            else:
                return True

    async def _check_size(self, data: bytes, timeout: float) -> None:
        limit = await self._link.max_payload(timeout) - HEADROOM
        if len(data) > limit:
            raise MessageTooLarge(
                f"the message has {len(data)} bytes and {limit} are allowed in a mailbox; send less, or raise"
                " max_payload of the NATS server",
                fields={"limit": limit},
            )

    async def _make(self, agent: str, timeout: float) -> None:
        """Make the stream of an agent of this process, unless that was done since the server has started."""
        if not self._own.get(agent, True):
            await self._streams.make(layout.mail_stream(agent, self._replicas), timeout)
            if agent in self._own:
                self._own[agent] = True

    async def _prepare(self, agent: str, timeout: float) -> None:
        """Make all that a receiver needs, and the consumers anew when nobody has since the server has started."""
        server = await self._link.server()
        self._unmade(agent)
        await self._make(agent, timeout)
        await self._ledger.make(timeout)
        anew = await self._ledger.claim(agent, server, timeout)
        if anew:
            self._be_careful(agent)
        stream = layout.mail_stream_name(agent)
        for lane in layout.LANE_NAMES:
            if anew:
                await self._delete_consumer(stream, lane, timeout)
            wanted = {"stream_name": stream, "config": layout.consumer(agent, lane, self.policy)}
            await self._link.question(f"CONSUMER.DURABLE.CREATE.{stream}.{lane}", wanted, timeout)
        if anew:
            await self._ledger.made(agent, server, timeout)

    async def _delete_consumer(self, stream: str, lane: str, timeout: float) -> None:
        try:
            await self._link.question(f"CONSUMER.DELETE.{stream}.{lane}", None, timeout)
        except Refused as error:
            if error.number != UNKNOWN_CONSUMER:
                raise

    def _reconnected(self) -> None:
        """The server may have been restarted."""
        for agent in self._own:
            self._unmade(agent)
            self._be_careful(agent)

    def _be_careful(self, agent: str) -> None:
        """Leave letters that others have begun with to them, for as long as the server would have."""
        self._careful_until[agent] = asyncio.get_running_loop().time() + self.policy.ack_wait

    def _unmade(self, agent: str) -> None:
        if agent in self._own:
            self._own[agent] = False

    async def _next(self, agent: str, receiver: Receiver) -> LetterDelivery | None:
        """The next delivery; None when the agent was removed."""
        while (arrival := await receiver.next()) is not None:
            self._waiting.setdefault(agent, {})[arrival.lane] = arrival.waiting
            try:
                delivery = await self._delivery(agent, arrival, receiver)
            except MailboxUnavailable as error:
                log.warning("a message to %s could not be delivered, and comes again: %s", agent, error)
                await self._give_back(arrival, receiver)
                await self._sleep(PAUSE)
                continue
            except BaseException:  # also a cancellation
                await self._give_back(arrival, receiver)
                raise
            if delivery is not None:
                return delivery
        return None

    async def _delivery(self, agent: str, arrival: Arrival, receiver: Receiver) -> LetterDelivery | None:
        """The delivery of what arrived; None when it was done before, or is dead."""
        key = arrival.headers.get(MESSAGE_ID) or f"={arrival.seq}"  # another program may have given it no id
        try:
            letter = decode_letter(arrival.data, int(arrival.headers.get(REPLAYS, "0")))
        except (InvalidMessage, ValueError) as error:
            dead = DeadLetter(agent, unreadable(arrival.data, key), 0, reason_of(error), self._clock())
            await self.give_up(dead, arrival.data, arrival, receiver)
            return None
        careful = asyncio.get_running_loop().time() < self._careful_until.get(agent, 0.0)
        attempt = await self._ledger.begin(agent, key, SEND_TIMEOUT, careful=careful)
        if attempt == BUSY:
            await receiver.settle(arrival, later(self.policy.ack_wait), SEND_TIMEOUT)
            return None
        if attempt == DONE:
            log.debug("message %s to %s was done before", letter.message.id, agent)
            await receiver.delete(arrival, SEND_TIMEOUT)
            return None
        out = _Out(self, self._ledger, receiver, arrival, DeadLetter(agent, letter, attempt, "", 0), key, self._clock)
        if attempt > self.policy.max_deliveries:
            await out.give_up(unsettled(attempt - 1), attempt - 1)
            return None
        return LetterDelivery(agent, letter, attempt, out)

    async def _give_back(self, arrival: Arrival, receiver: Receiver) -> None:
        receiver.let_go(arrival)
        await self._link.send(arrival.reply, NAK)


class _Out:
    """The settlement of a letter that is out. What the server is not told of, comes again."""

    def __init__(
        self,
        mailboxes: NatsMailboxes,
        ledger: Ledger,
        receiver: Receiver,
        arrival: Arrival,
        about: DeadLetter,
        key: str,
        clock: Callable[[], float],
    ) -> None:
        self._mailboxes, self._ledger, self._receiver, self._arrival = mailboxes, ledger, receiver, arrival
        self._about, self._key, self._clock = about, key, clock

    async def done(self) -> None:
        with self._said("done"):
            await self._ledger.finish(self._about.agent, self._key, SEND_TIMEOUT)
            await self._receiver.delete(self._arrival, SEND_TIMEOUT)

    async def failed(self, error: BaseException) -> None:
        policy, attempt = self._mailboxes.policy, self._about.attempts
        with self._said("failed"):
            if attempt >= policy.max_deliveries:
                await self.give_up(reason_of(error), attempt)
            else:
                await self._receiver.settle(self._arrival, later(policy.pause(attempt, error)), SEND_TIMEOUT)

    async def released(self) -> None:
        with self._said("not begun"):
            await self._ledger.undo(self._about.agent, self._key, self._about.attempts, SEND_TIMEOUT)
            await self._receiver.settle(self._arrival, NAK, SEND_TIMEOUT)

    async def give_up(self, reason: str, attempts: int) -> None:
        """Make it a dead letter."""
        dead = replace(self._about, reason=reason, attempts=attempts, at=self._clock())
        await self._mailboxes.give_up(dead, self._arrival.data, self._arrival, self._receiver)

    @contextmanager
    def _said(self, what: str) -> Generator[None]:
        try:
            yield
        except MailboxUnavailable as error:
            name, agent = self._about.id, self._about.agent
            log.warning("message %s to %s is %s, and comes again: %s", name, agent, what, error)
        finally:
            self._receiver.let_go(self._arrival)


def later(pause: float) -> bytes:
    """The word that brings a letter again after `pause` seconds."""
    return NAK + (b' {"delay": %d}' % int(pause * layout.NANOSECONDS) if pause > 0 else b"")
