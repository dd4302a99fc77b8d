"""When a process of a fleet should stop: on SIGTERM, on Ctrl-C, or because its parent is gone.

A child learns of its parent's end by the end of its stdin, a pipe whose other end only the parent holds: that works on
every system and lets the child drain, where Linux's PR_SET_PDEATHSIG is tied to one thread of the parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

DRAIN_SECONDS = 10.0
"""How long a process may take to stop after its parent is gone."""


class Stop:
    """Whether to stop, and why. Await `event.wait()`; `interrupted` is True after Ctrl-C."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.interrupted = False

    def set(self, *, interrupted: bool = False) -> None:
        """Ask to stop."""
        self.interrupted = self.interrupted or interrupted
        self.event.set()


@contextmanager
def stop_signals(*, with_parent: bool = False) -> Generator[Stop]:
    """SIGTERM and Ctrl-C ask to stop while the block runs; a second Ctrl-C ends the process at once.

    `with_parent`: the end of stdin asks to stop as well, and ends the process DRAIN_SECONDS later in any case.
    """
    stop = Stop()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        stop.set(interrupted=True)
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with suppress(NotImplementedError):  # Windows' loops have no signal handlers; KeyboardInterrupt ends the process
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, interrupt)
    if with_parent:
        watch = threading.Thread(target=_await_end_of_stdin, args=(loop, stop), name="parent watch", daemon=True)
        watch.start()
    try:
        yield stop
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_signal_handler(signal.SIGINT)


def _await_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: Stop) -> None:
    """In a thread of its own: it must work even while agents' code blocks the event loop."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    with suppress(RuntimeError):  # the loop is closed: the process is ending already
        loop.call_soon_threadsafe(stop.set)
    time.sleep(DRAIN_SECONDS)
    os._exit(1)
