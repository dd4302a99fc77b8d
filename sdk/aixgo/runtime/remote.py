"""Calls, streams and messages to agents of other processes.

Owns what such a call takes along (deadline, depth, grant, trace) and brings back (usage). Which instance it goes to
and whether another attempt follows is said by `attempts.py`; how it travels, by the transport. Above: `distributed.py`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aixgo import call as ambient
from aixgo.call import Budget, CallState
from aixgo.errors import InvalidMessage
from aixgo.events import Event, Result
from aixgo.mailboxes.contract import SEND_TIMEOUT
from aixgo.message import Message, new_id
from aixgo.runtime.attempts import Attempts
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.entry import finished_reply
from aixgo.runtime.grant import Grant
from aixgo.runtime.instance import Instance
from aixgo.runtime.plain import Headers, PlainTransport, Transport
from aixgo.runtime.replicas import Replicas
from aixgo.runtime.session import SessionTransport
from aixgo.telemetry import spans
from aixgo.v1 import agent_pb2, types_pb2
from aixgo.wire.codec import decode_message, fill_context, fill_message

Trace = tuple[str, str, str]
"""traceparent, tracestate, baggage."""


class RemoteCalls:
    """Calls to the instances of `replicas`: over `sessions` where there are any, else over `transport`."""

    def __init__(self, replicas: Replicas, transport: PlainTransport, sessions: SessionTransport | None = None) -> None:
        self.replicas = replicas
        self.transport = transport
        self.sessions = sessions
        self._call_ids = itertools.count(1)
        self._prefix = new_id()

    async def call(
        self, target: str, message: Message, state: CallState, options: CallOptions, trace: Trace | None = None
    ) -> Message:
        """One reply, from the instance that gave it, after as many attempts as are allowed.

        `trace` is passed on as it is; without it the current one is.
        """
        request = agent_pb2.ExecuteRequest(agent=target)
        fill_message(request.message, message)
        attempts = Attempts(self.replicas, target, state, options)
        grant = attempts.grant
        try:
            while True:
                instance = attempts.at_once() or await attempts.next()
                timeout = attempts.timeout()
                headers = self._context(request.context, state, timeout, grant.offer(instance.instance_id), trace)
                with attempts.on(instance):
                    transport = self._to(instance)
                    response = await transport.execute(instance.address, request, timeout, headers, grant)
                    reply = _reply(response.message, grant)
                    state.instance_id = instance.instance_id
                    return finished_reply(reply, state)
        finally:
            grant.lose()  # an attempt that nobody has settled, for example because this was cancelled

    async def stream(
        self, target: str, message: Message, state: CallState, options: CallOptions, trace: Trace | None = None
    ) -> AsyncGenerator[Event]:
        """The events of one call; another instance is tried only as long as none has come."""
        request = agent_pb2.ExecuteStreamRequest(agent=target)
        fill_message(request.message, message)
        attempts = Attempts(self.replicas, target, state, options)
        grant = attempts.grant
        try:
            while True:
                instance = attempts.at_once() or await attempts.next()
                timeout = attempts.timeout()
                headers = self._context(request.context, state, timeout, grant.offer(instance.instance_id), trace)
                with attempts.on(instance):
                    events = self._to(instance).stream(instance.address, request, timeout, headers, grant)
                    async with aclosing(events):  # here, not when it is collected: its end may record usage
                        async for event in events:
                            attempts.answered = True
                            state.instance_id = instance.instance_id
                            if isinstance(event, Result):
                                grant.settle(event.message.usage)
                                yield Result(finished_reply(event.message, state), event.path)
                                return
                            yield event
        finally:
            grant.lose()  # an attempt that nobody has settled, for example because this was cancelled

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
        headers = _trace(request.context, trace)
        while True:
            instance = attempts.at_once() or await attempts.next()
            timeout = attempts.timeout()
            with attempts.on(instance):
                await self.transport.deliver(instance.address, request, timeout, headers)
                return instance.instance_id

    def _to(self, instance: Instance) -> Transport:
        return self.transport if self.sessions is None else self.sessions.to(instance)

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
        return _trace(context, trace)


def _reply(message: types_pb2.Message, grant: Grant) -> Message:
    """The reply of an attempt, which settles it; one that cannot be read does not say what was spent either."""
    try:
        reply = decode_message(message)
    except InvalidMessage:
        grant.lose()
        raise
    grant.settle(reply.usage)
    return reply


def _trace(context: types_pb2.CallContext, trace: Trace | None) -> Headers | None:
    """Write a trace (None: the current one) into the context, and as the headers that other tools read."""
    traceparent, tracestate, baggage = spans.inject() if trace is None else trace
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
