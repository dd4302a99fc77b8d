"""A blocked event loop is noticed and reported, with the code that keeps it, once; a stopped process is told apart."""

from __future__ import annotations

import logging
import threading

import pytest
from aixgo.server.loop_watch import Heartbeat, LoopWatch


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "aixgo.server.loop_watch"]


def watchers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "aixgo loop watch"]


async def test_code_that_blocks_the_loop_is_named_in_a_warning() -> None:
    reported = threading.Event()
    told: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "has not turned" in record.getMessage():
                told.append(record.getMessage())
                reported.set()

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("aixgo.server.loop_watch")
    logger.addHandler(handler)
    watch = LoopWatch(limit=0.05, beat=0.01)
    watch.start()
    try:
        assert reported.wait(30)  # keeps the loop, as a synchronous client does
    finally:
        watch.stop()
        logger.removeHandler(handler)
        for thread in watchers():
            thread.join(30)
    assert "assert reported.wait(30)" in told[0]


def watched(clock: Clock) -> Heartbeat:
    return Heartbeat(lambda: "in user code", limit=1.0, every=0.25, clock=clock)


def test_a_blockage_is_told_of_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    heart = watched(clock)
    for _ in range(12):
        clock.now += 0.25
        heart.look()
    heart.beat()
    clock.now += 0.25
    heart.look()
    told = messages(caplog)
    assert len(told) == 2
    assert "has not turned for 1.0 s" in told[0]
    assert "in user code" in told[0]
    assert "turns again after 3.0 s" in told[1]


def test_a_process_that_was_stopped_blames_no_code(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    heart = watched(clock)
    clock.now += 20.25
    heart.look()
    heart.beat()
    clock.now += 0.25
    heart.look()
    (told,) = messages(caplog)
    assert "stood still for 20.0 s" in told


def test_its_lag_is_the_longest_since_it_was_last_asked() -> None:
    clock = Clock()
    heart = watched(clock)
    clock.now += 0.75
    heart.beat()
    assert heart.lag() == 0.5
    assert heart.lag() == 0.0
    clock.now += 2.0
    assert heart.lag() == 1.75  # not a word of the loop since


async def test_its_thread_ends_with_it() -> None:
    watch = LoopWatch(beat=0.01)
    watch.start()
    ((name, lag, _),) = watch.readings()
    assert name == "aixgo.loop.lag"
    assert lag >= 0
    (thread,) = watchers()
    watch.stop()
    thread.join(30)
    assert not thread.is_alive()
