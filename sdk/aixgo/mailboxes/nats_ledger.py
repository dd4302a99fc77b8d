"""What is known of letters beyond their mailboxes in NATS: receipts of deliveries, dead letters, and sound consumers.

All are records under one subject each, the newest of which counts. Below: `nats_link.py`, `nats_streams.py`; above:
`nats.py`.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from typing import Any
from urllib.parse import quote, unquote

from aixgo.errors import InvalidMessage, LimitExceeded
from aixgo.mailboxes import nats_layout as layout
from aixgo.mailboxes.contract import DeadLetter, LetterNotFound, MailboxPolicy
from aixgo.mailboxes.letters import decode_letter, unreadable
from aixgo.mailboxes.nats_link import (
    AGAIN,
    NOT_THERE,
    UNKNOWN_MESSAGE,
    UNKNOWN_STREAM,
    WRONG_LAST_SEQUENCE,
    NatsLink,
    NoStream,
    Refused,
)
from aixgo.mailboxes.nats_room import stream_state
from aixgo.mailboxes.nats_streams import Streams
from aixgo.message import new_id

REPLAYS = "Aixgo-Replays"
_AGENT, _ID, _ATTEMPTS, _REASON, _AT = "Aixgo-Agent", "Aixgo-Id", "Aixgo-Attempts", "Aixgo-Reason", "Aixgo-At"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
DONE, BUSY = -1, -2
"""What `begin` says of a letter that somebody has finished, and of one that another process may be working on."""
CLAIM = 10.0
"""Seconds after which one who began to make consumers anew, and has not said that they are made, counts as dead."""


@dataclass(frozen=True, slots=True)
class Record:
    """A message as it lies in a stream."""

    seq: int
    data: bytes
    headers: Mapping[str, str]


class Ledger:
    """Receipts, dead letters and notes on consumers."""

    def __init__(
        self,
        link: NatsLink,
        streams: Streams,
        policy: MailboxPolicy,
        replicas: int,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._link, self._streams, self._sleep = link, streams, sleep
        self._policy, self._replicas = policy, replicas
        self._nonce = new_id()

    async def make(self, timeout: float) -> None:
        """Make the streams where they are not there yet. Raises MailboxUnavailable, Refused."""
        await self._streams.make(layout.receipts_stream(self._policy, self._replicas), timeout)
        await self._streams.make(layout.dead_stream(self._replicas), timeout)
        await self._streams.make(layout.consumers_stream(self._replicas), timeout)

    async def claim(self, agent: str, server: str, timeout: float) -> bool:
        """Whether it is for this process to make the consumers of a mailbox anew, since `server` has started.

        Of several that ask, one hears True, and has to say `made`; the others hear False once that is said.
        """
        subject, waited = layout.consumers_subject(agent), 0.0
        while True:
            record = await self._last(layout.CONSUMERS, subject, timeout)
            known: dict[str, Any] = {} if record is None else json.loads(record.data)
            if known.get("server") == server and known.get("made"):
                return False
            if known.get("server") != server or waited >= CLAIM:
                body = json.dumps({"server": server, "by": new_id()}).encode()
                try:
                    await self._stored(subject, body, timeout, {_EXPECTED: str(0 if record is None else record.seq)})
                except Refused as error:
                    if error.number != WRONG_LAST_SEQUENCE:
                        raise
                else:
                    return True
            await self._sleep(AGAIN)
            waited += AGAIN

    async def made(self, agent: str, server: str, timeout: float) -> None:
        """The consumers of a mailbox are sound since `server` has started."""
        body = json.dumps({"server": server, "made": True}).encode()
        await self._stored(layout.consumers_subject(agent), body, timeout, {})

    async def begin(self, agent: str, key: str, timeout: float, *, careful: bool = False) -> int:
        """Note that a delivery begins, and return its number; DONE when the letter was finished before, and BUSY when
        this is `careful` and another process has begun with it.

        More than `max_deliveries` means that nothing was noted. The number is certain: of two receivers that begin at
        the same time each gets its own.
        """
        subject, last, attempt = layout.receipt_subject(agent, key), 0, 1
        mine = f"{self._nonce}/{new_id()}"
        while True:
            body = json.dumps({"attempts": attempt, "by": mine}).encode()
            try:
                await self._stored(subject, body, timeout, {_EXPECTED: str(last)})
            except Refused as error:
                if error.number != WRONG_LAST_SEQUENCE:
                    raise
            else:
                return attempt
            record = await self._last(layout.RECEIPTS, subject, timeout)
            known: dict[str, Any] = {"attempts": 0} if record is None else json.loads(record.data)
            if known.get("done"):
                return DONE
            if known.get("by") == mine:  # the answer to an earlier try was lost on its way
                return attempt
            if careful and not str(known.get("by", self._nonce)).startswith(self._nonce):
                return BUSY
            last, attempt = 0 if record is None else record.seq, int(known["attempts"]) + 1
            if attempt > self._policy.max_deliveries:
                return attempt

    async def undo(self, agent: str, key: str, attempt: int, timeout: float) -> None:
        """Note that the delivery `attempt` did not happen after all."""
        body = json.dumps({"attempts": attempt - 1}).encode()
        await self._stored(layout.receipt_subject(agent, key), body, timeout, {})

    async def finish(self, agent: str, key: str, timeout: float) -> None:
        """Note that a letter is done, so that a copy of it is known as one."""
        await self._stored(layout.receipt_subject(agent, key), b'{"done": true}', timeout, {})

    async def bury(self, dead: DeadLetter, data: bytes, timeout: float) -> None:
        """Keep a dead letter, once for its id. Raises LimitExceeded when there is no room."""
        state = await stream_state(self._link, layout.DEAD, timeout)
        if state is not None and state[0] >= self._policy.max_dead:
            raise LimitExceeded(f"there are {state[0]} dead letters; replay or drop some, or raise mailbox.max_dead")
        headers = {
            _AGENT: dead.agent,
            _ID: quote(dead.id),
            _ATTEMPTS: str(dead.attempts),
            _REASON: quote(dead.reason),
            _AT: f"{dead.at:.3f}",
            REPLAYS: str(dead.letter.replays),
        }
        await self._stored(layout.dead_subject(dead.agent, dead.id), data, timeout, headers)

    async def dead_letters(self, agent: str, limit: int, timeout: float) -> list[DeadLetter]:
        """The oldest dead letters."""
        found: list[DeadLetter] = []
        seq = 1
        while len(found) < limit:
            wanted = {"seq": seq, "next_by_subj": layout.dead_subject(agent)}
            record = await self._record(layout.DEAD, wanted, timeout)
            if record is None:
                break
            found.append(_dead(record))
            seq = record.seq + 1
        return found

    async def dead_letter(self, agent: str, message_id: str, timeout: float) -> tuple[DeadLetter, Record]:
        """One dead letter and how it lies there. Raises LetterNotFound."""
        record = await self._last(layout.DEAD, layout.dead_subject(agent, message_id), timeout)
        if record is None:
            raise LetterNotFound(f"{agent!r} has no dead letter {message_id!r}")
        return _dead(record), record

    async def forget(self, record: Record, timeout: float) -> None:
        """Remove a dead letter; one that is gone already is fine."""
        try:
            await self._link.question(f"STREAM.MSG.DELETE.{layout.DEAD}", {"seq": record.seq}, timeout)
        except Refused as error:
            if error.number not in NOT_THERE:
                raise

    async def _stored(self, subject: str, data: bytes, timeout: float, headers: Mapping[str, str]) -> None:
        """Put a record in place; when its stream is gone, all are made again."""
        try:
            await self._link.store(subject, data, timeout, headers)
        except NoStream:
            await self.make(timeout)
            await self._link.store(subject, data, timeout, headers)

    async def _last(self, stream: str, subject: str, timeout: float) -> Record | None:
        return await self._record(stream, {"last_by_subj": subject}, timeout)

    async def _record(self, stream: str, wanted: Mapping[str, Any], timeout: float) -> Record | None:
        try:
            answer = await self._link.question(f"STREAM.MSG.GET.{stream}", wanted, timeout)
        except Refused as error:
            if error.number in (UNKNOWN_MESSAGE, UNKNOWN_STREAM):
                return None
            raise
        message = answer["message"]
        return Record(message["seq"], b64decode(message.get("data", "")), _headers(b64decode(message.get("hdrs", ""))))


def _dead(record: Record) -> DeadLetter:
    headers = record.headers
    try:
        letter = decode_letter(record.data, int(headers.get(REPLAYS, "0")))
    except InvalidMessage:
        letter = unreadable(record.data, unquote(headers.get(_ID, "")))
    attempts, at = int(headers.get(_ATTEMPTS, "0")), float(headers.get(_AT, "0"))
    return DeadLetter(headers.get(_AGENT, ""), letter, attempts, unquote(headers.get(_REASON, "")), at)


def _headers(block: bytes) -> dict[str, str]:
    _, _, lines = block.partition(b"\r\n")  # the first line says NATS/1.0
    return {name: str(value) for name, value in BytesHeaderParser().parsebytes(lines).items()}
