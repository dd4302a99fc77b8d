"""The role `logger`: writes down the messages that it gets.

Owns LoggerAgent, its configuration, and what of a message is written.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any, Literal

from pydantic import Field

from aixgo.agents.base import ReadyAgent, RoleConfig, read_config, reply_to
from aixgo.call import current
from aixgo.config.spec import AgentSpec
from aixgo.errors import AixgoError, WrongState
from aixgo.llm.models import Models
from aixgo.message import Message, to_json

log = logging.getLogger(__name__)
messages_log = logging.getLogger("aixgo.messages")
"""Where the messages go in Python's logging."""

Part = Literal["id", "sender", "session_id", "metadata", "payload"]
_CONTENT = frozenset({"metadata", "payload"})


class LoggerConfig(RoleConfig):
    """`config:` of the role `logger`."""

    level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Of the log entries.")
    format: Literal["text", "json"] = Field(
        default="text", description="text: key=value after the agent's name; json: one object in a line."
    )
    fields: tuple[Part, ...] = Field(
        default=("sender", "id", "payload"), min_length=1, description="What is written, in this order."
    )
    content: bool = Field(default=True, description="false leaves payloads and metadata out, which may be secret.")
    max_length: int = Field(
        default=2000, ge=1, le=1_000_000, description="Characters of a payload, and of metadata, that are written."
    )
    file: str = Field(default="", description="A file to append to as well: one JSON object a line, with the time.")


class LoggerAgent(ReadyAgent):
    """Writes each message of its mailbox, and each that it is called with, to Python's logging (`aixgo.messages`) and,
    with `file`, to a file that only its owner can read.

    A call is answered with the message unchanged, so it can stand anywhere in a sequence; a message of the mailbox goes
    on to the `outputs`. Raises WrongState when the file cannot be written; the constructor ConfigError.
    """

    role = "logger"

    def __init__(self, spec: AgentSpec, *, models: Models | None = None, now: Callable[[], float] = time) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, LoggerConfig)
        self._level = logging.getLevelNamesMapping()[self.config.level.upper()]
        self._fields: Sequence[Part] = [
            name for name in self.config.fields if self.config.content or name not in _CONTENT
        ]
        self._now = now

    @property
    def reactive(self) -> bool:
        """Always: messages may come from anywhere."""
        return True

    async def execute(self, message: Message) -> Message:
        """Write `message` and answer with it."""
        state = current()
        await self._write(message, state.path[:-1] if state else ())
        return reply_to(message, message.payload, message.metadata)

    async def start(self) -> None:
        """Write the messages of the mailbox until cancelled."""
        async for delivery in self.runtime.recv():
            try:
                async with delivery as message:
                    if self._takes(delivery.sender):
                        await self._write(message, delivery.sender)
                        for output in self.spec.outputs:
                            await self.runtime.send(output.target, message)
            except AixgoError:
                log.exception("agent %s could not log message %s", self.name, delivery.message.id)

    async def _write(self, message: Message, sender: Sequence[str]) -> None:
        entry = self._entry(message, sender)
        if self.config.format == "json":
            messages_log.log(self._level, "%s", to_json({"agent": self.name, **entry}).decode())
        else:
            parts = " ".join(f"{key}={to_json(value).decode()}" for key, value in entry.items())
            messages_log.log(self._level, "%s: %s", self.name, parts)
        if self.config.file:
            moment = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
            line = to_json({"time": moment, "agent": self.name, **entry}) + b"\n"
            try:
                await asyncio.to_thread(_append, Path(self.config.file), line)
            except OSError as error:
                raise WrongState(
                    f"agent {self.name!r} cannot write to {self.config.file}: {error.strerror}; check config.file"
                ) from error

    def _entry(self, message: Message, sender: Sequence[str]) -> dict[str, Any]:
        return {name: self._part(name, message, sender) for name in self._fields}

    def _part(self, name: Part, message: Message, sender: Sequence[str]) -> Any:
        match name:
            case "id":
                return message.id
            case "sender":
                return sender[-1] if sender else ""
            case "session_id":
                return message.session_id
            case "metadata":
                return self._cut(dict(message.metadata))
            case "payload":
                return self._cut(message.text if isinstance(message.payload, bytes) else message.payload)

    def _cut(self, value: Any) -> Any:
        """`value` itself, or the beginning of its text where that is too long."""
        text = value if isinstance(value, str) else to_json(value).decode()
        more = len(text) - self.config.max_length
        return value if more <= 0 else f"{text[: self.config.max_length]}... ({more} more characters)"


def _append(path: Path, line: bytes) -> None:
    """Append in one write, so that lines of several processes do not mix; opened anew, because logs are rotated."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
