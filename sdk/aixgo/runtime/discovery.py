"""Hearing of instances: one watch on each control plane, opened again for as long as the process lives.

Owns the watches and their channels. Below it lie `contact.py` and `directory.py`, which merges what is heard; above it
the resolver, which reads the directory and waits here for changes. No call asks a control plane.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from time import monotonic

import grpc.aio

from aixgo.errors import InternalError, WrongState
from aixgo.runtime.contact import Contact, open_channel, why
from aixgo.runtime.directory import Directory
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.instances import update_from_proto

LONGEST_PAUSE = 2.0
"""Seconds between attempts to open a watch, at most."""


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
        self._unheard: set[str] = set()

    async def open(self) -> None:
        """Start watching; returns at once. Raises WrongState when it was opened before."""
        if self._tasks or self._closed:
            raise WrongState("discovery can be opened once; make another one")
        self._unheard = set(self._control_planes)
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
        """Wait until each control plane has said what there is, or could not be reached; `timeout` is in seconds.

        False when none has said anything until then.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._unheard or not self.directory.has_snapshot:
                    await self._next_event()
        except TimeoutError:
            return self.directory.has_snapshot
        return True

    async def _follow(self, address: str) -> None:
        contact = Contact(address, "discovery", LONGEST_PAUSE, self._random)
        async with self._dial(address) as channel:
            stub = RegistryServiceStub(channel)
            while True:
                try:
                    await self._watch(stub, contact)
                    reason = "it ended the watch"
                except grpc.aio.AioRpcError as error:
                    reason = why(error)
                except InternalError as error:
                    reason = error.message
                self.directory.lost(address)
                self._unheard.discard(address)
                self._wake()
                await self._sleep(contact.lost(reason))

    async def _watch(self, stub: RegistryServiceStub, contact: Contact) -> None:
        call = stub.Watch(registry_pb2.WatchRequest())
        try:
            async for response in call:
                self.directory.apply(contact.address, update_from_proto(response))
                contact.made()
                self._unheard.discard(contact.address)
                self._wake()
        finally:
            call.cancel()

    async def _next_event(self) -> None:
        if self._closed:
            raise WrongState("discovery is closed")
        await self._changed.wait()

    def _wake(self) -> None:
        """Let those who wait look again, and see to it that the directory's next expiry is not missed."""
        self._changed.set()
        self._changed = asyncio.Event()
        if self._expiry is not None:
            self._expiry.cancel()
        due = None if self._closed else self.directory.next_expiry()
        loop = asyncio.get_running_loop()
        self._expiry = None if due is None else loop.call_later(max(0.0, due - self._clock()), self._tick)

    def _tick(self) -> None:
        self.directory.tick()
        self._wake()
