"""Steady load: so many calls in flight at any time, of every kind, each judged when it ends.

Owns what is counted and by which rules. Below: `cast.py` (whom it calls), `lag.py`. Above: `faults.py`, `report.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aixgo import DistributedRuntime
from aixgo.errors import AixgoError, DeadlineExceeded
from aixgo.events import Delta
from aixgo.message import Message

from tests.chaos.cast import ONCE, STUCK, TELL, TELL_ONCE, WORDS, WORK
from tests.chaos.lag import LoopLag

DEADLINE = 30.0
"""Seconds that a call may take."""
STUCK_DEADLINES = (1.0, 3.0)
"""Seconds, from and to, that a call may take which is never answered."""
STUCK_SHARE = 16
"""One of so many workers makes calls that are never answered, and measures by them what deadlines are worth."""
HANG = 1.0
"""Seconds after its deadline at which a call that has not ended hangs, the lag of the loop not counted."""
GIVE_UP = 10.0
"""Seconds after its deadline at which nobody waits any more."""


@dataclass(frozen=True)
class Kind:
    """A kind of call. `share` is how often it is made, in proportion to the others."""

    agent: str
    share: int
    streamed: bool = False
    idempotent: bool = False


KINDS = (
    Kind(WORK, 8, idempotent=True),
    Kind(ONCE, 3),
    Kind(TELL, 6, streamed=True, idempotent=True),
    Kind(TELL_ONCE, 3, streamed=True),
)
STUCK_KINDS = (Kind(STUCK, 1, idempotent=True), Kind(STUCK, 1, streamed=True, idempotent=True))


@dataclass
class Tally:
    """What became of calls. `late` has, for each that was ended by its deadline, by how much, in seconds net of lag."""

    ok: int = 0
    idempotent_failed: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    streams_cut: int = 0
    untyped: Counter[str] = field(default_factory=Counter[str])
    wrong: Counter[str] = field(default_factory=Counter[str])
    hangs: int = 0
    late: list[float] = field(default_factory=list[float])
    slowest: float = 0.0

    def late_p99(self) -> float:
        """The 99th percentile of `late`."""
        return sorted(self.late)[len(self.late) * 99 // 100] if self.late else 0.0


class Wrong(Exception):
    """A call ended in a way that no call may end in."""


class Cut(Exception):
    """A stream that had begun ended with `error`."""

    def __init__(self, error: AixgoError) -> None:
        super().__init__(str(error))
        self.error = error


class Load:
    """`in_flight` calls at any time, for as long as the `async with` lasts; `tally` is for its user to replace."""

    def __init__(
        self, runtime: DistributedRuntime, lag: LoopLag, journal: str, *, in_flight: int, rng: random.Random
    ) -> None:
        self.tally = Tally()
        self.answered: dict[int, float] = {}
        """When each process last answered, by its id."""
        self._runtime = runtime
        self._lag = lag
        self._journal = journal
        self._in_flight = in_flight
        self._rng = rng
        self._number = 0
        self._stopping = False
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        stuck = -(-self._in_flight // STUCK_SHARE)
        kinds = [STUCK_KINDS] * stuck + [KINDS] * (self._in_flight - stuck)
        self._workers = [asyncio.create_task(self._work(each)) for each in kinds]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await asyncio.gather(*self._workers)

    async def _work(self, kinds: Sequence[Kind]) -> None:
        while not self._stopping:
            kind = self._rng.choices(kinds, [kind.share for kind in kinds])[0]
            await self._one(kind)

    async def _one(self, kind: Kind) -> None:
        stuck = kind.agent == STUCK
        timeout = self._rng.uniform(*STUCK_DEADLINES) if stuck else DEADLINE
        began = self._loop.time()
        task = asyncio.create_task(self._listen(kind, timeout) if kind.streamed else self._call(kind, timeout))
        done, _ = await asyncio.wait({task}, timeout=timeout + GIVE_UP)
        over = self._loop.time() - began - timeout
        net = max(0.0, over - self._lag.since(began + timeout)) if over > 0 else 0.0
        if net > HANG:
            self.tally.hangs += 1
        if done:
            self.tally.slowest = max(self.tally.slowest, timeout + over)
            self._judge(kind, task, net)
        else:
            task.cancel()

    def _judge(self, kind: Kind, task: asyncio.Task[None], net: float) -> None:
        tally, error = self.tally, task.exception()
        if isinstance(error, Wrong):
            tally.wrong[f"{kind.agent}: {error}"] += 1
            return
        if isinstance(error, Cut):
            tally.streams_cut += 1
            tally.errors[type(error.error).__name__] += 1
            return
        if error is not None and not isinstance(error, AixgoError):
            tally.untyped[f"{kind.agent}: {error!r}"] += 1
            return
        if isinstance(error, DeadlineExceeded):
            tally.late.append(net)
        if error is None or (kind.agent == STUCK and isinstance(error, DeadlineExceeded)):
            tally.ok += 1
            return
        tally.errors[type(error).__name__] += 1
        if kind.idempotent:
            tally.idempotent_failed[f"{kind.agent}: {type(error).__name__}: {error}"] += 1

    async def _call(self, kind: Kind, timeout: float) -> None:
        message, number = self._message()
        reply = await self._runtime.call(kind.agent, message, timeout=timeout)
        self._check(reply, number)

    async def _listen(self, kind: Kind, timeout: float) -> None:
        message, number = self._message()
        words: list[str] = []
        async with self._runtime.stream(kind.agent, message, timeout=timeout) as events:
            try:
                async for event in events:
                    if isinstance(event, Delta):
                        words.append(event.text)
            except AixgoError as error:
                await _ended_for_good(events, error)
                if words and kind.agent != STUCK:
                    raise Cut(error) from error
                raise
        if events.result is None or "".join(words).split() != list(WORDS):
            raise Wrong(f"a stream ended with {words} and {events.result}")
        self._check(events.result, number)

    def _message(self) -> tuple[Message, int]:
        self._number += 1
        return Message({"journal": self._journal, "number": self._number}), self._number

    def _check(self, reply: Message, number: int) -> None:
        if reply.payload != number:
            raise Wrong(f"call {number} got the reply to call {reply.payload}")
        self.answered[int(str(reply.metadata["pid"]))] = self._loop.time()


async def _ended_for_good(events: Any, error: AixgoError) -> None:
    """Raise Wrong unless the stream gives the same error to who asks again."""
    try:
        async for event in events:
            raise Wrong(f"{event} came after {error}")
    except AixgoError as again:
        if again is error:
            return
    raise Wrong(f"after {error} came another end")
