"""When something is due again: after an interval, or by a cron expression.

Owns the waiting, and nothing of what is done then. Clock and sleep are passed in. Above: `producer.py`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, Protocol

from aixgo.errors import ConfigError

log = logging.getLogger(__name__)

Sleep = Callable[[float], Awaitable[None]]

_LONGEST_SLEEP = 30.0
"""Seconds after which a wait by the calendar looks at the clock again, which may have been set meanwhile."""


class Schedule(Protocol):
    """Something that is due again and again."""

    async def wait(self) -> None:
        """Return when it is due the next time. What was missed since the last wait is left out."""
        ...


class Interval:
    """Due every `seconds` of `clock`, counted from the first wait, so that nothing adds up."""

    def __init__(self, seconds: float, clock: Callable[[], float], sleep: Sleep) -> None:
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep
        self._due: float | None = None

    async def wait(self) -> None:
        now = self._clock()
        if self._due is None:
            self._due = now + self._seconds
        else:
            missed = max(0, int((now - self._due) // self._seconds))
            if missed:
                log.warning("%d times were missed: what is done every %g s took longer", missed, self._seconds)
            self._due += self._seconds * (missed + 1)
        while (left := self._due - self._clock()) > 0:
            await self._sleep(left)


class Cron:
    """Due when a cron expression says, in a time zone; `now` is in seconds since 1970, as `time.time` tells it.

    Five fields as in Debian's cron, or six with seconds first; around a change to or from daylight saving time it does
    what Debian's cron does. Raises ConfigError for an expression that cannot be used, and without `cronsim`.
    """

    def __init__(self, expression: str, zone: tzinfo, now: Callable[[], float], sleep: Sleep) -> None:
        self._cronsim = _import_cronsim()
        self._expression = expression
        self._zone = zone
        self._now = now
        self._sleep = sleep
        self._last = float("-inf")
        self._next_after(datetime.now(UTC))

    async def wait(self) -> None:
        # Not before the last one, should the clock have been set back: nothing is done twice.
        since = max(self._now(), self._last)
        self._last = self._next_after(datetime.fromtimestamp(since, UTC)).timestamp()
        while (left := self._last - self._now()) > 0:
            await self._sleep(min(left, _LONGEST_SLEEP))

    def _next_after(self, moment: datetime) -> datetime:
        try:
            return next(self._cronsim.CronSim(self._expression, moment.astimezone(self._zone)))
        except (self._cronsim.CronSimError, StopIteration) as error:
            raise ConfigError(
                f"cron: {self._expression!r} cannot be used: {error or 'it is never due'};"
                " write five fields, for example */5 * * * *"
            ) from error


def _import_cronsim() -> Any:
    try:
        return importlib.import_module("cronsim")
    except ImportError as error:
        raise ConfigError("cron: it needs the cronsim package; install it with: pip install 'aixgo[cron]'") from error
