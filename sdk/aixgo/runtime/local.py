"""LocalRuntime: every agent in this process, called directly, nothing serialised."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from aixgo.agent import Agent
from aixgo.call import CallState
from aixgo.errors import NotSupported
from aixgo.events import Event
from aixgo.message import Message
from aixgo.runtime.base import BaseRuntime
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.entry import typed


class LocalRuntime(BaseRuntime):
    """The Runtime contract in one process.

    A call adds a few microseconds to the agent's own work. What lies beyond the process is refused, typed: `connect`
    and `disconnect` raise NotSupported, names that are not registered AgentNotFound.
    """

    async def connect(self, name: str, address: str) -> None:
        raise NotSupported(f"LocalRuntime calls no other process ({name} at {address}); use DistributedRuntime")

    async def disconnect(self, name: str) -> None:
        raise NotSupported(f"LocalRuntime calls no other process ({name}); use DistributedRuntime")

    async def _call_elsewhere(self, target: str, message: Message, state: CallState, options: CallOptions) -> Message:
        raise typed(self._unknown(target), state)

    async def _stream_elsewhere(
        self, target: str, message: Message, state: CallState, options: CallOptions
    ) -> AsyncGenerator[Event]:
        raise typed(self._unknown(target), state)
        yield

    async def _send_elsewhere(self, target: str, message: Message) -> None:
        raise self._unknown(target)

    def _proxy(self, name: str) -> Agent:
        raise self._unknown(name)

    def _names_elsewhere(self) -> Sequence[str]:
        return ()
