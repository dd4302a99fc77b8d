"""Logging of every aixgo process, set up in one place: lines of text for people, JSON for collectors, on stderr.

What looks like a key or a password does not get into a line. Libraries keep their own levels above WARNING; only
aixgo's loggers follow `level`. Above: the commands.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from aixgo.telemetry.log_fields import log_fields
from aixgo.telemetry.secrets import scrub

LogFormat = Literal["text", "json"]
PACKAGES = ("aixgo", "aixgo_controlplane", "aixgo_services")
_TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """A log record as one JSON object: `time` (UTC, ISO 8601), `level`, `logger`, `message`, `exception`.

    A line that a call wrote says which: `trace_id`, `span_id`, `agent`, `call_id`, `session_id`, as far as there are.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": scrub(record.getMessage()),
            **log_fields(),
        }
        if record.exc_info:
            told["exception"] = scrub(self.formatException(record.exc_info))
        return json.dumps(told, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A log record as lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The record, with its traceback below it."""
        return scrub(super().format(record))


def set_up_logs(level: str, form: LogFormat = "text", stream: TextIO | None = None) -> None:
    """Send the log to stderr (or `stream`), replacing an earlier set-up. `level` is that of aixgo's own loggers."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(_TEXT, "%H:%M:%S"))
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == "aixgo"]:
        root.removeHandler(old)
    handler.set_name("aixgo")
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level)
