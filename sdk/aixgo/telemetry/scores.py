"""Scores: how good something was, said by the code that knows, beside the time and the cost of its span.

Owns the attributes that a score is written into. Langfuse makes scores of its own of them (`observations.py`); every
other reader of spans finds them where they are. At no cost while nobody collects spans.
"""

from __future__ import annotations

import math

from aixgo.errors import InvalidInput
from aixgo.telemetry import spans

QUALITY = "quality."
"""What the attribute of a score begins with; the dimension follows."""
COMMENT = ".comment"
"""What the attribute of a score's comment ends with."""
MAX_DIMENSION, MAX_COMMENT = 100, 1000
"""Characters of a dimension's name and of a comment, which is cut."""


def record_score(dimension: str, value: float, comment: str = "") -> None:
    """Say how good the work of the current span is, for example `record_score("relevance", 0.8)`.

    Inside an agent that is the agent's call. The score is the attribute `quality.{dimension}` of the span, and in
    Langfuse a score of its trace; said again, the last one counts. Raises InvalidInput for a name that is empty or
    longer than 100 characters, and for a value that is no finite number.
    """
    if not 0 < len(dimension) <= MAX_DIMENSION or not dimension.isprintable():
        raise InvalidInput(f"dimension: give 1 to {MAX_DIMENSION} printable characters, not {dimension[:40]!r}")
    if not math.isfinite(value):
        raise InvalidInput(f"value of {dimension!r} is {value}; a score is a finite number")
    if not spans.enabled():
        return
    from opentelemetry import trace  # loaded by whoever enabled it

    span = trace.get_current_span()
    span.set_attribute(QUALITY + dimension, float(value))
    if comment:
        span.set_attribute(QUALITY + dimension + COMMENT, comment[:MAX_COMMENT])
