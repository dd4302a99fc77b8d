"""Which turns of a long conversation a model is shown.

Pure arithmetic. Above: `aixgo.agents.memory`.
"""

from __future__ import annotations

from collections.abc import Sequence

from aixgo.conversation import Turn
from aixgo.llm.metering import estimate_tokens
from aixgo.sessions.contract import from_first_user

TOKENS_PER_TURN = 4
"""What a turn costs beyond its text: its role and the marks around it. The estimate of `aixgo.llm.metering`."""


def newest_within(turns: Sequence[Turn], tokens: int) -> tuple[Turn, ...]:
    """The newest of `turns` that have no more than about `tokens` tokens together; they begin with a user's turn."""
    left, start = tokens, len(turns)
    while start and (left := left - estimate_tokens(turns[start - 1].content) - TOKENS_PER_TURN) >= 0:
        start -= 1
    return from_first_user(turns[start:])
