"""How full mailboxes in NATS are, so that a full one refuses.

The limit is kept by senders, not by the streams: a server that is killed forgets deletions of the last minutes, and
when that brings a stream over a limit of its own, it deletes the oldest messages instead, undelivered ones too (seen
with 2.9.10). So senders look at the number of messages, at most LOOK seconds old; what several send within that time
may go over the limit. Below: `nats_link.py`. Above: `nats.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from aixgo.mailboxes import nats_layout as layout
from aixgo.mailboxes.contract import MailboxPolicy, full
from aixgo.mailboxes.nats_link import UNKNOWN_STREAM, NatsLink, Refused

LOOK = 1.0
"""Seconds for which a look at a mailbox counts; what this process puts meanwhile is added."""


@dataclass(slots=True)
class _Filling:
    messages: int
    size: int
    at: float


class Room:
    """What is known of the filling of mailboxes. `clock` is in seconds, of any origin."""

    def __init__(self, link: NatsLink, policy: MailboxPolicy, clock: Callable[[], float] = monotonic) -> None:
        self._link, self._policy, self._clock = link, policy, clock
        self._known: dict[str, _Filling] = {}

    async def check(self, agent: str, size: int, timeout: float) -> bool:
        """Whether there is such a mailbox. Raises MailboxFull when it has no room for `size` bytes more."""
        known = self._known.get(agent)
        if known is None or self._clock() - known.at >= LOOK or not self._fits(known, size):
            known = await self._look(agent, timeout)
        if known is None:
            return False
        if not self._fits(known, size):
            raise full(agent, self._policy.max_messages)
        known.messages += 1
        known.size += size
        return True

    def forget(self, agent: str) -> None:
        """Look again before the next message."""
        self._known.pop(agent, None)

    async def _look(self, agent: str, timeout: float) -> _Filling | None:
        self.forget(agent)
        state = await stream_state(self._link, layout.mail_stream_name(agent), timeout)
        if state is None:
            return None
        self._known[agent] = _Filling(*state, self._clock())
        return self._known[agent]

    def _fits(self, known: _Filling, size: int) -> bool:
        most = self._policy.max_bytes
        return known.messages < self._policy.max_messages and (most is None or known.size + size <= most)


async def stream_state(link: NatsLink, name: str, timeout: float) -> tuple[int, int] | None:
    """The messages in a stream, and their bytes; None when there is none. Raises Refused, MailboxUnavailable."""
    try:
        state = (await link.question(f"STREAM.INFO.{name}", None, timeout))["state"]
    except Refused as error:
        if error.number != UNKNOWN_STREAM:
            raise
        return None
    return int(state["messages"]), int(state["bytes"])
