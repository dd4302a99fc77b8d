"""What every transport makes of a request: an IncomingCall, or a typed refusal; and of a reply: a message.

Pure mapping. Above it lie `servicer.py` (one RPC for each call) and `session.py` (many calls on one stream); below it
the codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aixgo.call import DEFAULT_TIMEOUT
from aixgo.errors import AixgoError, InvalidInput, InvalidMessage, InvalidReply, MessageTooLarge
from aixgo.message import Message
from aixgo.server.callees import NO_TRACE, IncomingCall
from aixgo.v1 import types_pb2
from aixgo.wire.codec import decode_grant, decode_message, fill_message, message_bytes
from aixgo.wire.values import check_metadata_bytes

Trace = tuple[str, str, str]
"""traceparent, tracestate, baggage."""

MAX_NAME = 1_024
"""Characters of an agent's name; of unnamed members it has their parents' in it."""
MAX_ID = 256
"""Characters of the ids of calls and messages, some of which are kept when the call has ended."""
MAX_SESSION_ID = 1_024
"""Characters of the name of a conversation."""
MAX_PATH, MAX_PATH_TEXT = 256, 16_384
"""Agents above a call, and characters of their names together: every event and error of it repeats them."""
MAX_TRACE = 8_192
"""Characters of each part of a trace context; 8,192 is the baggage that W3C asks everybody to take."""
MAX_TIMEOUT = 30 * 86_400.0
"""Seconds of the longest deadline; a later one is cut to it, so that what is handed on can be written down."""


class Request(Protocol):
    """What ExecuteRequest, ExecuteStreamRequest and OpenFrame have in common."""

    @property
    def agent(self) -> str:
        """The agent's name."""
        ...

    @property
    def message(self) -> types_pb2.Message:
        """What to say to it."""
        ...

    @property
    def context(self) -> types_pb2.CallContext:
        """What the call inherits."""
        ...


def read_call(request: Request, timeout: float | None = None, trace: Trace | None = None) -> IncomingCall:
    """A call out of a request; `timeout` is what the RPC itself has, in seconds, None for no limit.

    `trace` counts where the request has none of its own; with None traces are of no use here, and it gets none.
    Raises InvalidInput, InvalidMessage and MessageTooLarge, naming the field.
    """
    # Each field is read once: with the checks, reading takes a fifth of what a server does for a call.
    agent, inherited, written = request.agent, request.context, request.message
    call_id, session_id, path = inherited.call_id, inherited.session_id, inherited.agent_path
    check_named(agent)
    if len(call_id) > MAX_ID or session_id or path:
        check_inherited(inherited)
    if inherited.traceparent:
        own = _read_trace(inherited)
        trace = None if trace is None else own
    if written.metadata:
        check_metadata_bytes(written.metadata)
    message = decode_message(written, usage_counts=False)
    if len(message.id) > MAX_ID or message.session_id:
        check_message(written)
    milliseconds = inherited.timeout_ms
    said = min(milliseconds / 1000, MAX_TIMEOUT) if milliseconds > 0 else DEFAULT_TIMEOUT
    return IncomingCall(
        agent,
        message,
        call_id,
        said if timeout is None else min(timeout, said),
        inherited.depth,
        tuple(path) if path else (),
        session_id,
        decode_grant(inherited) if inherited.HasField("grant") else None,
        NO_TRACE if trace is None else trace,
    )


def check_named(agent: str) -> None:
    """Raise InvalidInput when a request names no agent, or nothing that could be one."""
    if not agent:
        raise InvalidInput("agent is empty; name the agent to call")
    if len(agent) > MAX_NAME:
        raise _too_long("agent", agent, MAX_NAME)


def check_message(message: types_pb2.Message) -> None:
    """Raise InvalidInput when the names that a message has of itself are too long to be kept, and MessageTooLarge when
    its metadata is.
    """
    if len(message.id) > MAX_ID:
        raise _too_long("message.id", message.id, MAX_ID)
    if len(message.session_id) > MAX_SESSION_ID:
        raise _too_long("message.session_id", message.session_id, MAX_SESSION_ID)
    if message.metadata:
        check_metadata_bytes(message.metadata)


def check_inherited(context: types_pb2.CallContext) -> None:
    """Raise InvalidInput when what a call inherits is longer than any honest caller's."""
    if len(context.call_id) > MAX_ID:
        raise _too_long("context.call_id", context.call_id, MAX_ID)
    if len(context.session_id) > MAX_SESSION_ID:
        raise _too_long("context.session_id", context.session_id, MAX_SESSION_ID)
    path = context.agent_path
    if path:
        if len(path) > MAX_PATH:
            raise InvalidInput(f"context.agent_path has {len(path)} names; at most {MAX_PATH} are allowed")
        if len(names := "".join(path)) > MAX_PATH_TEXT:
            raise _too_long("context.agent_path", names, MAX_PATH_TEXT)
    if context.traceparent:
        _read_trace(context)


def _read_trace(context: types_pb2.CallContext) -> Trace:
    trace = traceparent, tracestate, baggage = context.traceparent, context.tracestate, context.baggage
    if len(traceparent) > MAX_TRACE or len(tracestate) > MAX_TRACE or len(baggage) > MAX_TRACE:
        for part, value in zip(("traceparent", "tracestate", "baggage"), trace, strict=True):
            if len(value) > MAX_TRACE:
                raise _too_long(f"context.{part}", value, MAX_TRACE)
    return trace


def _too_long(field: str, value: str, limit: int) -> InvalidInput:
    return InvalidInput(f"{field} has {len(value)} characters; at most {limit} are allowed")


def fill_reply(out: types_pb2.Message, reply: Message, agent: str, path: Sequence[str]) -> None:
    """Write the reply of `agent` into a message.

    Raises InvalidReply for one that cannot be sent, and MessageTooLarge, both with what was spent.
    """
    try:
        fill_message(out, reply)
    except (InvalidMessage, MessageTooLarge) as error:
        raise _unsendable(error, reply, agent, path)  # noqa: B904  # it says itself what it comes from


def reply_bytes(reply: Message, agent: str, path: Sequence[str]) -> bytes:
    """`fill_reply`, serialised; raises what it does."""
    try:
        return message_bytes(reply)
    except (InvalidMessage, MessageTooLarge) as error:
        raise _unsendable(error, reply, agent, path)  # noqa: B904  # it says itself what it comes from


def _unsendable(error: AixgoError, reply: Message, agent: str, path: Sequence[str]) -> AixgoError:
    failed = error
    if not isinstance(error, MessageTooLarge):
        failed = InvalidReply(f"the reply of agent {agent!r} cannot be sent: {error.message}")
        failed.__cause__ = error
    failed.agent_path, failed.usage = (*path, agent), reply.usage
    return failed
