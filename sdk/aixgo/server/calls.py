"""Serving calls, whatever transport they came by: limits, deadline, errors, telemetry and accounting.

Owns what runs in this process on behalf of callers outside it. Above it lie the servicers, which only map; below it
`callees.py`, which answers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

from aixgo.call import CallState
from aixgo.errors import CallCancelled, InstanceDraining, Overloaded
from aixgo.events import Event
from aixgo.message import Message
from aixgo.runtime.entry import past_deadline, typed
from aixgo.runtime.mailbox import Letter
from aixgo.server.callees import NO_TRACE, Callees, IncomingCall, refused
from aixgo.telemetry import spans
from aixgo.usage import Ledger, Usage

MAX_CONCURRENT_CALLS = 1000
MARGIN, MARGIN_SHARE = 0.05, 0.1
"""A server's own deadline ends 50 ms, at most a tenth of the time left, before the caller's, so that its typed error
with the usage gets there first."""
CANCEL_WAIT = 0.08
"""Seconds that Cancel waits for the call to end; its caller waits 100 ms."""
REMEMBERED = 1000
"""Calls whose usage is kept for a Cancel that comes after they were cancelled."""


class RunningCall:
    """A call that runs here, from admission to its end: its task, its timer, what it has spent.

    A context manager, by hand because it is on the path of every call. A cancellation by the deadline or by Cancel
    leaves it as the typed error; one by the caller, who has gone, as CancelledError.
    """

    __slots__ = ("_call_id", "_server", "_timer", "cancelled", "ended", "late", "state", "task")

    def __init__(self, server: CallServer, call_id: str, state: CallState) -> None:
        self._server = server
        self._call_id = call_id
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[object] | None = None
        self.state = state
        self.cancelled = False
        self.late = False
        self.ended: asyncio.Event | None = None

    def __enter__(self) -> Self:
        self.task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_at(self.state.deadline, self._expire)
        self._call_id = self._server.entered(self._call_id, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._server.left(self._call_id)
        if self.ended is not None:
            self.ended.set()
        if self.task is not None and (self.late or self.cancelled):
            self.task.uncancel()
        if isinstance(error, GeneratorExit):  # the RPC was cancelled while the transport had an event in hand
            self._server.remember(self._call_id, self.state.ledger.usage)
        if not isinstance(error, asyncio.CancelledError):
            return
        if self.late:
            raise past_deadline(self.state) from error
        if self.cancelled:
            raise typed(CallCancelled("the call was cancelled where it ran"), self.state) from error
        self._server.remember(self._call_id, self.state.ledger.usage)

    def cancel(self) -> None:
        """Stop it, as Cancel and a drain do."""
        if self.task is not None and not self.cancelled and not self.late:
            self.cancelled = True
            self.task.cancel()

    def _expire(self) -> None:
        if self.task is not None and not self.cancelled:
            self.late = True
            self.task.cancel()


class CallServer:
    """Serves calls to `callees`, at most `max_concurrent_calls` at once."""

    def __init__(self, callees: Callees, *, max_concurrent_calls: int = MAX_CONCURRENT_CALLS) -> None:
        self._callees = callees
        self._limit = max_concurrent_calls
        self._running: dict[str, RunningCall] = {}
        self._unnamed = 0
        self._spent: OrderedDict[str, Usage] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()
        self.draining = False

    @property
    def count(self) -> int:
        """Calls that run now."""
        return len(self._running)

    @property
    def reads_traces(self) -> bool:
        """Whether a call's trace is of any use here."""
        return self._callees.reads_traces

    async def serve(self, call: IncomingCall) -> Message:
        """The reply to a call; raises AixgoError. To be awaited in a task that serves nothing else."""
        self._admit(call)
        state = self._state(call)
        with RunningCall(self, call.call_id, state):
            if call.trace is NO_TRACE:
                reply = await self._callees.call(call, state)
            else:
                with spans.attached(*call.trace):
                    reply = await self._callees.call(call, state)
        call.answered_by = state.instance_id
        return reply

    async def serve_stream(self, call: IncomingCall) -> AsyncGenerator[Event]:
        """The events of a call, the Result last; raises AixgoError. For a task that serves nothing else."""
        self._admit(call)
        with RunningCall(self, call.call_id, self._state(call)) as running, spans.attached(*call.trace):
            async with aclosing(self._callees.stream(call, running.state)) as events:
                async for event in events:
                    call.answered_by = running.state.instance_id
                    yield event

    async def cancel(self, call_id: str) -> Usage | None:
        """Cancel a call and return what it spent; None when it is not known."""
        running = self._running.get(call_id)
        if running is None:
            return self._spent.pop(call_id, None)
        if running.ended is None:
            running.ended = asyncio.Event()
        running.cancel()
        try:
            async with asyncio.timeout(CANCEL_WAIT):
                await running.ended.wait()
        except TimeoutError:
            return running.state.ledger.usage + Usage(incomplete=True)
        self._spent.pop(call_id, None)
        return running.state.ledger.usage

    async def finish(self, timeout: float) -> bool:
        """Refuse new calls and wait for the running ones; after `timeout` seconds cancel them. False if any was."""
        self.draining = True
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            for running in list(self._running.values()):
                running.cancel()
            return False
        return True

    async def deliver(self, agent: str, letter: Letter) -> str:
        """Put a letter into a mailbox and return the instance that has it, "" being this one; raises AixgoError."""
        if self.draining:
            raise refused(InstanceDraining("this instance is draining and takes no new messages"))
        return await self._callees.deliver(agent, letter)

    def _admit(self, call: IncomingCall) -> None:
        """Raise a refusal, which lets the caller try another instance, when the call cannot be taken."""
        if self.draining:
            raise refused(InstanceDraining("this instance is draining and takes no new calls"))
        if len(self._running) >= self._limit:
            raise refused(
                Overloaded(
                    f"{self._limit} calls run here, as many as may; call later, or start more instances",
                    retry_after=0.1,
                    fields={"limit": self._limit},
                )
            )
        self._callees.accept(call.agent)

    def entered(self, call_id: str, running: RunningCall) -> str:
        """Note a call that begins, and return the id that it is known by."""
        if not call_id or call_id in self._running:
            self._unnamed += 1
            call_id = f"#{self._unnamed}"
        self._running[call_id] = running
        self._idle.clear()
        return call_id

    def left(self, call_id: str) -> None:
        """Note a call that has ended."""
        del self._running[call_id]
        if not self._running:
            self._idle.set()

    def remember(self, call_id: str, usage: Usage) -> None:
        """Keep what a call spent whose caller is gone: its Cancel may be under way."""
        self._spent[call_id] = usage
        if len(self._spent) > REMEMBERED:
            self._spent.popitem(last=False)

    def _state(self, call: IncomingCall) -> CallState:
        own = call.timeout - min(MARGIN, call.timeout * MARGIN_SHARE)
        state = CallState(
            asyncio.get_running_loop().time() + own,
            call.depth + 1,
            (*call.path, call.agent),
            call.message.session_id or call.session_id,
            Ledger(),
            call.budget,
        )
        state.check_depth(self._callees.max_depth)
        return state
