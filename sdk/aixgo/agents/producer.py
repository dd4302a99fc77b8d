"""The role `producer`: sends a message to its outputs, again and again.

Owns ProducerAgent, its configuration, and how its messages are filled in. Below: `schedule.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from aixgo.agents.base import ReadyAgent, RoleConfig, read_config
from aixgo.agents.schedule import Cron, Interval, Schedule, Sleep
from aixgo.config.duration import Duration
from aixgo.config.spec import AgentSpec
from aixgo.errors import AixgoError, ConfigError, NotSupported
from aixgo.llm.models import Models
from aixgo.message import JSON, Message
from aixgo.telemetry.spans import span

log = logging.getLogger(__name__)


class ProducerConfig(RoleConfig):
    """`config:` of the role `producer`: when, and what."""

    interval: Duration | None = Field(default=None, description="Seconds between two messages, or text like 30s or 5m.")
    cron: str = Field(default="", description="When to send instead: minute hour day month weekday, as in cron.")
    timezone: str = Field(default="UTC", description="Of `cron` and of {time}, for example Europe/Rome.")
    message: JSON = Field(
        default="tick", description="The payload: text, or a JSON value. {time} and {count} in its texts are filled in."
    )
    count: int | None = Field(default=None, ge=1, description="After so many times it is done; never when left out.")
    jitter: Duration | None = Field(
        default=None, description="Up to so much later, at random: seconds, or text like 5s."
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"there is no time zone {value!r}; write one like UTC or Europe/Rome") from error
        return value

    @model_validator(mode="after")
    def _when(self) -> ProducerConfig:
        if (self.interval is None) == (not self.cron):
            raise ValueError("a producer needs either `interval` (for example 30s) or `cron`; give one of them")
        if self.interval is not None and self.jitter is not None and self.jitter >= self.interval:
            raise ValueError("jitter: it must be less than the interval")
        return self


class ProducerAgent(ReadyAgent):
    """Sends its message to each of its `outputs`, at an interval or by cron, for as long as its process runs.

    Times do not drift; those that pass while it is busy are left out. An output that is absent or does not keep up is
    logged, and the others get theirs. The messages' metadata: `producer`, `count` (from 1) and `time`. Each replica
    sends on its own. `execute` raises NotSupported. The constructor raises ConfigError.
    """

    role = "producer"

    def __init__(
        self,
        spec: AgentSpec,
        *,
        models: Models | None = None,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], float] = time,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, ProducerConfig)
        if not spec.outputs:
            raise ConfigError(f"agents.{spec.name}.outputs: a producer needs outputs: [{{target: NAME}}]")
        self._zone = ZoneInfo(self.config.timezone)
        self._now, self._sleep, self._jitter = now, sleep, jitter
        self._schedule = self._scheduled(clock)
        self._count = 0

    async def execute(self, message: Message) -> Message:
        """Raises NotSupported: a producer is not called."""
        raise NotSupported(f"agent {self.name!r} is a producer: it sends messages and does not answer any")

    async def start(self) -> None:
        """Send until `count` is reached, or for good."""
        while self.config.count is None or self._count < self.config.count:
            await self._schedule.wait()
            if self.config.jitter is not None:
                await self._sleep(self._jitter() * self.config.jitter)
            self._count += 1
            await self._send(self._message())

    async def _send(self, message: Message) -> None:
        with span(f"produce {self.name}", {"gen_ai.agent.name": self.name, "producer.count": self._count}):
            for output in self.spec.outputs:
                try:
                    await self.runtime.send(output.target, message)
                except AixgoError as error:
                    log.warning("producer %s could not send to %s: %s", self.name, output.target, error)

    def _message(self) -> Message:
        moment = datetime.fromtimestamp(self._now(), UTC).astimezone(self._zone).isoformat(timespec="seconds")
        payload = _filled(self.config.message, {"{time}": moment, "{count}": str(self._count)})
        return Message(payload, {"producer": self.name, "count": self._count, "time": moment})

    def _scheduled(self, clock: Callable[[], float]) -> Schedule:
        if self.config.interval is not None:
            return Interval(self.config.interval, clock, self._sleep)
        try:
            return Cron(self.config.cron, self._zone, self._now, self._sleep)
        except ConfigError as error:
            raise ConfigError(f"agents.{self.name}.config: {error.message}") from error


def _filled(value: JSON, words: Mapping[str, str]) -> Any:
    """`value` with the words in its texts, however deep, replaced; keys stay."""
    if isinstance(value, str):
        for word, text in words.items():
            value = value.replace(word, text)
        return value
    if isinstance(value, Mapping):
        return {key: _filled(each, words) for key, each in cast("Mapping[str, Any]", value).items()}
    return [_filled(each, words) for each in value] if isinstance(value, list) else value
