"""Durations as people write them: "5m", "30s", "250ms", "1d", or a number of seconds."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]{1,6})?)\s*(?P<unit>ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, None: 1.0}


def parse_duration(value: Any) -> float:
    """Seconds, more than 0. Raises ValueError, which says how durations are written."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("a duration is needed: seconds, or text like 250ms, 30s, 5m, 1h")
        seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if not 0 < seconds < float("inf"):
        raise ValueError("a duration must be more than 0")
    return seconds


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": r"^[0-9.]+ *(ms|s|m|h|d)?$"},
            ]
        }
    ),
]
"""A field that takes a duration and holds seconds."""
