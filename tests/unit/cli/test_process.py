"""Supervision of one process, with processes and a clock that the test controls."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest
from aixgo_services.process import AixgoProcess, Backoff, Child, ProcessSpec

SPEC = ProcessSpec("worker", ("serve",))


class FakeProcess:
    """Writes and ends when the test says so."""

    def __init__(self, pid: int, stubborn: bool) -> None:
        self.pid = pid
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.signals: list[str] = []
        self._stubborn = stubborn

    def end(self, code: int, *lines: str) -> None:
        for line in (*lines, ""):
            self.lines.put_nowait(line)
        if not self.code.done():
            self.code.set_result(code)

    async def line(self) -> str:
        return await self.lines.get()

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    def terminate(self) -> None:
        self.signals.append("TERM")
        if not self._stubborn:
            self.end(0)

    def kill(self) -> None:
        if not self.code.done():
            self.signals.append("KILL")
            self.end(-9)


class World:
    """Spawns fakes, keeps time, and notes pauses and lines."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.told: list[str] = []
        self._stubborn = stubborn
        self._started: asyncio.Queue[FakeProcess] = asyncio.Queue()
        self._pids = iter(range(100, 200))
        self.child = Child(SPEC, spawn=self.spawn, on_line=self.note, clock=lambda: self.now, sleep=self.sleep)

    async def spawn(self, _spec: ProcessSpec) -> FakeProcess:
        process = FakeProcess(next(self._pids), self._stubborn)
        self._started.put_nowait(process)
        return process

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def note(self, _name: str, line: str) -> None:
        self.told.append(line)

    async def started(self) -> FakeProcess:
        async with asyncio.timeout(5):
            return await self._started.get()


def test_pauses_grow_to_30_s_and_begin_anew_after_a_healthy_minute():
    backoff = Backoff()
    assert [backoff.after(1) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.after(60) == 0.5
    assert backoff.after(59.9) == 1


async def test_a_process_that_ends_is_started_again_after_a_growing_pause():
    world = World()
    world.child.start()
    for code in (1, -9, 0):
        (await world.started()).end(code, "a line\n")
    last = await world.started()
    assert world.pauses == [0.5, 1.0, 2.0]
    assert world.child.restarts == 3
    assert world.child.pid == last.pid
    assert "ended with exit code -9; it is started again in 1 s" in world.told
    await world.child.stop(5)


async def test_its_lines_are_told():
    world = World()
    world.child.start()
    (await world.started()).end(1, "one\n", "two\n")
    await world.started()
    assert world.told[:2] == ["one", "two"]
    await world.child.stop(5)


async def test_a_stopped_process_drains_and_is_not_started_again():
    world = World()
    world.child.start()
    process = await world.started()
    await asyncio.sleep(0)
    await world.child.stop(5)
    assert process.signals == ["TERM"]
    assert world.child.pid is None
    assert world.pauses == []


async def test_a_process_that_does_not_drain_in_time_is_killed():
    world = World(stubborn=True)
    world.child.start()
    process = await world.started()
    await asyncio.sleep(0)
    await world.child.stop(0.01)
    assert process.signals == ["TERM", "KILL"]
    assert "did not stop within 0.01 s and is killed" in world.told


async def test_a_process_that_waits_to_be_started_again_stops_at_once():
    world = World()
    waiting = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    child = Child(SPEC, spawn=world.spawn, on_line=world.note, clock=lambda: 0.0, sleep=sleep)
    child.start()
    (await world.started()).end(1)
    async with asyncio.timeout(5):
        await waiting.wait()
        await child.stop(60)


async def test_wrong_usage_is_told_with_its_last_lines():
    world = World()
    world.child.start()
    (await world.started()).end(2, "aixgo: mesh.yaml:3: unknown key\n")
    async with asyncio.timeout(5):
        assert await world.child.failed == "aixgo: mesh.yaml:3: unknown key"
    await world.child.stop(5)


async def test_a_child_that_was_never_started_can_be_stopped():
    await World().child.stop(5)


@pytest.fixture
def spawned() -> Callable[..., Awaitable[AixgoProcess]]:
    def spawn(*arguments: str) -> Awaitable[AixgoProcess]:
        return AixgoProcess.spawn(ProcessSpec("child", arguments, environment=dict(os.environ)))

    return spawn


async def test_a_real_process_is_read_to_its_end(spawned: Callable[..., Awaitable[AixgoProcess]]):
    process = await spawned("config", "schema")
    lines: list[str] = []
    async with asyncio.timeout(60):
        while line := await process.line():
            lines.append(line)
        assert await process.wait() == 0
    assert lines[0] == "{\n"
    process.terminate()
    process.kill()
