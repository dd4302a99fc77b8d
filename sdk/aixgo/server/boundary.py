"""The boundary of every gRPC server of aixgo: whatever bytes come in, what goes out is an answer or a typed error.

gRPC itself would call a request that it cannot parse UNKNOWN, and tell callers the class and text of any exception.
Above it lies `listening.py`, which puts it around every service, health and reflection included; below it are the
servicers, whose own errors it ends RPCs with.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from aixgo.errors import AixgoError, InternalError, InvalidInput
from aixgo.wire.status import abort

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Behavior = Callable[[Any, Context], Any]
Parse = Callable[[bytes], Any]


class GuardedServer(grpc.aio.Server):
    """A server whose handlers are wrapped as they are added: requests are parsed inside, what is raised ends typed.

    All else it leaves to `server`. An interceptor would do the same, and gRPC would run it anew for each RPC.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve these; where several know a method, the one that was added first counts."""
        self._server.add_generic_rpc_handlers(tuple(map(_GuardedHandlers, generic_rpc_handlers)))

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Nothing: generated code adds the same handlers as generic ones too, and a server that asked these first
        would pass by the boundary, and by a handler that was added before them.
        """

    def add_insecure_port(self, address: str) -> int:
        """Listen at host:port in plain text; returns the port, raises RuntimeError as gRPC does."""
        return self._server.add_insecure_port(address)

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Listen at host:port with TLS; returns the port, raises RuntimeError as gRPC does."""
        return self._server.add_secure_port(address, server_credentials)

    async def start(self) -> None:
        """Begin to serve; once."""
        await self._server.start()

    async def stop(self, grace: float | None) -> None:
        """Take no new RPCs, and end the running ones after `grace` seconds; None: at once."""
        await self._server.stop(grace)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Return when the server has stopped; True when it has not, within `timeout` seconds."""
        return await self._server.wait_for_termination(timeout)


class _GuardedHandlers(grpc.GenericRpcHandler):
    """The handlers of a service, each wrapped when it is first asked for."""

    def __init__(self, inside: grpc.GenericRpcHandler) -> None:
        self._inside = inside
        self._wrapped: dict[str, Any] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of an RPC; None when this service does not have it."""
        wrapped = self._wrapped.get(handler_call_details.method)
        if wrapped is None:
            handler = self._inside.service(handler_call_details)
            if handler is None:
                return None  # not kept: callers can think of any number of methods
            wrapped = self._wrapped[handler_call_details.method] = _wrap(handler)
        return wrapped


def _wrap(handler: Any) -> Any:
    """The same handler, safe. A single request comes to it as bytes; a stream of them is parsed as it is read."""
    made: Any = grpc  # its type stubs want serializers
    encode, parse = handler.response_serializer, handler.request_deserializer
    if handler.unary_unary:
        return made.unary_unary_rpc_method_handler(_single(handler.unary_unary, parse), None, encode)
    if handler.unary_stream:
        return made.unary_stream_rpc_method_handler(_single(handler.unary_stream, parse), None, encode)
    if handler.stream_unary:
        return made.stream_unary_rpc_method_handler(_single(handler.stream_unary, None), parse, encode)
    return made.stream_stream_rpc_method_handler(_single(handler.stream_stream, None), parse, encode)


def _single(behavior: Behavior, parse: Parse | None) -> Behavior:
    if inspect.isasyncgenfunction(behavior):
        return _generator(behavior, parse)

    async def safe(request: Any, context: Context) -> Any:
        try:
            return await behavior(request if parse is None else parse(request), context)
        except Exception as error:  # noqa: BLE001  # the boundary: nothing untyped may pass it
            ended = await _ended(context, error)
        request = None
        raise ended

    return safe


def _generator(behavior: Behavior, parse: Parse | None) -> Behavior:
    async def safe(request: Any, context: Context) -> AsyncGenerator[Any]:
        try:
            async with aclosing(behavior(request if parse is None else parse(request), context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:  # noqa: BLE001  # the boundary: nothing untyped may pass it
            ended = await _ended(context, error)
        else:
            return
        request = None
        raise ended

    return safe


async def _ended(context: Context, error: Exception) -> Exception:
    """End an RPC with what was raised in it, unless that has been done, and return what tells gRPC so.

    What gRPC raises itself, it knows: that the RPC was ended, or that its caller had gone before that.
    gRPC keeps that in a cycle with its own state of the RPC until the garbage collector comes, for which a request of
    megabytes is one object: so it takes no frames along, which would keep the request.
    """
    ended = error
    if not isinstance(error, grpc.aio.BaseError):
        try:
            await _end(context, error)
        except grpc.aio.AbortError as aborted:
            ended = aborted
    ended.__context__ = ended.__cause__ = None
    return ended.with_traceback(None)


async def _end(context: Context, error: Exception) -> NoReturn:
    """End an RPC with what was raised in it: typed errors as they are, the text of others for the log alone."""
    if isinstance(error, AixgoError):
        await abort(context, error)
    if isinstance(error, DecodeError):
        await abort(context, InvalidInput("the bytes that came are no request of this RPC; send what proto/ says"))
    log.error("an RPC failed in aixgo", exc_info=error)
    await abort(context, InternalError("the server failed; its log has the details"))
