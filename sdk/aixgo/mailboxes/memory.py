"""Mailboxes in the memory of one process: the default, as fast as a list, and gone with the process.

Implements `contract.py`. Letters wait in lanes, one for each session; a letter without a session has a lane of its own.
Only the first letter of a lane can be out, and its lane is ready again when it is settled or its pause is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from aixgo.errors import AgentNotFound
from aixgo.mailboxes.contract import (
    DUPLICATE_WINDOW,
    Count,
    DeadLetter,
    Letter,
    LetterNotFound,
    MailboxPolicy,
    full,
    reason_of,
)
from aixgo.mailboxes.delivery import LetterDelivery

log = logging.getLogger(__name__)

MAX_IDS = 10_000
"""Ids that one mailbox remembers, to know duplicates."""

Later = Callable[[float, Callable[[], None]], object]
"""Calls something after so many seconds."""


def _call_later(seconds: float, then: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, then)


class MemoryMailboxes:
    """The mailboxes of the agents of this process. `clock` is in seconds since the epoch."""

    def __init__(
        self,
        policy: MailboxPolicy | None = None,
        *,
        clock: Callable[[], float] = time.time,
        later: Later = _call_later,
    ) -> None:
        self.policy = policy or MailboxPolicy()
        self._clock = clock
        self._later = later
        self._boxes: dict[str, _Box] = {}

    def add(self, agent: str) -> None:
        self._boxes[agent] = _Box(agent, self.policy, self._clock, self._later)

    def remove(self, agent: str) -> None:
        self._boxes.pop(agent).close()

    async def put(self, agent: str, letter: Letter, timeout: float) -> bool:
        box = self._boxes.get(agent)
        if box is None:
            return False
        box.put(letter)
        return True

    async def receive(self, agent: str) -> AsyncGenerator[LetterDelivery]:
        box = self._box(agent)
        while (slot := await box.take()) is not None:
            delivery = LetterDelivery(agent, slot.letter, slot.attempts, _Out(box, slot))
            try:
                yield delivery
            except GeneratorExit:
                await delivery.release()
                raise

    def counts(self) -> Iterable[Count]:
        for name, box in list(self._boxes.items()):
            yield Count(name, len(box), box.given_up)

    async def dead_letters(self, agent: str = "", limit: int = 100) -> Sequence[DeadLetter]:
        boxes = [self._box(agent)] if agent else self._boxes.values()
        return sorted((dead for box in boxes for dead in box.dead.values()), key=lambda dead: dead.at)[:limit]

    async def dead_letter(self, agent: str, id: str) -> DeadLetter:  # noqa: A002  # the contract's name
        return self._box(agent).find_dead(id)

    async def replay(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        box = self._box(agent)
        letter = box.find_dead(id).letter
        box.add(replace(letter, replays=letter.replays + 1))
        del box.dead[id]

    async def drop(self, agent: str, id: str) -> None:  # noqa: A002  # see above
        box = self._box(agent)
        del box.dead[box.find_dead(id).id]

    async def close(self) -> None:
        """Nothing is held open."""

    def _box(self, agent: str) -> _Box:
        if agent not in self._boxes:
            raise AgentNotFound(f"no agent named {agent!r} has a mailbox here", fields={"agent": agent})
        return self._boxes[agent]


@dataclass(slots=True, eq=False)
class _Slot:
    """A letter, the lane that it waits in, and how often it was delivered."""

    letter: Letter
    lane: str
    attempts: int = 0


class _Box:
    """The mailbox of one agent."""

    def __init__(self, owner: str, policy: MailboxPolicy, clock: Callable[[], float], later: Later) -> None:
        self._owner, self._policy, self._clock, self._later = owner, policy, clock, later
        self._lanes: dict[str, deque[_Slot]] = {}
        self._ready: deque[str] = deque()
        self._ids: OrderedDict[str, float] = OrderedDict()
        self._size = 0
        self._lone = 0
        self._arrived = asyncio.Event()
        self._closed = False
        self.dead: dict[str, DeadLetter] = {}
        self.given_up = 0

    def __len__(self) -> int:
        return self._size

    def put(self, letter: Letter) -> None:
        """Add a letter, unless its id is known; raises MailboxFull."""
        now, sent = self._clock(), letter.message.id
        while self._ids and (len(self._ids) >= MAX_IDS or next(iter(self._ids.values())) <= now - DUPLICATE_WINDOW):
            self._ids.popitem(last=False)
        if sent in self._ids:
            log.debug("message %s to %s is in its mailbox already, or was", sent, self._owner)
            return
        self.add(letter)
        self._ids[sent] = now

    def add(self, letter: Letter) -> None:
        """Add a letter whatever its id; raises MailboxFull."""
        if self._size >= self._policy.max_messages:
            raise full(self._owner, self._policy.max_messages)
        self._lone += 1
        lane = f"session {letter.message.session_id}" if letter.message.session_id else f"letter {self._lone}"
        self._size += 1
        self._lanes.setdefault(lane, deque()).append(_Slot(letter, lane))
        if len(self._lanes[lane]) == 1:
            self.make_ready(lane)

    def make_ready(self, lane: str) -> None:
        """The first letter of a lane may go out."""
        self._ready.append(lane)
        self._arrived.set()

    async def take(self) -> _Slot | None:
        """The next letter, once there is one; None when the mailbox is closed and nothing is ready."""
        while not self._ready:
            if self._closed:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        slot = self._lanes[self._ready.popleft()][0]
        slot.attempts += 1
        return slot

    def forget(self, slot: _Slot) -> None:
        """A letter is done or dead: the next one of its lane may go out."""
        lane = self._lanes[slot.lane]
        lane.popleft()
        self._size -= 1
        if lane:
            self.make_ready(slot.lane)
        else:
            del self._lanes[slot.lane]

    def again(self, slot: _Slot, error: BaseException) -> None:
        """A delivery failed: bring the letter again after a pause, or give it up."""
        if slot.attempts < self._policy.max_deliveries:
            pause = self._policy.pause(slot.attempts, error)
            if pause > 0:
                self._later(pause, lambda: self.make_ready(slot.lane))
            else:
                self.make_ready(slot.lane)
            return
        self.forget(slot)
        self.given_up += 1
        dead = DeadLetter(self._owner, slot.letter, slot.attempts, reason_of(error), self._clock())
        log.error("message %s to %s failed %d times and is a dead letter", dead.id, self._owner, slot.attempts)
        if len(self.dead) >= self._policy.max_dead:
            del self.dead[next(iter(self.dead))]
        self.dead[dead.id] = dead

    def find_dead(self, id: str) -> DeadLetter:  # noqa: A002  # the contract's name
        """A dead letter; raises LetterNotFound."""
        if id not in self.dead:
            raise LetterNotFound(f"{self._owner!r} has no dead letter {id!r}")
        return self.dead[id]

    def close(self) -> None:
        """End `take` when nothing is ready."""
        self._closed = True
        self._arrived.set()


class _Out:
    """The settlement of a letter that is out."""

    def __init__(self, box: _Box, slot: _Slot) -> None:
        self._box, self._slot = box, slot

    async def done(self) -> None:
        self._box.forget(self._slot)

    async def failed(self, error: BaseException) -> None:
        self._box.again(self._slot, error)

    async def released(self) -> None:
        self._slot.attempts -= 1
        self._box.make_ready(self._slot.lane)
