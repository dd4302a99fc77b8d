"""Serving calls, whatever transport they came by: limits, deadline, errors, telemetry and accounting.

Owns what runs in this process on behalf of callers outside it. Above it lie the servicers, which only map; below it
`callees.py`, which answers.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from decimal import Decimal
from functools import cached_property
from time import monotonic
from types import TracebackType
from typing import Self

from aixgo.call import Budget, CallState
from aixgo.errors import AixgoError, CallCancelled, InstanceDraining, Overloaded
from aixgo.events import Event, Result
from aixgo.mailboxes.contract import Letter
from aixgo.message import Message
from aixgo.runtime.deadlines import Deadlines
from aixgo.runtime.entry import finished_reply, past_deadline, typed
from aixgo.security.identity import ANONYMOUS, Caller
from aixgo.security.security import Security
from aixgo.server.callees import NO_TRACE, Callees, IncomingCall, refused
from aixgo.server.limits import RateLimit, RateLimits
from aixgo.server.places import Places
from aixgo.telemetry import metrics, spans
from aixgo.usage import NO_USAGE, Ledger, Usage

MAX_CONCURRENT_CALLS = 1000
MARGIN, MARGIN_SHARE = 0.05, 0.1
"""A server's own deadline ends 50 ms, at most a tenth of the time left, before the caller's, so that its typed error
with the usage gets there first."""
_LONG = MARGIN / MARGIN_SHARE
CANCEL_WAIT = 0.08
"""Seconds that Cancel waits for the call to end; its caller waits 100 ms."""
REMEMBERED = 1000
"""Calls whose usage is kept for a Cancel that comes after they have ended."""
LATE_CANCEL = 5.0
"""Seconds after the end of a call within which its Cancel is expected, and within which a call may follow its own."""


class RunningCall:
    """A call that runs here, from admission to its end: its task, its timer, what it has spent.

    A context manager, by hand because it is on the path of every call. A cancellation by the deadline or by Cancel
    leaves it as the typed error; one by the caller, who has gone, as CancelledError. `granted` is what the call may
    spend; the budget of `state`, when it begins, is what it has left of that.
    """

    # How every call begins, and most end, stands in the class.
    task: asyncio.Task[object] | None = None
    cancelled = False
    late = False
    ended: asyncio.Event | None = None

    def __init__(self, server: CallServer, call_id: str, state: CallState, granted: Budget | None) -> None:
        self._server = server
        self._call_id = call_id
        self._granted = granted
        self._budget = state.budget  # kept, because an agent may narrow its own
        self._deadline = state.deadline
        self.state = state

    def __enter__(self) -> Self:
        server = self._server
        self.task = asyncio.current_task(server.loop)
        server.deadlines.add(self._deadline, self)
        self._call_id = server.entered(self._call_id, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server, ledger = self._server, self.state.ledger
        server.deadlines.remove(self._deadline, self)
        server.left(self._call_id)
        if self._granted is not None:
            self.close_budget()
        if self.ended is not None:
            self.ended.set()
        if (self.late or self.cancelled) and self.task is not None:
            self.task.uncancel()
        # Its Cancel may be on the way however it ended: the RPC was cancelled while the reply was being sent.
        if error is not None or self._budget is not None or ledger.usage is not NO_USAGE:
            server.remember(self._call_id, ledger.usage)
        if error is None:
            return
        if isinstance(error, AixgoError):
            error.usage = ledger.usage
        if not isinstance(error, asyncio.CancelledError):
            return
        if self.late:
            raise past_deadline(self.state) from error
        if self.cancelled:
            raise typed(CallCancelled("the call was cancelled where it ran"), self.state) from error

    def close_budget(self) -> None:
        """End the spending. What tasks that outlive the call hold of its grant is unsettled."""
        granted, budget = self._granted, self._budget
        if granted is None or budget is None:
            return
        self._granted = None
        spent = self.state.ledger.usage
        held = Budget(
            None if granted.tokens is None else granted.tokens - spent.held_tokens - (budget.tokens or 0),
            None if granted.usd is None else granted.usd - spent.held_usd - (budget.usd or Decimal()),
        )
        if (held.tokens or 0) > 0 or (held.usd or 0) > 0:
            self.state.ledger.record(held.less(NO_USAGE).as_unsettled())
        budget.close()

    def finished(self, reply: Message) -> Message:
        """`reply`, which ends the call, with all that was spent."""
        if self._granted is not None:
            self.close_budget()
        return reply if reply.usage is self.state.ledger.usage else finished_reply(reply, self.state)

    def usage_so_far(self) -> Usage:
        """What a call that does not stop has spent, all that it may still spend included."""
        spent = self.state.ledger.usage
        return spent + (Usage(incomplete=True) if self._granted is None else self._granted.less(spent).as_unsettled())

    def cancel(self) -> None:
        """Stop it, as Cancel and a drain do."""
        if self.task is not None and not self.cancelled and not self.late:
            self.cancelled = True
            self.task.cancel()

    def expire(self) -> None:
        """Stop it: its deadline has passed."""
        if self.task is not None and not self.cancelled:
            self.late = True
            self.task.cancel()


class CallServer:
    """Serves calls to `callees`, at most `max_concurrent_calls` at once, of those whom `security` lets in.

    `instance_id` is the process's own. `rate_limit` is for each caller. `clock` gives seconds.
    """

    def __init__(
        self,
        callees: Callees,
        *,
        max_concurrent_calls: int = MAX_CONCURRENT_CALLS,
        security: Security | None = None,
        instance_id: str = "",
        rate_limit: RateLimit | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._callees = callees
        self._instance_id = instance_id
        self._clock = clock
        self._rates = None if rate_limit is None else RateLimits(rate_limit, clock=clock)
        self.security = security or Security()
        self.limit = max_concurrent_calls
        self.places = Places(max_concurrent_calls, lambda: len(self._running))
        self._running: dict[str, RunningCall] = {}
        self._unnamed = 0
        self._spent: OrderedDict[str, tuple[Usage, float]] = OrderedDict()
        self._forgot_at = float("-inf")
        self._refused: OrderedDict[str, float] = OrderedDict()
        self._idle = asyncio.Event()
        """Set when the last call has ended, once there is a drain."""
        self.draining = False

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of all calls; kept, because asking for it takes a system call."""
        return asyncio.get_running_loop()

    @cached_property
    def deadlines(self) -> Deadlines[RunningCall]:
        """When the calls that run have to end."""
        return Deadlines(self.loop, RunningCall.expire)

    @property
    def count(self) -> int:
        """Calls that run now."""
        return len(self._running)

    @property
    def reads_peers(self) -> bool:
        """Whether it matters where a call comes from; asking gRPC costs time."""
        return self._rates is not None

    @property
    def reads_traces(self) -> bool:
        """Whether a call's trace is of any use here."""
        return self._callees.reads_traces

    async def serve(self, call: IncomingCall) -> Message:
        """The reply to a call; raises AixgoError. To be awaited in a task that serves nothing else."""
        self._admit(call)
        state = self._state(call)
        call_id = _own_id(call.caller, call.call_id) if call.caller.names else call.call_id
        with RunningCall(self, call_id, state, call.budget) as running:
            if call.trace is not NO_TRACE:
                spans.follow(*call.trace)
            reply = running.finished(await self._callees.call(call, state))
        call.answered_by = state.instance_id
        return reply

    async def serve_stream(self, call: IncomingCall) -> AsyncGenerator[Event]:
        """The events of a call, the Result last; raises AixgoError. For a task that serves nothing else."""
        self._admit(call)
        entry = RunningCall(self, _own_id(call.caller, call.call_id), self._state(call), call.budget)
        with entry as running, spans.attached(*call.trace):
            async with aclosing(self._callees.stream(call, running.state)) as events:
                async for event in events:
                    call.answered_by = running.state.instance_id
                    if isinstance(event, Result):
                        event = Result(running.finished(event.message), event.path)  # noqa: PLW2901
                    yield event

    async def cancel(self, call_id: str, caller: Caller = ANONYMOUS) -> Usage | None:
        """Cancel a call of `caller` and return what it spent; None when it is not known."""
        call_id = _own_id(caller, call_id)
        running = self._running.get(call_id)
        if running is None:
            return self._spent[call_id][0] if call_id in self._spent else None
        if running.ended is None:
            running.ended = asyncio.Event()
        running.cancel()
        try:
            async with asyncio.timeout(CANCEL_WAIT):
                await running.ended.wait()
        except TimeoutError:
            return running.usage_so_far()
        return running.state.ledger.usage

    def refuse(self, call_id: str, caller: Caller = ANONYMOUS, instance_id: str = "") -> bool:
        """Whether nothing was nor will be spent by a call that `cancel` does not know: it is refused if it comes.

        False when that is not certain: `instance_id`, where the caller has sent the call, is not this process; the
        usage of a call that ended less than LATE_CANCEL ago was forgotten a moment ago, and may have been this one's;
        or too many calls are refused already.
        """
        now = self._clock()
        if not instance_id or instance_id != self._instance_id or now - self._forgot_at <= LATE_CANCEL:
            return False
        while self._refused and now - next(iter(self._refused.values())) > LATE_CANCEL:
            self._refused.popitem(last=False)
        if len(self._refused) >= REMEMBERED:
            return False
        self._refused[_own_id(caller, call_id)] = now
        return True

    async def finish(self, timeout: float, refuse_waiting: Callable[[float], None] | None = None) -> bool:
        """Refuse new calls and wait for the running ones; after `timeout` seconds cancel them. False if any was.

        `refuse_waiting` is told how many seconds those have left that wait for their turn: at first, and at the end.
        """
        self.draining = True
        if not self._running:
            self._idle.set()
        self.places.open()
        if refuse_waiting is not None:
            refuse_waiting(timeout)
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            if refuse_waiting is not None:
                refuse_waiting(0)
                await asyncio.sleep(0)  # in which those leave, to be called elsewhere
            for running in list(self._running.values()):
                running.cancel()
            return False
        return True

    async def deliver(self, agent: str, letter: Letter, caller: Caller = ANONYMOUS, peer: str = "") -> str:
        """Put a letter into a mailbox and return the instance that has it, "" being this one; raises AixgoError."""
        self.security.check_call(caller, agent, self._callees.allowed_callers(agent))
        self._check_rate(caller, peer)
        if self.draining:
            raise _refusal("draining", InstanceDraining("this instance is draining and takes no new messages"))
        return await self._callees.deliver(agent, letter)

    def _admit(self, call: IncomingCall) -> None:
        """Raise a refusal when the call cannot be taken; all but those of access let the caller try elsewhere."""
        self.security.check_call(call.caller, call.agent, self._callees.allowed_callers(call.agent))
        if self._rates is not None:
            self._check_rate(call.caller, call.peer)
        if self._refused and self._refused.pop(_own_id(call.caller, call.call_id), None) is not None:
            raise CallCancelled("the call was cancelled before it came")
        if self.draining:
            raise _refusal("draining", InstanceDraining("this instance is draining and takes no new calls"))
        if len(self._running) >= self.limit:
            raise self.full()
        self._callees.accept(call.agent)

    def _check_rate(self, caller: Caller, peer: str) -> None:
        if self._rates is None:
            return
        try:
            self._rates.check(caller, peer)
        except Overloaded:
            metrics.call_refused("rate")
            raise

    def full(self) -> AixgoError:
        """The refusal of a call too many."""
        text = f"{self.limit} calls run here, as many as may; call later, or start more instances"
        return _refusal("process", Overloaded(text, retry_after=0.1, fields={"limit": self.limit}))

    def entered(self, call_id: str, running: RunningCall) -> str:
        """Note a call that begins, and return the id that it is known by."""
        if not call_id or call_id in self._running:
            self._unnamed += 1
            call_id = f"#{self._unnamed}"
        self._running[call_id] = running
        return call_id

    def left(self, call_id: str) -> None:
        """Note a call that has ended."""
        del self._running[call_id]
        if self.places.waiting:
            self.places.freed()
        if self.draining and not self._running:
            self._idle.set()

    def remember(self, call_id: str, usage: Usage) -> None:
        """Keep what a call has spent whose caller may be gone: its Cancel may be under way."""
        now = self._clock()
        self._spent[call_id] = usage, now
        self._spent.move_to_end(call_id)
        if len(self._spent) > REMEMBERED:
            _, (_, ended_at) = self._spent.popitem(last=False)
            if now - ended_at < LATE_CANCEL:
                self._forgot_at = now

    def _state(self, call: IncomingCall) -> CallState:
        agent, timeout, budget = call.agent, call.timeout, call.budget
        margin = MARGIN if timeout > _LONG else timeout * MARGIN_SHARE
        state = CallState(
            self.loop.time() + timeout - margin,
            call.depth + 1,
            (*call.path, agent),
            call.message.session_id or call.session_id,
            Ledger(None, agent),
            None if budget is None else Budget(budget.tokens, budget.usd),
        )
        state.check_depth(self._callees.max_depth)
        return state


def _refusal(reason: str, error: AixgoError) -> AixgoError:
    """A refusal of the whole process, counted."""
    metrics.call_refused(reason)
    return refused(error)


def _own_id(caller: Caller, call_id: str) -> str:
    """What a call is known by: ids are the callers' to choose, so nobody can use those of another."""
    return f"{caller} {call_id}" if caller.names and call_id else call_id
