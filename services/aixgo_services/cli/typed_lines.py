"""What a person types, line by line, while an event loop runs.

Above: `aixgo chat`. The lines are read with `os.read` in a thread that nobody waits for: a thread inside `input()`
would leave the terminal in raw mode when the process ends under it, and hold a lock that the interpreter needs then.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress

_AHEAD = 16
"""Lines that are read before anybody wants them."""
_BLOCK = 64 * 1024


class TypedLines:
    """The lines of a file descriptor: a terminal's, a pipe's or a file's. Make it inside the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        self._reader: threading.Thread | None = None

    async def next(self) -> str | None:
        """The next line without its end, bytes that are no UTF-8 replaced; None after the last one."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, name="typed lines", daemon=True)
            self._reader.start()
        line = await self._lines.get()
        self._room.release()
        return line

    def _read(self) -> None:
        rest = b""
        with suppress(RuntimeError):  # the loop is closed: the process is ending
            while block := self._block():
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    self._put(line.removesuffix(b"\r").decode(errors="replace"))
            if rest:
                self._put(rest.decode(errors="replace"))
            self._put(None)

    def _block(self) -> bytes:
        try:
            return os.read(self._descriptor, _BLOCK)
        except OSError:  # the terminal is gone
            return b""

    def _put(self, line: str | None) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
