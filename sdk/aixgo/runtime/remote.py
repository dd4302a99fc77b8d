"""Calls, streams and messages to agents of other processes.

Owns what such a call takes along (deadline, depth, grant, trace) and brings back (usage). Which instance it goes to
and whether another attempt follows is said by `attempts.py`; how it travels, by the transport. Above: `distributed.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from aixgo import call as ambient
from aixgo.call import Budget, CallState
from aixgo.errors import AixgoError, InvalidInput, InvalidMessage
from aixgo.events import Event, Result
from aixgo.mailboxes.contract import SEND_TIMEOUT
from aixgo.message import Message, new_id
from aixgo.runtime.attempts import Attempts
from aixgo.runtime.contract import DEFAULT_OPTIONS, CallOptions
from aixgo.runtime.entry import finished_reply, typed
from aixgo.runtime.hedging import race
from aixgo.runtime.plain import Headers, PlainTransport
from aixgo.runtime.replicas import Replicas
from aixgo.runtime.session import SessionTransport
from aixgo.telemetry import spans
from aixgo.usage import NO_USAGE
from aixgo.v1 import agent_pb2, types_pb2
from aixgo.wire.codec import decode_message, fill_context, fill_message

Trace = tuple[str, str, str]
"""traceparent, tracestate, baggage."""


class RemoteCalls:
    """Calls to the instances of `replicas`: over `sessions` where there are any, else over `transport`.

    `hedged` are the seconds after which calls are hedged that do not say it, by the name of the agent that is called.
    """

    def __init__(
        self,
        replicas: Replicas,
        transport: PlainTransport,
        sessions: SessionTransport | None = None,
        *,
        hedged: Mapping[str, float] | None = None,
    ) -> None:
        self.replicas = replicas
        self.transport = transport
        self.sessions = sessions
        self._hedged = hedged or {}
        self._call_ids = itertools.count(1)
        self._prefix = new_id()

    def call(
        self, target: str, message: Message, state: CallState, options: CallOptions, trace: Trace | None = None
    ) -> Coroutine[Any, Any, Message]:
        """One reply, from the instance that gave it, after as many attempts as are allowed.

        `trace` is passed on as it is; without it the current one is.
        """
        request = agent_pb2.ExecuteRequest(agent=target)
        fill_message(request.message, message)
        attempts = Attempts(self.replicas, target, state, options)
        after = self._hedged_after(target, options) if self._hedged or options is not DEFAULT_OPTIONS else None
        if after is None:
            return self._called(attempts, request, state, trace)
        return self._hedged_call(attempts, request, state, trace, after)

    def stream(
        self, target: str, message: Message, state: CallState, options: CallOptions, trace: Trace | None = None
    ) -> AsyncGenerator[Event]:
        """The events of one call; another instance is tried only as long as none has come."""
        request = agent_pb2.ExecuteStreamRequest(agent=target)
        fill_message(request.message, message)
        attempts = Attempts(self.replicas, target, state, options)
        after = self._hedged_after(target, options)
        if after is None:
            return self._streamed(attempts, request, state, trace)
        return self._hedged_stream(attempts, request, state, trace, after)

    async def _called(
        self, attempts: Attempts, request: agent_pb2.ExecuteRequest, state: CallState, trace: Trace | None
    ) -> Message:
        grant = attempts.grant
        try:
            while True:
                instance = attempts.at_once() or await attempts.next()
                timeout = attempts.timeout()
                headers = self._context(request.context, state, timeout, grant.offer(instance.instance_id), trace)
                with attempts:
                    transport = self.transport if self.sessions is None else self.sessions.to(instance)
                    response = await transport.execute(instance.address, request, timeout, headers, grant)
                    try:
                        reply = decode_message(response.message)
                    except InvalidMessage:
                        grant.lose()  # what cannot be read does not say what was spent either
                        raise
                    grant.settle(reply.usage)
                    state.instance_id = instance.instance_id
                    return reply if state.ledger.usage is NO_USAGE else finished_reply(reply, state)
        finally:
            grant.lose()  # an attempt that nobody has settled, for example because this was cancelled

    async def _streamed(
        self, attempts: Attempts, request: agent_pb2.ExecuteStreamRequest, state: CallState, trace: Trace | None
    ) -> AsyncGenerator[Event]:
        grant = attempts.grant
        try:
            while True:
                instance = attempts.at_once() or await attempts.next()
                timeout = attempts.timeout()
                headers = self._context(request.context, state, timeout, grant.offer(instance.instance_id), trace)
                with attempts:
                    transport = self.transport if self.sessions is None else self.sessions.to(instance)
                    events = transport.stream(instance.address, request, timeout, headers, grant)
                    async with aclosing(events):  # here, not when it is collected: its end may record usage
                        async for event in events:
                            if not attempts.answered:
                                attempts.answered = True
                                state.instance_id = instance.instance_id
                            if isinstance(event, Result):
                                grant.settle(event.message.usage)
                                yield Result(finished_reply(event.message, state), event.path)
                                return
                            yield event
        finally:
            grant.lose()  # an attempt that nobody has settled, for example because this was cancelled

    async def _hedged_call(
        self,
        attempts: Attempts,
        request: agent_pb2.ExecuteRequest,
        state: CallState,
        trace: Trace | None,
        after: float,
    ) -> Message:
        legs = [attempts]

        def second() -> Coroutine[Any, Any, Message] | None:
            hedge = attempts.hedge()
            if hedge is None:
                return None
            legs.append(hedge)
            return self._called(hedge, _copy(request), state, trace)

        try:
            reply, winner = await race(self._called(attempts, request, state, trace), second, after)
        except AixgoError as error:
            raise _of_all(error, legs, state)  # noqa: B904  # the same error, with what both have spent
        _settle(legs)
        state.instance_id = legs[winner].instance_id
        return finished_reply(reply, state)

    async def _hedged_stream(
        self,
        attempts: Attempts,
        request: agent_pb2.ExecuteStreamRequest,
        state: CallState,
        trace: Trace | None,
        after: float,
    ) -> AsyncGenerator[Event]:
        legs = [attempts]
        streams = [self._streamed(attempts, request, state, trace)]

        def second() -> Coroutine[Any, Any, Event] | None:
            hedge = attempts.hedge()
            if hedge is None:
                return None
            legs.append(hedge)
            streams.append(self._streamed(hedge, _copy(request), state, trace))
            return _next(streams[1])

        try:
            event, winner = await race(_next(streams[0]), second, after)
            for loser in streams[:winner] + streams[winner + 1 :]:
                await _close(loser)
            _settle(legs[:winner] + legs[winner + 1 :])
            state.instance_id = legs[winner].instance_id
            if isinstance(event, Result):
                event = Result(finished_reply(event.message, state), event.path)
            yield event
            async for event in streams[winner]:
                yield event
        except AixgoError as error:
            raise _of_all(error, legs, state)  # noqa: B904  # as in _hedged_call
        finally:
            for stream in streams:
                await _close(stream)

    async def send(self, target: str, message: Message, trace: Trace | None = None) -> str:
        """Put a message into the mailbox of one instance, and return its id.

        It is tried again only where it cannot have arrived.
        """
        above = ambient.current()
        deadline = asyncio.get_running_loop().time() + SEND_TIMEOUT
        state = ambient.root(SEND_TIMEOUT).child(target)
        if above is not None:
            state.deadline, state.session_id = min(deadline, above.deadline), above.session_id
        attempts = Attempts(self.replicas, target, state, CallOptions(), only_refused=True)
        request = agent_pb2.DeliverRequest(agent=target)
        fill_message(request.message, message)
        request.context.agent_path.extend(ambient.current_path())
        headers = _headers(request.context, spans.inject() if trace is None else trace)
        while True:
            instance = attempts.at_once() or await attempts.next()
            timeout = attempts.timeout()
            with attempts:
                await self.transport.deliver(instance.address, request, timeout, headers)
                return instance.instance_id

    def _hedged_after(self, target: str, options: CallOptions) -> float | None:
        after = options.hedge_after
        if after is None:
            return self._hedged.get(target) if self._hedged else None
        if not after > 0:
            raise InvalidInput(f"hedge_after is {after}; give seconds, more than 0, or None not to hedge")
        return after

    def _context(
        self,
        context: types_pb2.CallContext,
        state: CallState,
        timeout: float,
        granted: Budget | None,
        trace: Trace | None,
    ) -> Headers | None:
        """Fill in what the callee inherits; each attempt is a call of its own, with an id of its own."""
        call_id = f"{self._prefix}-{next(self._call_ids)}"
        fill_context(context, state, call_id, timeout, granted)
        trace = spans.inject() if trace is None else trace
        return _headers(context, trace) if trace[0] else None


RequestT = TypeVar("RequestT", agent_pb2.ExecuteRequest, agent_pb2.ExecuteStreamRequest)


def _copy(request: RequestT) -> RequestT:
    """The same request, for another attempt at the same time: each writes its own context into it."""
    copy = type(request)()
    copy.CopyFrom(request)
    return copy


async def _next(events: AsyncGenerator[Event]) -> Event:
    return await anext(events)


async def _close(events: AsyncGenerator[Event]) -> None:
    """End a stream, unless it is one that has not even ended when it was cancelled."""
    generator: Any = events  # its type does not say whether it runs
    if not generator.ag_running:
        await events.aclose()


def _settle(legs: Sequence[Attempts]) -> None:
    """Count what an attempt was granted that did not end when it was cancelled."""
    for leg in legs:
        leg.grant.lose()


def _of_all(error: AixgoError, legs: Sequence[Attempts], state: CallState) -> AixgoError:
    """The error of a hedged call, with what all its attempts have spent."""
    _settle(legs)
    return typed(error, state)


def _headers(context: types_pb2.CallContext, trace: Trace) -> Headers | None:
    """Write a trace into the context, and as the headers that other tools read; nothing where there is none."""
    traceparent, tracestate, baggage = trace
    if not traceparent:
        return None
    context.traceparent = traceparent
    headers = [("traceparent", traceparent)]
    if tracestate:
        context.tracestate = tracestate
        headers.append(("tracestate", tracestate))
    if baggage:
        context.baggage = baggage
        headers.append(("baggage", baggage))
    return headers
