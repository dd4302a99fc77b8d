"""Hearing of instances: one watch on each control plane, opened again for as long as the process lives.

Owns the watches, what they are for, and their channels. Below it lie `contact.py` and `directory.py`, which merges what
is heard; above it the resolver, which reads the directory and waits here for changes. No call asks a control plane.

A watch by name is told which agents there are, and the instances of those that are asked for. With a new name each
watch is replaced by one that has it too: what is known stays, the snapshot of the new watch brings what the pause
between the two held back, and names that come while it is on its way wait for it and share the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random
from time import monotonic
from typing import TypeAlias

import grpc.aio

from aixgo.errors import InternalError, WrongState
from aixgo.runtime.contact import Contact, open_channel, why
from aixgo.runtime.directory import Directory
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.instances import update_from_proto

LONGEST_PAUSE = 2.0
"""Seconds between attempts to open a watch, at most."""
MAX_NAMES = 1_000
"""Names of one watch; who asks for more hears of all."""

WatchCall: TypeAlias = "grpc.aio.UnaryStreamCall[registry_pb2.WatchRequest, registry_pb2.WatchResponse]"


class Discovery:
    """Keeps a directory up to date from the control planes at `control_planes` (host:port each).

    An unreachable control plane is one warning in the log; the directory keeps what is known. `by_name` asks only for
    the instances of the names that are followed, else for all. `clock` is the one of the directory, in seconds; `dial`,
    `sleep` and `random` (0 to 1) are for tests.
    """

    def __init__(
        self,
        control_planes: Sequence[str],
        *,
        by_name: bool = False,
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
        self._followed: set[str] | None = set() if by_name else None
        self._asked_for_more = asyncio.Event()
        self._to_say_all: set[str] = set() if by_name else set(self._control_planes)

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

    def follow(self, names: Iterable[str]) -> None:
        """Ask for the instances of these agents from now on; returns at once."""
        if self._followed is None:
            return
        new = set(names).difference(self._followed)
        if not new:
            return
        if len(self._followed) + len(new) > MAX_NAMES:
            self.follow_all()
            return
        self._followed |= new
        self._ask_for_more()

    def follow_all(self) -> None:
        """Ask for all instances from now on; returns at once."""
        if self._followed is not None:
            self._followed = None
            self._to_say_all = set(self._control_planes)
            self._ask_for_more()

    async def heard_all(self, timeout: float) -> bool:
        """Ask for all instances, and wait until each control plane has listed them, or could not be reached.

        `timeout` is in seconds. False when none has listed them until then.
        """
        self.follow_all()
        try:
            async with asyncio.timeout(timeout):
                while self._to_say_all:
                    await self._next_event()
        except TimeoutError:
            return False
        return self.directory.has_snapshot

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
                self._to_say_all.discard(address)
                self._wake()
                await self._sleep(contact.lost(reason))

    async def _watch(self, stub: RegistryServiceStub, contact: Contact) -> None:
        """Hear a control plane until it ends the watch; whenever more is asked for, through a new one."""
        while True:
            names = None if self._followed is None else tuple(self._followed)
            more, heard = self._asked_for_more, asyncio.Event()
            call = stub.Watch(registry_pb2.WatchRequest(agents=names or (), by_name=names is not None))
            hearing = asyncio.create_task(self._hear(call, contact, names, heard))
            asked = asyncio.create_task(_both(heard, more))  # not before its snapshot, so that names come together
            try:
                await asyncio.wait({hearing, asked}, return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    return hearing.result()
            finally:
                call.cancel()
                hearing.cancel()
                asked.cancel()
                await asyncio.gather(hearing, asked, return_exceptions=True)

    async def _hear(
        self, call: WatchCall, contact: Contact, names: tuple[str, ...] | None, heard: asyncio.Event
    ) -> None:
        async for response in call:
            self.directory.apply(contact.address, update_from_proto(response), names or ())
            contact.made()
            heard.set()
            self._unheard.discard(contact.address)
            if names is None:
                self._to_say_all.discard(contact.address)
            self._wake()

    def _ask_for_more(self) -> None:
        self._asked_for_more.set()
        self._asked_for_more = asyncio.Event()

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


async def _both(first: asyncio.Event, second: asyncio.Event) -> None:
    await first.wait()
    await second.wait()
