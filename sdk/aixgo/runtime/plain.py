"""The plain transport: one RPC for each call, over pooled channels. Every instance serves it.

Owns the client's side of AgentService. It maps, and tells what went wrong; whether to try again is for `remote.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from aixgo.errors import (
    AixgoError,
    DeadlineExceeded,
    InstanceLost,
    InvalidMessage,
    MessageTooLarge,
    StreamBroken,
)
from aixgo.events import Event, Result
from aixgo.runtime.channels import ChannelPool, PooledChannel
from aixgo.runtime.entry import cancelled_from_outside, outlasted
from aixgo.runtime.grant import Grant
from aixgo.usage import NO_USAGE
from aixgo.v1 import agent_pb2 as pb
from aixgo.v1 import types_pb2
from aixgo.wire.codec import decode_error, decode_event, decode_usage
from aixgo.wire.status import from_rpc, from_transport

log = logging.getLogger(__name__)

CANCEL_TIMEOUT = 0.1
"""Seconds that a cancelled caller waits to learn what its callee has spent."""
LATE_CANCEL_TIMEOUT = 0.05
"""The same where the deadline of the call has passed: the callee's own was earlier, so it knows by then if it lives."""
PROBE_TIMEOUT = 1.0
"""Seconds for a health check."""

Headers = Sequence[tuple[str, str]]


class Reply(Protocol):
    """What every transport brings back from a call."""

    @property
    def message(self) -> types_pb2.Message:
        """The reply, with its usage."""
        ...


