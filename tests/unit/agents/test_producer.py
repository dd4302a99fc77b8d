"""The role `producer` and its schedules, with a clock and a sleep that the test moves."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from aixgo import errors
from aixgo.agent import Agent
from aixgo.agents.producer import ProducerAgent
from aixgo.agents.schedule import Cron, Interval
from aixgo.config.spec import AgentSpec
from aixgo.message import Message
from aixgo.testing import running
from hypothesis import given
from hypothesis import strategies as st

START = datetime(2026, 3, 1, 11, 58, 30, tzinfo=UTC).timestamp()


class Time:
    """A clock that only sleeping moves; each sleep takes `late` seconds longer than asked."""

    def __init__(self, now: float = START, late: float = 0.0) -> None:
        self.now = now
        self.late = late
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.slept.append(seconds)
        self.now += seconds + self.late


class Sink(Agent):
    """Keeps what it is sent, and says when it has enough."""

    def __init__(self, name: str = "sink", enough: int = 1) -> None:
        self.name = name
        self.got: list[Message] = []
        self.enough = enough
        self.full = asyncio.Event()

    async def execute(self, message: Message) -> Message:
        raise NotImplementedError

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            async with delivery as message:
                assert delivery.sender == ("p",)
                self.got.append(message)
                if len(self.got) >= self.enough:
                    self.full.set()


def producer(time: Time | None = None, targets: Sequence[str] = ("sink",), **config: Any) -> ProducerAgent:
    time = time or Time()
    outputs = [{"target": target} for target in targets]
    spec = AgentSpec.model_validate({"name": "p", "role": "producer", "outputs": outputs, "config": config})
    return ProducerAgent(spec, clock=time, now=time, sleep=time.sleep, jitter=lambda: 0.5)


async def test_it_sends_its_message_filled_in_at_each_interval_until_the_count():
    sink = Sink(enough=3)
    message = {"say": "{count} at {time}", "{time}": [1, "{count}"]}
    made = producer(interval="30s", count=3, message=message, timezone="Asia/Tokyo")
    async with running(sink, made):
        await asyncio.wait_for(sink.full.wait(), 10)
    assert [got.payload for got in sink.got] == [
        {"say": "1 at 2026-03-01T20:59:00+09:00", "{time}": [1, "1"]},
        {"say": "2 at 2026-03-01T20:59:30+09:00", "{time}": [1, "2"]},
        {"say": "3 at 2026-03-01T21:00:00+09:00", "{time}": [1, "3"]},
    ]
    assert dict(sink.got[0].metadata) == {"producer": "p", "count": 1, "time": "2026-03-01T20:59:00+09:00"}
    assert len({got.id for got in sink.got}) == 3


async def test_without_a_message_it_ticks():
    sink = Sink()
    async with running(sink, producer(interval=1, count=1)):
        await asyncio.wait_for(sink.full.wait(), 10)
    assert sink.got[0].payload == "tick"


async def test_by_cron_it_sends_when_the_calendar_says():
    sink = Sink(enough=2)
    async with running(sink, producer(cron="*/5 * * * *", count=2, message="{time}")):
        await asyncio.wait_for(sink.full.wait(), 10)
    assert [got.payload for got in sink.got] == ["2026-03-01T12:00:00+00:00", "2026-03-01T12:05:00+00:00"]


async def test_jitter_comes_after_the_time_and_does_not_add_up():
    time = Time()
    sink = Sink(enough=3)
    async with running(sink, producer(time, interval=10, jitter=4, count=3)):
        await asyncio.wait_for(sink.full.wait(), 10)
    assert time.slept == [10, 2, 8, 2, 8, 2]


async def test_an_output_that_is_absent_or_full_is_logged_and_the_others_get_theirs(caplog: pytest.LogCaptureFixture):
    class Full(Agent):
        name = "full"

        async def execute(self, message: Message) -> Message:
            raise NotImplementedError

    sink = Sink(enough=2)
    made = producer(targets=["nobody", "full", "sink"], interval=1, count=2)
    async with running(Full(), sink, made) as runtime:
        while True:
            try:
                await runtime.send("full", "x")
            except errors.MailboxFull:
                break
        await asyncio.wait_for(sink.full.wait(), 10)
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.partition(":")[0] for line in told] == [
        "producer p could not send to nobody",
        "producer p could not send to full",
    ] * 2


async def test_a_call_is_refused_in_a_typed_way():
    async with running(Sink(), producer(interval=60)) as runtime:
        with pytest.raises(errors.NotSupported, match="'p' is a producer"):
            await runtime.call("p", "x")


async def test_stopping_ends_it_while_it_waits():
    spec = AgentSpec.model_validate(
        {"name": "p", "role": "producer", "outputs": [{"target": "sink"}], "config": {"interval": "1h"}}
    )
    async with running(Sink(), ProducerAgent(spec)):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "either `interval` (for example 30s) or `cron`"),
        ({"interval": 1, "cron": "* * * * *"}, "either `interval` (for example 30s) or `cron`"),
        ({"interval": "soon"}, "interval: Value error, a duration is needed"),
        ({"cron": "* * *"}, "agents.p.config: cron: '* * *' cannot be used: Wrong number of fields"),
        ({"cron": "61 * * * *"}, "cron: '61 * * * *' cannot be used: Bad minute"),
        ({"cron": "0 0 30 2 *"}, "cron: '0 0 30 2 *' cannot be used"),
        ({"interval": 1, "timezone": "Rome"}, "there is no time zone 'Rome'"),
        ({"interval": 1, "timezone": "../../etc/passwd"}, "there is no time zone"),
        ({"interval": 1, "jitter": 1}, "jitter: it must be less than the interval"),
        ({"interval": 1, "count": 0}, "count: "),
        ({"intervall": 1}, "unknown key 'intervall'; did you mean 'interval'?"),
    ],
)
def test_a_configuration_that_cannot_be_used_says_what_to_write(config: dict[str, Any], told: str):
    with pytest.raises(errors.ConfigError) as caught:
        producer(**config)
    assert told in caught.value.message


def test_it_needs_outputs():
    with pytest.raises(errors.ConfigError, match=r"agents\.p\.outputs: a producer needs outputs"):
        producer(targets=[], interval=1)


def test_cron_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'aixgo\[cron\]'"):
        producer(cron="* * * * *")


async def moments(wait: Callable[[], Awaitable[None]], time: Time, work: Sequence[float]) -> list[float]:
    """When it was due, with so much work after each."""
    seen: list[float] = []
    for busy in work:
        await wait()
        seen.append(time.now)
        time.now += busy
    return seen


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 10))
def test_an_interval_keeps_its_grid_and_leaves_out_what_is_missed(work: list[int], seconds: int):
    time = Time(now=0)
    seen = asyncio.run(moments(Interval(seconds, time, time.sleep).wait, time, work))
    assert seen[0] == seconds
    for before, after, busy in zip(seen, seen[1:], work, strict=False):
        assert after > before or busy == 0
        assert after - (before + busy) <= seconds
    assert all(moment % seconds == 0 for moment, busy in zip(seen[1:], work, strict=False) if busy < seconds)


async def test_late_wake_ups_do_not_add_up():
    time = Time(now=0, late=0.25)
    seen = await moments(Interval(10, time, time.sleep).wait, time, [0] * 5)
    assert seen == [10.25, 20.25, 30.25, 40.25, 50.25]


def cron(expression: str, time: Time, zone: str) -> Cron:
    return Cron(expression, ZoneInfo(zone), time, time.sleep)


async def test_cron_at_a_time_that_a_change_of_clocks_skips_or_repeats_runs_once_a_day():
    for month, day in ((3, 28), (10, 24)):
        time = Time(datetime(2026, month, day, tzinfo=UTC).timestamp())
        seen = await moments(cron("30 2 * * *", time, "Europe/Rome").wait, time, [0] * 3)
        days = [datetime.fromtimestamp(one, ZoneInfo("Europe/Rome")).day for one in seen]
        assert days == [day, day + 1, day + 2]


async def test_cron_does_nothing_twice_when_the_clock_is_set_back():
    time = Time()
    schedule = cron("0 * * * *", time, "UTC")
    await schedule.wait()
    assert time.now == START + 90
    time.now -= 600
    await schedule.wait()
    assert time.now == START + 90 + 3600


async def test_cron_notices_that_the_clock_was_set_forward():
    time = Time()
    schedule = cron("0 0 * * *", time, "UTC")
    waiting = asyncio.create_task(schedule.wait())
    while len(time.slept) < 3:  # noqa: ASYNC110  # the fake sleep announces nothing
        await asyncio.sleep(0)
    time.now = START + 86_400
    await asyncio.wait_for(waiting, 10)
    assert max(time.slept) <= 30
