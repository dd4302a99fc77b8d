"""Numbers from 0 to 1 as models give them: confidence, agreement, scores.

Owns the type of such a field in a schema. Above: agents and patterns that ask models how sure they are.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_SCALE_OF_TEN = 10.0


def _read(value: Any) -> Any:
    """A percentage as a share. Above 1 and up to 10 it may be meant on a scale of ten: it stays, and is refused."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value / 100 if number and _SCALE_OF_TEN < value <= 100 else value


Share = Annotated[float, BeforeValidator(_read), Field(ge=0, le=1)]
"""A number from 0 to 1. Small models, asked for one, say 80 where they mean 80 %; that is understood."""
