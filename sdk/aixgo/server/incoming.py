"""What every transport makes of a request: an IncomingCall, or a typed refusal; and of a reply: a message.

Pure mapping. Above it lie `servicer.py` (one RPC for each call) and `session.py` (many calls on one stream); below it
the codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aixgo.call import DEFAULT_TIMEOUT
from aixgo.errors import InvalidInput, InvalidMessage, InvalidReply
from aixgo.message import Message
from aixgo.server.callees import NO_TRACE, IncomingCall
from aixgo.v1 import types_pb2
from aixgo.wire.codec import decode_grant, decode_message, fill_message

Trace = tuple[str, str, str]
"""traceparent, tracestate, baggage."""


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


def read_call(request: Request, timeout: float | None = None, trace: Trace = NO_TRACE) -> IncomingCall:
    """A call out of a request; `timeout` is what the RPC itself has, in seconds, None for no limit.

    Raises InvalidInput and InvalidMessage, naming the field.
    """
    check_named(request.agent)
    inherited = request.context
    said = inherited.timeout_ms / 1000 if inherited.timeout_ms > 0 else DEFAULT_TIMEOUT
    return IncomingCall(
        request.agent,
        decode_message(request.message, usage_counts=False),
        inherited.call_id,
        said if timeout is None else min(timeout, said),
        inherited.depth,
        tuple(inherited.agent_path),
        inherited.session_id,
        decode_grant(inherited),
        trace,
    )


def check_named(agent: str) -> None:
    """Raise InvalidInput when a request names no agent."""
    if not agent:
        raise InvalidInput("agent is empty; name the agent to call")


def fill_reply(out: types_pb2.Message, reply: Message, agent: str, path: Sequence[str]) -> None:
    """Write the reply of `agent` into a message; raises InvalidReply, with what was spent, for one that cannot be."""
    try:
        fill_message(out, reply)
    except InvalidMessage as error:
        broken = InvalidReply(f"the reply of agent {agent!r} cannot be sent: {error.message}")
        broken.agent_path, broken.usage = (*path, agent), reply.usage
        raise broken from error
