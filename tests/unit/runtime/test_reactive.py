"""Supervising reactive agents: restarted after growing pauses, stopped for good."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aixgo import Agent, Message
from aixgo import call as ambient
from aixgo.runtime import reactive as module
from aixgo.runtime.reactive import LONGEST_PAUSE, ReactiveTasks


class Feed(Agent):
    name = "feed"

    def __init__(self, failures: int, clock: list[float] | None = None, runs_for: float = 0.0) -> None:
        self.failures = failures
        self.starts = 0
        self.stopped = False
        self.finished = asyncio.Event()
        self.path: tuple[str, ...] = ()
        self._clock = clock if clock is not None else [0.0]
        self._runs_for = runs_for

    async def execute(self, message: Message) -> Message:
        return message

    async def start(self) -> None:
        self.starts += 1
        self.path = ambient.current_path()
        self._clock[0] += self._runs_for
        if self.starts <= self.failures:
            raise ConnectionError("feed is gone")
        self.finished.set()

    async def stop(self) -> None:
        self.stopped = True


class Pauses(list[float]):
    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


async def test_a_start_that_raises_is_run_again_after_doubling_pauses() -> None:
    pauses, feed = Pauses(), Feed(failures=9)
    tasks = ReactiveTasks(sleep=pauses, jitter=lambda: 0.5, clock=lambda: 0.0)
    tasks.launch(feed)
    await feed.finished.wait()
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    assert feed.path == ("feed",)


async def test_pauses_are_jittered_by_half() -> None:
    for jitter, pause in ((0.0, 0.25), (1.0, 0.75)):
        pauses, feed = Pauses(), Feed(failures=1)
        ReactiveTasks(sleep=pauses, jitter=lambda jitter=jitter: jitter).launch(feed)
        await feed.finished.wait()
        assert pauses == [pause]


async def test_a_start_that_ran_well_for_long_is_run_again_soon() -> None:
    clock = [0.0]
    pauses, feed = Pauses(), Feed(failures=4, clock=clock, runs_for=LONGEST_PAUSE + 1)
    ReactiveTasks(sleep=pauses, jitter=lambda: 0.5, clock=lambda: clock[0]).launch(feed)
    await feed.finished.wait()
    assert pauses == [0.5, 0.5, 0.5, 0.5]


async def test_a_start_that_returns_is_done() -> None:
    pauses, feed = Pauses(), Feed(failures=0)
    tasks = ReactiveTasks(sleep=pauses)
    tasks.launch(feed)
    await feed.finished.wait()
    await tasks.stop(feed)
    assert (feed.starts, pauses, feed.stopped) == (1, [], True)


async def test_stopping_ends_a_running_start_before_stop_is_called() -> None:
    order: list[str] = []

    class Runs(Feed):
        async def start(self) -> None:
            self.finished.set()
            try:
                await asyncio.Event().wait()
            finally:
                order.append("start ended")

        async def stop(self) -> None:
            order.append("stop")

    agent, tasks = Runs(0), ReactiveTasks()
    tasks.launch(agent)
    await agent.finished.wait()
    await tasks.stop(agent)
    assert order == ["start ended", "stop"]


async def test_a_start_that_ignores_its_end_and_a_stop_that_fails_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT", 0.01)
    release = asyncio.Event()

    class Stubborn(Feed):
        async def start(self) -> None:
            self.finished.set()
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        async def stop(self) -> None:
            raise OSError("still open")

    agent, tasks = Stubborn(0), ReactiveTasks()
    tasks.launch(agent)
    await agent.finished.wait()
    with caplog.at_level(logging.WARNING):
        await tasks.stop(agent)
    assert "start() of agent feed ignores its cancellation" in caplog.text
    assert "stop() of agent feed failed" in caplog.text
    release.set()


async def test_an_agent_that_was_never_launched_is_stopped_all_the_same() -> None:
    feed = Feed(0)
    await ReactiveTasks().stop(feed)
    assert feed.stopped
