"""AgentService over gRPC: requests in, replies and typed statuses out. It maps and decides nothing.

Below it lies `calls.py`; above it `server.py`, which listens.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

import grpc
import grpc.aio

from aixgo.errors import AixgoError, InternalError, InvalidInput
from aixgo.mailboxes.contract import Letter
from aixgo.message import Message
from aixgo.runtime.instance import Instance
from aixgo.server.callees import NO_TRACE, IncomingCall
from aixgo.server.calls import CallServer
from aixgo.server.incoming import Trace, check_inherited, check_message, check_named, fill_reply, read_call
from aixgo.server.session import Sessions
from aixgo.usage import NO_USAGE
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1.agent_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from aixgo.wire.codec import decode_message, encode_error, encode_event, encode_usage
from aixgo.wire.instances import agent_to_proto
from aixgo.wire.session import read_request
from aixgo.wire.status import abort

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


def add_agent_service(servicer: AgentServicer, server: grpc.aio.Server) -> None:
    """Let `server` serve AgentService. What sessions write is encoded when it comes here, and goes out as it is."""
    handler: Any = grpc.stream_stream_rpc_method_handler  # its type stubs want a serializer
    session = handler(servicer.Session, read_request, None)
    service = pb.DESCRIPTOR.services_by_name["AgentService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Session": session}),))
    add_AgentServiceServicer_to_server(servicer, server)  # the handler that was added first is the one that counts


class AgentServicer(AgentServiceServicer):
    """The RPCs of one process. `describe` says what it serves at the moment; messages have `max_message_bytes`."""

    def __init__(
        self, calls: CallServer, sessions: Sessions, describe: Callable[[], Instance], max_message_bytes: int
    ) -> None:
        self._calls = calls
        self._sessions = sessions
        self._describe = describe
        self._max_message_bytes = max_message_bytes
        self._instance_id = describe().instance_id

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:  # noqa: N802
        try:
            self._calls.security.caller(context)
        except AixgoError as error:
            await abort(context, error)
        instance = self._describe()
        return pb.DescribeResponse(
            instance_id=instance.instance_id,
            agents=[agent_to_proto(agent) for agent in instance.agents],
            transports=instance.transports,
            version=instance.version,
            max_message_bytes=self._max_message_bytes,
        )

    async def Execute(self, request: pb.ExecuteRequest, context: Context) -> pb.ExecuteResponse:  # noqa: N802
        try:
            caller = self._calls.security.caller(context)
            call = self._incoming(request, context)
            call.caller = caller
            reply = await self._calls.serve(call)
            return _response(request, reply, call.answered_by or self._instance_id)
        except AixgoError as error:
            await abort(context, error)
        except Exception:
            log.exception("Execute failed in aixgo")
            await abort(context, InternalError("the server failed; its log has the details"))

    async def ExecuteStream(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]  # as gRPC allows
        self, request: pb.ExecuteStreamRequest, context: Context
    ) -> None:
        # No generator: gRPC does not close one whose caller has gone, so that it would end later, in another task.
        try:
            caller = self._calls.security.caller(context)
            call = self._incoming(request, context)
            call.caller = caller
            first = True
            async with aclosing(self._calls.serve_stream(call)) as events:
                async for event in events:
                    instance_id = (call.answered_by or self._instance_id) if first else ""
                    await context.write(pb.ExecuteStreamResponse(event=encode_event(event), instance_id=instance_id))
                    first = False
        except AixgoError as error:
            await context.write(pb.ExecuteStreamResponse(error=encode_error(error), instance_id=self._instance_id))
            await abort(context, error)
        except Exception:
            log.exception("ExecuteStream failed in aixgo")
            failed = InternalError("the server failed; its log has the details")
            await context.write(pb.ExecuteStreamResponse(error=encode_error(failed), instance_id=self._instance_id))
            await abort(context, failed)

    async def Deliver(self, request: pb.DeliverRequest, context: Context) -> pb.DeliverResponse:  # noqa: N802
        try:
            caller = self._calls.security.caller(context)
            check_named(request.agent)
            check_inherited(request.context)
            check_message(request.message)
            message = decode_message(request.message, usage_counts=False)
            if not message.session_id and request.context.session_id:
                message = message.with_(session_id=request.context.session_id)
            letter = Letter(message, tuple(request.context.agent_path), request.context.traceparent)
            instance_id = await self._calls.deliver(request.agent, letter, caller, self._peer(context))
            return pb.DeliverResponse(instance_id=instance_id or self._instance_id)
        except AixgoError as error:
            await abort(context, error)

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:  # noqa: N802
        try:
            caller = self._calls.security.caller(context)
            if not request.call_id:
                raise InvalidInput("call_id is empty; send CallContext.call_id of the call")
        except AixgoError as error:
            await abort(context, error)
        usage = await self._calls.cancel(request.call_id, caller)
        if usage is None:
            return pb.CancelResponse(refused=self._calls.refuse(request.call_id, caller, request.instance_id))
        return pb.CancelResponse(found=True, usage=None if usage is NO_USAGE else encode_usage(usage))

    async def Session(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]  # it reads and writes itself
        self, request_iterator: AsyncIterator[pb.SessionRequest], context: Context
    ) -> None:
        await self._sessions.serve(context)

    def _incoming(self, request: pb.ExecuteRequest | pb.ExecuteStreamRequest, context: Context) -> IncomingCall:
        """A call out of a request; raises InvalidInput and InvalidMessage, naming the field."""
        remaining = cast("float | None", context.time_remaining())  # None when the RPC has no deadline
        call = read_call(request, remaining, self._trace(request, context))
        call.peer = self._peer(context)
        return call

    def _peer(self, context: Context) -> str:
        return context.peer() if self._calls.reads_peers else ""

    def _trace(self, request: pb.ExecuteRequest | pb.ExecuteStreamRequest, context: Context) -> Trace | None:
        """The trace of the headers, for requests of other tools' callers; None where nobody reads traces."""
        if not self._calls.reads_traces:
            return None
        return NO_TRACE if request.context.traceparent else _trace_of(context)


def _trace_of(context: Context) -> Trace:
    metadata: Any = context.invocation_metadata() or ()
    headers = {key: value for key, value in metadata if isinstance(value, str)}
    return headers.get("traceparent", ""), headers.get("tracestate", ""), headers.get("baggage", "")


def _response(request: pb.ExecuteRequest, reply: Message, instance_id: str) -> pb.ExecuteResponse:
    response = pb.ExecuteResponse(instance_id=instance_id)
    fill_reply(response.message, reply, request.agent, request.context.agent_path)
    return response
