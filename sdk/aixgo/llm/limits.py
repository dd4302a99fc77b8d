"""How many requests a process has out at one vendor, and how fast it sends them.

Owns VendorLimits and the Gate that every request passes. Limits hold for one process: a fleet of ten may send ten times
as much. Above: `retrying.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aixgo.call import remaining
from aixgo.errors import ConfigError, ProviderTimeout

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

_MINUTE = 60.0
DEFAULT_TRIES = 3


@dataclass(frozen=True, slots=True)
class VendorLimits:
    """What one process may ask of one vendor. None is no limit of ours; the vendor has its own.

    `max_tries` counts the first one: 1 never tries again.
    """

    max_concurrency: int | None = None
    requests_per_minute: int | None = None
    max_tries: int = DEFAULT_TRIES


class Gate:
    """What every request to one vendor passes, and stands in while it is out. Who waits goes in order.

    Requests are paced evenly over the minute, in bursts of at most a second's worth.
    """

    def __init__(self, vendor: str, limits: VendorLimits) -> None:
        self.vendor = vendor
        self.limits = limits
        self._places = asyncio.Semaphore(limits.max_concurrency) if limits.max_concurrency else None
        self._pace = _pace(limits.requests_per_minute) if limits.requests_per_minute else None

    @asynccontextmanager
    async def passed(self) -> AsyncGenerator[None]:
        """Wait for a place, and hold it inside the block. Raises ProviderTimeout at the deadline of the call."""
        await self._enter()
        try:
            yield
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._places is None and self._pace is None:
            return
        try:
            async with asyncio.timeout(remaining()):
                await self._wait()
        except TimeoutError as error:
            raise ProviderTimeout(
                f"the deadline passed while a request to {self.vendor} waited for its turn, under"
                f" AIXGO_{self.vendor.upper()}_MAX_CONCURRENCY or AIXGO_{self.vendor.upper()}_REQUESTS_PER_MINUTE"
            ) from error

    async def _wait(self) -> None:
        if self._places is not None:
            await self._places.acquire()
        try:
            if self._pace is not None:
                await self._pace.acquire()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        if self._places is not None:
            self._places.release()


def _pace(requests_per_minute: int) -> AsyncLimiter:
    try:
        from aiolimiter import AsyncLimiter
    except ImportError as error:
        raise ConfigError(
            "limits of requests per minute need the aiolimiter package; install it with: pip install aiolimiter"
        ) from error
    burst = max(1.0, requests_per_minute / _MINUTE)
    return AsyncLimiter(burst, _MINUTE * burst / requests_per_minute)
