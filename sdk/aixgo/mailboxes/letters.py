"""Letters as bytes, for mailboxes that last: the request of the Deliver RPC, which other languages can write too.

How often a letter was replayed stands beside it. Below: the codec. Above: `sqlite_file.py` and `nats.py`.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from aixgo.errors import InvalidMessage
from aixgo.mailboxes.contract import Letter
from aixgo.message import Message
from aixgo.v1 import agent_pb2
from aixgo.wire.codec import decode_message, fill_message


def encode_letter(agent: str, letter: Letter) -> bytes:
    """A letter to `agent`. Raises InvalidMessage for a payload that is no JSON."""
    request = agent_pb2.DeliverRequest(agent=agent)
    fill_message(request.message, letter.message)
    request.context.agent_path.extend(letter.sender)
    request.context.traceparent = letter.traceparent
    return request.SerializeToString()


def decode_letter(data: bytes, replays: int = 0) -> Letter:
    """The letter again. Raises InvalidMessage for bytes that are none."""
    try:
        request = agent_pb2.DeliverRequest.FromString(data)
    except DecodeError as error:
        raise InvalidMessage(f"no DeliverRequest of aixgo.v1: {error}") from error
    message = decode_message(request.message, usage_counts=False)
    if not message.session_id and request.context.session_id:
        message = message.with_(session_id=request.context.session_id)
    return Letter(message, tuple(request.context.agent_path), request.context.traceparent, replays)


def unreadable(data: bytes, id: str) -> Letter:  # noqa: A002  # the field's name
    """What stands for bytes that are no letter, so that they can be looked at."""
    return Letter(Message(data, id=id))
