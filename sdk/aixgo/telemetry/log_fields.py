"""What a line of the log says of the call that wrote it: its trace, its place in the call tree, its id.

Owns the id of the call that this task serves. Above: the server, which says it, and the JSON log of the processes; an
application with a log of its own adds `LogFields` to its handler. Below: spans and the call's state.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from aixgo.call import current, current_path
from aixgo.telemetry.spans import current_ids

_CALL_ID: ContextVar[str] = ContextVar("aixgo_call_id", default="")


def serves(call_id: str) -> None:
    """Say which call this task serves, for good."""
    _CALL_ID.set(call_id)


def log_fields() -> dict[str, str]:
    """`trace_id`, `span_id`, `agent` (the path to it, joined by /), `call_id` and `session_id`, as far as there are."""
    trace_id, span_id = current_ids()
    state = current()
    fields = {
        "trace_id": trace_id,
        "span_id": span_id,
        "agent": "/".join(current_path()),
        "call_id": _CALL_ID.get(),
        "session_id": state.session_id if state else "",
    }
    return {name: value for name, value in fields.items() if value}


class LogFields(logging.Filter):
    """Adds `log_fields` to every record as attributes, each empty where there is none: `%(trace_id)s` then works."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Fill the record in; never holds it back."""
        record.__dict__.update(dict.fromkeys(("trace_id", "span_id", "agent", "call_id", "session_id"), ""))
        record.__dict__.update(log_fields())
        return True
