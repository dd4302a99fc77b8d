"""Errors as gRPC statuses with details, and back.

The one place where gRPC's errors and ours meet. Above it lie servicers and transports.
"""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from aixgo.errors import (
    AixgoError,
    CallCancelled,
    Code,
    DeadlineExceeded,
    InstanceLost,
    InternalError,
    InvalidInput,
    LimitExceeded,
    MessageTooLarge,
    NotSupported,
    PermissionDenied,
    Unauthenticated,
)
from aixgo.v1 import types_pb2 as pb
from aixgo.wire.codec import cut, decode_error, encode_error

DETAILS = "grpc-status-details-bin"
MAX_STATUS_TEXT = 256
"""Bytes of the status's own text: it is percent-encoded into a header, and stands in full in the details."""

_NO_HANDSHAKE = ("andshake failed", "andshake read failed", "andshake write failed", "Socket closed")
_TLS_HINT = "; where one side uses TLS the other must too: check AIXGO_TLS_CA_FILE, AIXGO_TLS_CERT_FILE and their dates"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_BARE: dict[grpc.StatusCode, type[AixgoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.UNIMPLEMENTED: NotSupported,
    grpc.StatusCode.CANCELLED: CallCancelled,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNAVAILABLE: InstanceLost,
}


def to_status(error: AixgoError) -> Status:
    """The google.rpc.Status of an error, with one aixgo.v1.Error (and RetryInfo where it is known) in its details."""
    status = Status(code=error.code, message=cut(error.message, MAX_STATUS_TEXT))
    status.details.add().Pack(encode_error(error))
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        status.details.add().Pack(RetryInfo(retry_delay=delay))
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: AixgoError) -> NoReturn:
    """End the RPC with this error. It raises; nothing after it runs."""
    status = to_status(error)
    context.set_trailing_metadata(((DETAILS, status.SerializeToString()),))
    await context.abort(code_of(int(error.code)), status.message)
    raise AssertionError("abort returned")


def from_rpc(error: grpc.aio.AioRpcError) -> AixgoError | None:
    """The aixgo error that the status carries; None when it carries none: then the transport is what failed."""
    metadata = error.trailing_metadata()
    for key, value in metadata or ():
        if key == DETAILS and isinstance(value, bytes):
            return _unpack(value)
    return None


def from_transport(error: grpc.aio.AioRpcError, address: str) -> AixgoError:
    """The aixgo error for a status without details: what the transport, or a foreign server, says happened."""
    text = cut(error.details() or "", MAX_STATUS_TEXT)
    code = error.code()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return MessageTooLarge(f"{address}: {text}; send less, or raise max_message_bytes on both sides")
    cls = _BARE.get(code, InternalError)
    hint = _TLS_HINT if never_accepted(error) and any(sign in text for sign in _NO_HANDSHAKE) else ""
    lost = cls(f"{address}: {code.name}: {text}{hint}")
    if never_accepted(error):
        lost.accepted = False
    return lost


def never_accepted(error: grpc.aio.AioRpcError) -> bool:
    """True when no connection could be made, so that the callee cannot have seen the call.

    gRPC has no field for that; the text is that of grpc-core's pick-first policy, and a test holds it.
    """
    return error.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect to all addresses" in (
        error.details() or ""
    )


def _unpack(data: bytes) -> AixgoError | None:
    try:
        status = Status.FromString(data)
        for detail in status.details:
            wire = pb.Error()
            if detail.Unpack(wire):
                return decode_error(wire)
    except DecodeError:
        return None  # whoever wrote that is no aixgo server
    return None


def code_of(number: int) -> grpc.StatusCode:
    """The gRPC status code of a number; UNKNOWN for a number that is none."""
    return _CODES.get(number, _CODES[Code.UNKNOWN])
