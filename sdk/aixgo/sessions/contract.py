"""What every session store promises, and the records that it keeps.

A session is one conversation, named by the caller (`Message.session_id`). Each agent has turns of its own in it: a
store's key is (session id, agent name). Owns no storage; `in_memory.py`, `sqlite.py` and `postgres.py` implement the
contract, `aixgo.agents.memory` (above) uses it, and one suite of tests holds all of them to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from aixgo.conversation import Turn
from aixgo.errors import InvalidInput, MessageTooLarge, Unavailable

MAX_TURNS = 200
"""Turns of one agent in one session that are kept when nobody says otherwise; the oldest go first."""
MAX_TURN_BYTES = 1024 * 1024
"""Bytes of UTF-8 that one turn may have when nobody says otherwise."""
MAX_SESSIONS = 10_000
"""Sessions that are kept in memory when nobody says otherwise; the one that was used longest ago goes first."""
MAX_ID_LENGTH = 256
"""Characters that a session id may have."""


class SessionLost(Unavailable):
    """The call no longer held its session when it wanted to remember its turns, so nothing was written.

    Its lease ran out because the process stood still, or the connection to the database broke.
    """


class SessionStoreUnavailable(Unavailable):
    """The session store cannot be reached, or does not answer in time."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What a store keeps. `ttl` is in seconds since the last turn of a session; None keeps sessions for good.

    `max_sessions` bounds the store in memory; the others are bounded by their disk.
    """

    ttl: float | None = None
    max_turns: int = MAX_TURNS
    max_turn_bytes: int = MAX_TURN_BYTES
    max_sessions: int = MAX_SESSIONS

    def __post_init__(self) -> None:
        if self.ttl is not None and self.ttl <= 0:
            raise InvalidInput(f"sessions.ttl: {self.ttl} s is no time to live; give more than 0, or leave it out")
        for name, least in (("max_turns", 2), ("max_turn_bytes", 1), ("max_sessions", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(f"sessions.{name}: {getattr(self, name)} is too few; give at least {least}")


class SessionKey(NamedTuple):
    """Whose turns these are."""

    session_id: str
    agent: str


class HeldSession(Protocol):
    """The session of one agent while one call holds it; no other call of that session reaches the agent meanwhile."""

    @property
    def turns(self) -> Sequence[Turn]:
        """The turns until now, oldest first; the first one is a user's. What an earlier attempt at the same message
        left is not among them.
        """
        ...

    async def add(self, turns: Sequence[Turn]) -> None:
        """Remember turns: all of them or, when it raises, none. They replace what an earlier attempt at the same
        message left, so that a message that is tried again is not remembered twice. Call it once.

        Raises MessageTooLarge, SessionLost, SessionStoreUnavailable.
        """
        ...


class SessionStore(Protocol):
    """Where the turns of sessions are. One for a process; `close` it at the end."""

    limits: SessionLimits
    """What it keeps. A text over `max_turn_bytes` is better refused before a model is asked about it."""

    def hold(self, session_id: str, agent: str, message_id: str = "") -> AbstractAsyncContextManager[HeldSession]:
        """Wait until no other call holds that agent's session, then hold it for the `async with` block, to answer the
        message of that id.

        Calls of one process get it in the order in which they came; calls of other sessions do not wait. Waiting ends
        at once when it is cancelled. Raises InvalidInput for an id that cannot be used, SessionStoreUnavailable.
        """
        ...

    async def clear(self, session_id: str) -> int:
        """Forget what every agent remembers of a session; how many turns that were. A call that is running in it is
        not stopped, and remembers its own turns when it ends. Raises as `hold` does.
        """
        ...

    async def close(self) -> None:
        """Give back what the store holds open. Using it again opens it again."""
        ...


def key_of(session_id: str, agent: str) -> SessionKey:
    """The key of an agent's turns; raises InvalidInput for a session id that cannot be stored."""
    if not 0 < len(session_id) <= MAX_ID_LENGTH or not session_id.isprintable():
        raise InvalidInput(f"session_id: give 1 to {MAX_ID_LENGTH} printable characters, not {session_id[:40]!r}")
    return SessionKey(session_id, agent)


def usable_id(message_id: str) -> str:
    """A message's id as it is stored; one that cannot be counts as none."""
    return message_id if len(message_id) <= MAX_ID_LENGTH and message_id.isprintable() else ""


def check_size(content: str, limits: SessionLimits) -> None:
    """Raise MessageTooLarge for a text that no turn may have."""
    size = len(content.encode(errors="replace"))
    if size > limits.max_turn_bytes:
        raise MessageTooLarge(
            f"a turn of {size} bytes cannot be remembered, {limits.max_turn_bytes} are allowed; send less, raise"
            " sessions.max_turn_bytes, or set `memory: false` for the agent"
        )


def storable(turns: Sequence[Turn], limits: SessionLimits) -> list[Turn]:
    """`turns` as every store can hold them: NUL and lone surrogates become U+FFFD. Raises MessageTooLarge."""
    for turn in turns:
        check_size(turn.content, limits)
    return [replace(turn, content=_clean(turn.content)) for turn in turns]


def from_first_user(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """`turns` without answers at the beginning whose question is no longer there."""
    start = next((at for at, turn in enumerate(turns) if turn.role == "user"), len(turns))
    return tuple(turns[start:])


def _clean(text: str) -> str:
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")
