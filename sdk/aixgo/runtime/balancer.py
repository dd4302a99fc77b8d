"""Choosing an instance: of two random ready ones the less loaded; one that fails in a row is ejected.

Pure: randomness is passed in. `remote.py` asks it before each attempt, tells it how the attempt ended, and readmits an
ejected instance when its health check succeeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Container, Sequence
from time import monotonic

from aixgo.runtime.instance import Instance

FAILURES_IN_A_ROW = 3
"""Transport failures after which an instance is ejected; a refused connection ejects at once."""
RETRY_CAPACITY, RETRY_DEPOSIT = 200.0, 0.2
"""A retry costs 1 out of at most 200, a call pays in 0.2: in an outage, a fifth more load at the most."""
REPORT_COUNTS = 2.0
"""Seconds that an instance's word on how busy it is counts: it comes along with other frames, once it has changed.
After that one call tries whether there is another word; the others believe the last one for TRIAL seconds more."""
LONGEST_REST = 5.0
"""Seconds that an instance rests at the most for one refusal, whatever it says."""
TRIAL = 1.0
"""Seconds that the first call after a rest gets to show whether calls are taken again; others stay away meanwhile."""


class Rest:
    """The rest of one agent at one instance: until when, and whether a call tries it again."""

    __slots__ = ("trial", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.trial = False


class Load:
    """What this process knows of one instance: from its own calls, and what the instance says of those of others.

    `rests` are the agents, by name, for which it has refused calls and that are better called elsewhere for a while.
    """

    __slots__ = ("ejected", "failures", "in_flight", "others", "reported_at", "rests")

    def __init__(self) -> None:
        self.in_flight = 0
        self.failures = 0
        self.ejected = False
        self.others = 0
        self.reported_at = float("-inf")
        self.rests: dict[str, Rest] = {}


class Balancer:
    """Loads and ejections by instance id. `clock` gives seconds."""

    def __init__(self, rng: random.Random | None = None, clock: Callable[[], float] = monotonic) -> None:
        self._rng = rng or random.Random()  # noqa: S311  # spreads load, guards nothing
        self._clock = clock
        self.loads: dict[str, Load] = {}
        """What is known of each instance, by its id."""

    def load(self, instance_id: str) -> Load:
        """The record of an instance, made when it is first asked for."""
        load = self.loads.get(instance_id)
        if load is None:
            load = self.loads[instance_id] = Load()
        return load

    def pick(self, agent: str, instances: Sequence[Instance], tried: Container[str]) -> Instance | None:
        """An instance of `agent` for the next attempt, or None when each is unready, ejected or tried before."""
        if len(instances) == 1:
            only = instances[0]
            return only if self._usable(agent, only, tried) else None
        usable = [instance for instance in instances if self._usable(agent, instance, tried)]
        if len(usable) > 1:
            usable = self._awake(agent, usable)
        if len(usable) <= 1:
            return usable[0] if usable else None
        one, other = self._two_of(usable)
        chosen = one if self._busy(one) <= self._busy(other) else other
        self._asks_anew(chosen)
        return chosen

    def reported(self, instance_id: str, running: int) -> None:
        """The instance says that it runs so many calls, those of this process included."""
        load = self.loads.get(instance_id)
        if load is not None:
            load.others, load.reported_at = max(0, running - load.in_flight), self._clock()

    def succeeded(self, instance_id: str) -> None:
        """The instance answered; an error of an agent's is an answer too."""
        self.load(instance_id).failures = 0

    def failed(self, instance_id: str, *, refused: bool) -> bool:
        """The transport failed; returns True when this ejected the instance."""
        load = self.load(instance_id)
        load.failures += 1
        if load.ejected or not (refused or load.failures >= FAILURES_IN_A_ROW):
            return False
        load.ejected = True
        return True

    def refused(self, agent: str, instance_id: str, retry_after: float) -> None:
        """The instance takes no call of an agent before `retry_after` seconds: while others do, it gets none."""
        rests = self.load(instance_id).rests
        rests[agent] = Rest(self._clock() + min(retry_after, LONGEST_REST))

    def tries(self, agent: str, load: Load) -> None:
        """A call goes to an instance that rests: the others wait TRIAL seconds for what becomes of it."""
        rest, now = load.rests.get(agent), self._clock()
        if rest is not None and now >= rest.until:
            rest.until, rest.trial = now + TRIAL, True

    def answered(self, agent: str, load: Load) -> None:
        """An agent answered. Where a trial is out the rest is over; else the call was made before it."""
        rest = load.rests.get(agent)
        if rest is not None and rest.trial:
            del load.rests[agent]

    def readmit(self, instance_id: str) -> None:
        """Its health check succeeded: let it have calls again."""
        load = self.load(instance_id)
        load.failures, load.ejected = 0, False

    def forget(self, known: Container[str]) -> None:
        """Drop the records of instances that are gone."""
        for instance_id in [i for i, load in self.loads.items() if i not in known and load.in_flight == 0]:
            del self.loads[instance_id]

    def _two_of(self, usable: Sequence[Instance]) -> tuple[Instance, Instance]:
        """Two different ones at random. By hand, because `sample` takes as long as a tenth of a call."""
        draw = self._rng.random
        one, other = int(draw() * len(usable)), int(draw() * (len(usable) - 1))
        return usable[one], usable[other + (other >= one)]

    def _awake(self, agent: str, usable: list[Instance]) -> list[Instance]:
        """Those that do not rest; all of them when each does, so that there is an answer."""
        awake = [each for each in usable if not self._rests(agent, each)]
        return awake or usable

    def _rests(self, agent: str, instance: Instance) -> bool:
        load = self.loads.get(instance.instance_id)
        rest = load.rests.get(agent) if load is not None and load.rests else None
        return rest is not None and self._clock() < rest.until

    def _busy(self, instance: Instance) -> int:
        load = self.loads.get(instance.instance_id)
        if load is None:
            return 0
        counts = load.others and self._clock() - load.reported_at <= REPORT_COUNTS
        return load.in_flight + load.others if counts else load.in_flight

    def _asks_anew(self, chosen: Instance) -> None:
        """A call goes to an instance whose last word may be out of date, and will bring the next one, if there is."""
        load = self.loads.get(chosen.instance_id)
        if load is not None and load.others and self._clock() - load.reported_at > REPORT_COUNTS:
            load.reported_at = self._clock() - REPORT_COUNTS + TRIAL

    def _usable(self, agent: str, instance: Instance, tried: Container[str]) -> bool:
        if agent not in instance.takes or instance.instance_id in tried:
            return False
        load = self.loads.get(instance.instance_id)
        return load is None or not load.ejected


class RetryBudget:
    """Keeps the retries for one agent to a share of its calls, so that they cannot feed an outage."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = RETRY_CAPACITY

    def paid(self) -> None:
        """A call was made."""
        if self._tokens < RETRY_CAPACITY:
            self._tokens = min(RETRY_CAPACITY, self._tokens + RETRY_DEPOSIT)

    def spend(self) -> bool:
        """Take a retry; False when there is none left."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
