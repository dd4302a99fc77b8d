"""Receiving from one mailbox in NATS: letters of all its lanes, as they come.

Owns the pull requests of one receiver, and keeping the letters that it holds from coming to another. Letters are asked
for only while somebody waits for one; those that come in on top are given back after GRACE, so that a slow receiver
does not keep work from an idle one. Below: `nats_link.py`. Above: `nats.py`, which makes deliveries of what arrives.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Self

from aixgo.mailboxes import nats_layout as layout
from aixgo.mailboxes.contract import MailboxPolicy
from aixgo.mailboxes.nats_link import AGAIN, NOT_THERE, NatsLink, Refused
from aixgo.mailboxes.nats_streams import DELETION

log = logging.getLogger(__name__)

EXPIRES = 10.0
"""Seconds for which a pull request waits at the server, which then says that nothing came."""
OVERDUE = 15.0
"""Seconds after which a pull request that heard not even that is lost. A server says nothing to one whose consumer is
gone, or goes at that moment, so the mailbox is made again then."""
GRACE = 1.0
"""Seconds for which a letter is kept that nobody waits for."""
ACK, NAK, PROGRESS = b"+ACK", b"-NAK", b"+WPI"


@dataclass(slots=True, eq=False)
class Arrival:
    """A letter as it came. `reply` is where its fate is told to, `seq` its place in the stream; times in seconds."""

    lane: str
    seq: int
    reply: str
    data: bytes
    headers: dict[str, str]
    waiting: int
    since: float
    renewed: float


class Receiver:
    """One receiver of an agent's mailbox, for the length of an `async with`.

    `prepare` makes the mailbox, also again after the server was away or has lost it. `clock` is in seconds, of any
    origin.
    """

    def __init__(
        self,
        link: NatsLink,
        agent: str,
        policy: MailboxPolicy,
        prepare: Callable[[], Awaitable[None]],
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._link, self._agent, self._policy = link, agent, policy
        self._prepare = prepare
        self._clock, self._sleep = clock, sleep
        self._stream = layout.mail_stream_name(agent)
        self._asked: dict[str, float] = {}
        self._arrivals: asyncio.Queue[Any] = asyncio.Queue()
        self._buffer: deque[Arrival] = deque()
        self._held: dict[int, Arrival] = {}
        self._closed = False
        self._stale = True
        self._deleted = False

    async def __aenter__(self) -> Self:
        client = await self._link.connected()
        self._inbox = client.new_inbox()
        self._subscription = await client.subscribe(f"{self._inbox}.*", cb=self._arrivals.put)
        self._forget_waker = self._link.on_reconnect(self._reconnected)
        self._keeper = asyncio.get_running_loop().create_task(self._keep(), name=f"hold letters of {self._agent}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget_waker()
        self._keeper.cancel()
        await asyncio.wait({self._keeper})
        try:
            await self._subscription.unsubscribe()
        except Exception as failure:  # noqa: BLE001  # the connection may be closed; the server then has forgotten it
            log.debug("unsubscribing failed: %s", failure)
        self._sort_all()
        for arrival in self._buffer:
            await self._link.send(arrival.reply, NAK)

    def close(self) -> None:
        """End `next`, also of one that waits."""
        self._closed = True
        self._arrivals.put_nowait(None)

    async def next(self) -> Arrival | None:
        """The next letter, once there is one; None when this is closed.

        It waits for a server that is away. Raises MailboxUnavailable when one that is there cannot be prepared.
        """
        while True:
            self._sort_all()
            if self._buffer:
                return self._buffer.popleft()
            if self._closed:
                return None
            if self._deleted:
                await self._outlast_deletion()
                continue
            await self._ask()
            try:
                async with asyncio.timeout(self._patience()):
                    self._sort_in(await self._arrivals.get())
            except TimeoutError:
                log.debug("nothing was heard of the mailbox of %s for %g s", self._agent, OVERDUE)

    def let_go(self, arrival: Arrival) -> None:
        """Renew a letter no longer: it is settled, or nobody works on it."""
        self._held.pop(arrival.seq, None)

    async def delete(self, arrival: Arrival, timeout: float) -> None:
        """Delete a letter, and free its lane. Raises MailboxUnavailable when that was not heard."""
        self.let_go(arrival)
        wanted = {"seq": arrival.seq, "no_erase": True}
        try:
            await self._link.question(f"STREAM.MSG.DELETE.{self._stream}", wanted, timeout)
        except Refused as error:
            if error.number not in NOT_THERE:
                raise
        await self._link.send(arrival.reply, ACK)

    async def settle(self, arrival: Arrival, word: bytes, timeout: float) -> None:
        """Say when a letter comes again. Raises MailboxUnavailable, NoStream when that was not heard."""
        self.let_go(arrival)
        await self._link.ask(arrival.reply, word, timeout)

    async def _ask(self) -> None:
        await self._link.connected()
        self._miss_answers()
        while self._stale:
            self._stale = False  # before, so that a restart meanwhile is not missed
            try:
                await self._prepare()
            except BaseException:
                self._stale = True
                raise
            await self._sleep(AGAIN if self._stale else 0)
        wanted = json.dumps({"batch": 1, "expires": int(EXPIRES * layout.NANOSECONDS)}).encode()
        for lane in layout.LANE_NAMES:
            if lane not in self._asked:
                self._asked[lane] = self._clock()
                reply = f"{self._inbox}.{lane}"
                await self._link.send(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{lane}", wanted, reply)

    def _patience(self) -> float:
        """Seconds until the next answer is overdue."""
        return max(0.0, min(self._asked.values()) + OVERDUE - self._clock())

    def _miss_answers(self) -> None:
        now = self._clock()
        for lane in [lane for lane, since in self._asked.items() if now - since >= OVERDUE]:
            log.debug("a question to lane %s of %s was lost, and is asked again", lane, self._agent)
            del self._asked[lane]
            self._stale = True

    async def _outlast_deletion(self) -> None:
        """Wait until what somebody deletes is gone: its consumers are told one by one, and before their files go."""
        await self._sleep(DELETION)
        self._sort_all()
        self._deleted = False
        self._asked.clear()

    def _sort_all(self) -> None:
        while not self._arrivals.empty():
            self._sort_in(self._arrivals.get_nowait())

    def _sort_in(self, message: Any) -> None:
        """Take note of what came: a letter, the word that none came, or (None) that all has to be asked again."""
        if message is None:
            return
        lane = message.subject.rpartition(".")[2]
        self._asked.pop(lane, None)
        if not message.reply.startswith("$JS.ACK."):
            told: dict[str, str] = message.headers or {}
            self._deleted = self._deleted or "Deleted" in told.get("Description", "")
            self._stale = self._stale or self._deleted or told.get("Status") == "503"
            return
        about = message.metadata
        now = self._clock()
        arrival = Arrival(
            lane,
            about.sequence.stream,
            message.reply,
            message.data,
            message.headers or {},
            about.num_pending,
            now,
            now,
        )
        held = self._held.get(arrival.seq)
        if held is not None:  # it came again because the server was away; who works on it goes on
            held.reply, held.renewed = arrival.reply, now
            return
        self._held[arrival.seq] = arrival
        self._buffer.append(arrival)

    def _reconnected(self) -> None:
        """The server was away: what was asked is forgotten there, and what nobody has begun with comes again."""
        self._stale = True
        self._asked.clear()
        for arrival in self._buffer:
            self.let_go(arrival)
        self._buffer.clear()
        self._arrivals.put_nowait(None)

    async def _keep(self) -> None:
        """Renew what is worked on, and give back what nobody has asked for."""
        renewal = self._policy.ack_wait / 3
        while True:
            await self._sleep(min(renewal, GRACE))
            now = self._clock()
            for arrival in [arrival for arrival in self._buffer if now - arrival.since >= GRACE]:
                self._buffer.remove(arrival)
                self.let_go(arrival)
                await self._link.send(arrival.reply, NAK)
            for arrival in list(self._held.values()):
                if now - arrival.renewed >= renewal:
                    arrival.renewed = now
                    await self._link.send(arrival.reply, PROGRESS)
