"""Hearing of instances: one watch on each control plane, opened again for as long as the process lives.

Owns the watches and their channels. Below it lie gRPC and `directory.py`, which merges what is heard; above it the
resolver, which reads the directory and waits here for changes. No call asks a control plane.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic

import grpc.aio

from aixgo.errors import InternalError, WrongState
from aixgo.runtime.channels import channel_options
from aixgo.runtime.directory import Directory
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.instances import update_from_proto

MAX_UPDATE_BYTES = 64 * 1024 * 1024
"""Bytes of the largest update: a snapshot of 100,000 instances is about 20 MB."""

_log = logging.getLogger(__name__)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to a control plane. It connects again 0.1 to 1 s after it broke, and notices a frozen one in 10 s."""
    options = dict(channel_options(MAX_UPDATE_BYTES)) | {
        "grpc.initial_reconnect_backoff_ms": 100,
        "grpc.min_reconnect_backoff_ms": 100,
        "grpc.max_reconnect_backoff_ms": 1_000,
    }
    return grpc.aio.insecure_channel(address, options=list(options.items()))


@dataclass
class Backoff:
    """Pauses that double from `first` to `longest` seconds, each shortened at random by up to half."""

    first: float
    longest: float
    random: Callable[[], float]
    _next: float = 0.0

    def reset(self) -> None:
        """Begin with the shortest pause again."""
        self._next = 0.0

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        self._next = min(max(self.first, self._next * 2), self.longest)
        return self._next * (0.5 + self.random() / 2)


class Discovery:
    """Keeps a directory up to date from the control planes at `control_planes` (host:port each).

    An unreachable control plane is one warning in the log; the directory keeps what is known. `clock` is the one of
    the directory, in seconds; `dial`, `sleep` and `random` (0 to 1) are for tests.
    """

    def __init__(
        self,
        control_planes: Sequence[str],
        *,
        directory: Directory | None = None,
        clock: Callable[[], float] = monotonic,
        dial: Callable[[str], grpc.aio.Channel] = open_channel,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] | None = None,
    ) -> None:
        self.directory = directory or Directory(clock)
        self._control_planes = tuple(dict.fromkeys(control_planes))
        self._clock = clock
        self._dial = dial
        self._sleep = sleep
        self._random = random or Random().random  # noqa: S311  # jitter, no secret
        self._tasks: list[asyncio.Task[None]] = []
        self._expiry: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._closed = False

    async def open(self) -> None:
        """Start watching; returns at once. Raises WrongState when it is open or closed already."""
        if self._tasks or self._closed:
            raise WrongState("discovery can be opened once; make another one")
        self._tasks = [
            asyncio.create_task(self._follow(address), name=f"watch of {address}") for address in self._control_planes
        ]

    async def close(self) -> None:
        """Stop watching. The directory stays as it is; those who wait for a change get WrongState."""
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._wake()

    async def changed(self, since: int) -> None:
        """Return when the directory's version is above `since`. Raises WrongState when discovery is closed."""
        while self.directory.version <= since:
            await self._next_event()

    async def first_snapshot(self, timeout: float) -> bool:
        """Wait until some control plane has said what there is; False when none did within `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not self.directory.has_snapshot:
                    await self._next_event()
        except TimeoutError:
            return False
        return True

    async def _next_event(self) -> None:
        if self._closed:
            raise WrongState("discovery is closed")
        await self._changed.wait()

    async def _follow(self, address: str) -> None:
        backoff = Backoff(0.1, 2.0, self._random)
        reachable = True
        async with self._dial(address) as channel:
            stub = RegistryServiceStub(channel)
            while True:
                try:
                    heard = await self._watch(stub, address)
                except (grpc.aio.AioRpcError, InternalError) as error:
                    heard, reason = False, _reason(error)
                else:
                    reason = "it ended the watch"
                heard = self._lost(address) or heard
                if heard:
                    backoff.reset()
                    reachable = True
                _log.log(
                    logging.WARNING if reachable else logging.DEBUG,
                    "control plane %s cannot be heard (%s); what is known stays, and it is tried again",
                    address,
                    reason,
                )
                reachable = False
                await self._sleep(backoff.pause())
