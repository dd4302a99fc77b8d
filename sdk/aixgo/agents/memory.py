"""What an agent with a model remembers of a session: the turns before a message, and the exchange after it.

Owns when there is something to remember, and how much of it the model is shown. Below: `aixgo.sessions`; above: the
roles `llm` and `react`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from pydantic import Field

from aixgo.agents.base import RoleConfig
from aixgo.agents.turns import as_chat
from aixgo.asked import QUESTION, RESPONSE_SCHEMA
from aixgo.call import current
from aixgo.conversation import KEY as CONVERSATION
from aixgo.conversation import Turn
from aixgo.llm.contract import ChatMessage
from aixgo.message import Message
from aixgo.sessions.contract import HeldSession, SessionStore, check_size
from aixgo.sessions.in_memory import InMemorySessions
from aixgo.sessions.window import newest_within

WINDOW = 4000
"""Tokens of earlier turns that a model is shown when nobody says otherwise."""


class MemoryConfig(RoleConfig):
    """The part of `config:` that every role with a memory has."""

    memory: bool = Field(
        default=True, description="Whether the agent remembers the session of a message, if it has one."
    )
    window: int = Field(
        default=WINDOW, ge=0, description="About how many tokens of earlier turns the model is shown, the newest first."
    )


class Recollection:
    """What is remembered while one message is answered. `turns` go before the message."""

    def __init__(
        self, turns: Sequence[ChatMessage] = (), question: str = "", session: HeldSession | None = None
    ) -> None:
        self.turns = turns
        self._question = question
        self._session = session

    async def keep(self, answer: str) -> None:
        """Remember the message and its answer, both or neither; nothing where the answer is empty, as that of a model
        is which hands over. Raises MessageTooLarge, SessionLost, SessionStoreUnavailable.
        """
        if self._session is not None and answer:
            await self._session.add([Turn("user", self._question), Turn("assistant", answer)])


class Memory:
    """The memory of one agent, in the process's session store; without one it makes a store in memory for itself."""

    def __init__(self, agent: str, config: MemoryConfig, sessions: SessionStore | None = None) -> None:
        self._agent = agent
        self._config = config
        self._sessions: SessionStore = InMemorySessions() if sessions is None else sessions
        self._owned = sessions is None

    @asynccontextmanager
    async def recalled(self, message: Message) -> AsyncGenerator[Recollection]:
        """Hold the session of `message` for the `async with` block, in which it is answered.

        What is remembered of it is its metadata `question`, where a pattern has written more around that, else its
        text. There is nothing to remember without a session id, with `memory: false`, when the message brings a
        `conversation` or a `response_schema`, and in a call that the agent's own answer has led back to it: that one
        would wait for its session for good. Raises InvalidInput, MessageTooLarge, SessionStoreUnavailable.
        """
        session_id = self._session_of(message)
        if not session_id:
            yield Recollection()
            return
        check_size(message.text, self._sessions.limits)  # before anything is spent on it
        async with self._sessions.hold(session_id, self._agent, message.id) as session:
            turns = newest_within(session.turns, self._config.window)
            asked = message.metadata.get(QUESTION)
            question = asked if isinstance(asked, str) and asked else message.text
            yield Recollection([as_chat(self._agent, turn) for turn in turns], question, session)

    async def close(self) -> None:
        """Close the store that the memory made itself."""
        if self._owned:
            await self._sessions.close()

    def _session_of(self, message: Message) -> str:
        if (
            not self._config.memory
            or message.metadata.get(CONVERSATION) is not None
            or RESPONSE_SCHEMA in message.metadata
        ):
            return ""
        state = current()
        if state is None:
            return message.session_id
        return "" if self._agent in state.path[:-1] else message.session_id or state.session_id
