"""What has come of a stream over a session and waits for its reader.

Owns the waiting. The session (above) puts events and the end in as frames bring them; a stream's generator takes them
out. Nothing below but the frames of aixgo.v1.
"""

from __future__ import annotations

import asyncio
from collections import deque

from aixgo.errors import DeadlineExceeded
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2


class Inbox:
    """The events of a stream that wait for its reader, and its end; how many there can be is bounded by its credit."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.events: deque[types_pb2.Event] = deque()
        """Those that wait; when there are none, `arrival` waits for the next."""
        self._end: pb.Frame | Exception | None = None
        self._reader: asyncio.Future[None] | None = None

    @property
    def late(self) -> bool:
        """Whether its deadline is what has ended it."""
        return isinstance(self._end, DeadlineExceeded)

    def add(self, event: types_pb2.Event) -> None:
        """Another event."""
        self.events.append(event)
        if self._reader is not None:
            self._wake(self._reader)

    def done(self) -> bool:
        """Whether it has ended: as a future says it, and with the next two methods that is all that it is told."""
        return self._end is not None

    def set_result(self, frame: pb.Frame) -> None:
        """It has ended with this frame."""
        self._set_end(frame)

    def set_exception(self, error: Exception) -> None:
        """It has ended with this error, to be raised once all events are read."""
        self._set_end(error)

    async def arrival(self) -> types_pb2.Event | pb.Frame:
        """The next event, waited for; after the last one the frame that has ended it. Raises the error that has."""
        while not self.events:
            if isinstance(self._end, Exception):
                raise self._end
            if self._end is not None:
                return self._end
            self._reader = self._loop.create_future()
            await self._reader
        return self.events.popleft()

    def _set_end(self, end: pb.Frame | Exception) -> None:
        self._end = end
        if self._reader is not None:
            self._wake(self._reader)

    def _wake(self, reader: asyncio.Future[None]) -> None:
        self._reader = None
        if not reader.done():
            reader.set_result(None)
