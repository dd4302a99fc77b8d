"""Pumping a stream: its events run in a task of their own and wait, bounded, for the caller.

Owns the EventStream of both runtimes. A task of its own, because a context variable set inside an async generator leaks
to whoever iterates it, and because the caller may stop reading at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

from aixgo.call import CallState, set_state
from aixgo.errors import AixgoError, CallCancelled, InternalError, StreamBroken
from aixgo.events import Event, Result
from aixgo.message import Message
from aixgo.runtime.entry import CANCEL_GRACE, LOOKS, cancel_task, past_deadline, typed

log = logging.getLogger(__name__)

BUFFER = 64
"""Events that may wait for the caller before the agent has to wait for it."""
ROOM = BUFFER // 2
"""Events that wait when the agent may go on: were it let on for each, the two would take turns event by event."""


class PumpedStream:
    """The events of one call. `timed` says that its deadline is its own to enforce: nobody above does."""

    def __init__(
        self,
        source: Callable[[], AsyncGenerator[Event]],
        state: CallState,
        *,
        timed: bool,
        ended: Callable[[bool], None],
    ) -> None:
        self._source = source
        self._state = state
        self._timed = timed
        self._ended = ended
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: AixgoError | None = None
        self._done = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self.result: Message | None = None

    @property
    def instance_id(self) -> str:
        """The instance that the call went to, once it is known."""
        return self._state.instance_id

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._pump(), name=f"stream {'/'.join(self._state.path)}")
        if self._timed:
            self._timer = loop.call_at(self._state.deadline, self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and not self._task.done():
            await cancel_task(self._task, self._state)
        if not self._done:
            self._finish(CallCancelled("the caller left the stream before its end"))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self._done:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        if len(self._events) == ROOM:
            self._room.set()
        if isinstance(event, Result):
            self.result = event.message
        return event

    async def _pump(self) -> None:
        set_state(self._state)
        failure: AixgoError | None = None
        try:
            await self._forward()
        except asyncio.CancelledError:
            failure = typed(CallCancelled("cancelled"), self._state)
            if not self._late:
                raise
        except AixgoError as error:
            failure = error
        except Exception as error:
            log.exception("the stream of %s failed in aixgo", "/".join(self._state.path))
            failure = typed(InternalError(f"{type(error).__name__}: {error}"), self._state)
        finally:
            self._finish(past_deadline(self._state) if self._late else failure)

    async def _forward(self) -> None:
        waiting = self._events
        async with aclosing(self._source()) as events:
            async for event in events:
                while len(waiting) >= BUFFER:
                    self._room.clear()
                    await self._room.wait()
                if not waiting:  # only then does the caller wait
                    self._arrived.set()
                waiting.append(event)
                if isinstance(event, Result):
                    return
        raise typed(StreamBroken("the stream ended without a Result"), self._state)

    def _expire(self) -> None:
        """Stop the agent. The stream ends when it has stopped and its spending is known, or has ignored that."""
        self._late = True
        if self._task is not None and not self._done:
            self._task.cancel()
            self._look(LOOKS)

    def _look(self, looks: int) -> None:
        """Wait CANCEL_GRACE for the agent's end, in so many looks."""
        if self._done:
            return
        if looks:
            self._timer = asyncio.get_running_loop().call_later(CANCEL_GRACE / LOOKS, self._look, looks - 1)
        else:
            self._give_up()

    def _give_up(self) -> None:
        self._state.ledger.write_off()
        self._finish(past_deadline(self._state))

    def _finish(self, failure: AixgoError | None) -> None:
        if self._done:
            return
        self._done, self._failure = True, failure
        self._arrived.set()
        self._ended(failure is None)