class Transport(Protocol):
    """How calls travel. Both raise the callee's AixgoError, or TransportFailed when it carries none.

    `timeout` is in seconds. When a call is cancelled, what the callee has spent is settled with `grant`.
    """

    async def execute(
        self, address: str, request: pb.ExecuteRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> Reply:
        """One call."""
        ...

    def stream(
        self, address: str, request: pb.ExecuteStreamRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> AsyncGenerator[Event]:
        """The events of one call; the last one is the Result."""
        ...


class TransportFailed(Exception):
    """The transport failed, or answered for the instance; `error` is what the caller gets if nobody tries again."""

    def __init__(self, error: AixgoError) -> None:
        super().__init__(str(error))
        self.error = error


class PlainTransport:
    """Calls to instances by address. Raises the callee's AixgoError, or TransportFailed when it carries none."""

    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def execute(
        self, address: str, request: pb.ExecuteRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> pb.ExecuteResponse:
        """One call. When it is cancelled, what the callee has spent is settled with `grant`."""
        pooled = self._channels.borrow(address)
        try:
            return await pooled.stub.Execute(request, timeout=timeout, metadata=headers)
        except grpc.aio.AioRpcError as error:
            raise _failure(error, address, grant) from error
        except asyncio.CancelledError as error:
            _raise_if_channel_closed(address, error)
            await self._cancel(pooled, request.context.call_id, grant)
            raise
        finally:
            self._channels.give_back(pooled)

    async def stream(
        self, address: str, request: pb.ExecuteStreamRequest, timeout: float, headers: Headers | None, grant: Grant
    ) -> AsyncGenerator[Event]:
        """The events of one call; the last one is the Result. A stream that breaks off raises TransportFailed."""
        pooled = self._channels.borrow(address)
        call = pooled.stub.ExecuteStream(request, timeout=timeout, metadata=headers)
        frames = aiter(call)
        due = asyncio.get_running_loop().time() + timeout
        terminal = False
        try:
            while (frame := await _whole_read(call, frames)) is not None:
                if frame.WhichOneof("frame") == "error":
                    terminal = True
                    raise decode_error(frame.error)
                event = decode_event(frame.event)
                terminal = isinstance(event, Result)
                yield event
                if terminal:
                    return
            raise TransportFailed(StreamBroken(f"{address}: the stream ended without a terminal frame"))
        except grpc.aio.AioRpcError as error:
            terminal = True
            raise _failure(error, address, grant) from error
        except asyncio.CancelledError as error:
            _raise_if_channel_closed(address, error)
            raise
        finally:
            call.cancel()
            if not terminal:
                late = asyncio.get_running_loop().time() >= due
                patience = LATE_CANCEL_TIMEOUT if late else CANCEL_TIMEOUT
                await self._cancel(pooled, request.context.call_id, grant, patience)
            self._channels.give_back(pooled)

    async def deliver(self, address: str, request: pb.DeliverRequest, timeout: float, headers: Headers | None) -> None:
        """Put a message into a mailbox there."""
        pooled = self._channels.borrow(address)
        try:
            await pooled.stub.Deliver(request, timeout=timeout, metadata=headers)
        except grpc.aio.AioRpcError as error:
            raise _failure(error, address) from error
        finally:
            self._channels.give_back(pooled)

    async def describe(self, address: str, timeout: float) -> pb.DescribeResponse:
        """What lives there; waits for a connection until `timeout`."""
        pooled = self._channels.borrow(address)
        try:
            return await pooled.stub.Describe(pb.DescribeRequest(), timeout=timeout, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise _failure(error, address) from error
        finally:
            self._channels.give_back(pooled)

    async def healthy(self, address: str) -> bool:
        """Whether the process there says that it serves. One without a health service counts as healthy."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        pooled = self._channels.borrow(address)
        stub: Any = health_pb2_grpc.HealthStub(pooled.channel)  # its type stubs do not know its methods
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNIMPLEMENTED
        except (asyncio.CancelledError, grpc.aio.UsageError):
            if cancelled_from_outside():
                raise
            return False  # the channel was closed under the question
        finally:
            self._channels.give_back(pooled)
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    async def _cancel(
        self, pooled: PooledChannel, call_id: str, grant: Grant, patience: float = CANCEL_TIMEOUT
    ) -> None:
        """Cancel a call where it runs, and settle what it has spent; learn that within `patience` seconds."""
        asking = asyncio.get_running_loop().create_task(self._ask_spent(pooled, call_id, grant, patience))
        cancelled = await outlasted(asking, 2 * patience)  # it ends by itself, unless this process is very busy
        asking.cancel()
        grant.lose()  # unless it was settled
        if cancelled is not None:
            raise cancelled

    async def _ask_spent(self, pooled: PooledChannel, call_id: str, grant: Grant, patience: float) -> None:
        try:
            request = pb.CancelRequest(call_id=call_id, instance_id=grant.instance_id)
            answer = await pooled.stub.Cancel(request, timeout=patience)
            if answer.found:
                grant.settle(decode_usage(answer.usage))
            elif answer.refused:
                grant.settle(NO_USAGE)
        except (grpc.aio.AioRpcError, InvalidMessage) as error:
            log.debug("what a cancelled call has spent is not known: %s", error)


_BROKEN = frozenset(
    (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
)
"""Codes that the transport itself gives when a connection or a process breaks; the others are answers."""


async def _whole_read(call: Any, frames: AsyncIterator[pb.ExecuteStreamResponse]) -> pb.ExecuteStreamResponse | None:
    """The next frame of a call, None after the last.

    Whoever is cancelled in the middle of a read of grpc.aio's leaks what it reads, some KiB (grpc#43360). So the read
    has a task of its own, which nobody cancels: it ends with the call.
    """
    reading = asyncio.get_running_loop().create_task(_next(frames))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        call.cancel()
        raise


async def _next(frames: AsyncIterator[pb.ExecuteStreamResponse]) -> pb.ExecuteStreamResponse | None:
    return await anext(frames, None)


def _failure(error: grpc.aio.AioRpcError, address: str, grant: Grant | None = None) -> AixgoError | TransportFailed:
    """What to raise for a failed RPC. A `grant` that may have been spent without a word of it is lost."""
    answered = from_rpc(error)
    if answered is not None:
        return answered
    failed = from_transport(error, address)
    spends = error.code() in _BROKEN or isinstance(failed, (DeadlineExceeded, MessageTooLarge))
    if spends and failed.accepted and grant is not None:
        grant.lose()
    if error.code() in _BROKEN:
        return TransportFailed(failed)
    if isinstance(failed, DeadlineExceeded):
        return DeadlineExceeded(f"{address} did not answer before the deadline; give the call a longer timeout")
    return failed


def _raise_if_channel_closed(address: str, error: asyncio.CancelledError) -> None:
    """Tell a cancelled caller from a call that ended because its channel was closed under it."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() == 0:
        raise TransportFailed(InstanceLost(f"{address}: the channel was closed during the call")) from error
