"""RegistryService on gRPC: maps messages to the registry and back.

Owns no state of instances: `registry.py` below does. It fills in the host of an address that comes without one, and
ends the watches when the process stops. `main.py` above wires it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc.aio
from aixgo.errors import AixgoError, InvalidInput, Unavailable
from aixgo.runtime.instance import Instance
from aixgo.v1 import registry_pb2 as pb
from aixgo.v1.registry_pb2_grpc import RegistryServiceServicer
from aixgo.wire.instances import instance_to_proto, read_announcement, update_to_proto
from aixgo.wire.status import abort

from aixgo_controlplane.registry import Registry, Watch

MAX_WATCHED_AGENTS = 1_000
"""Names in one WatchRequest."""

_MAPPED_IPV4 = "::ffff:"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RegistryService(RegistryServiceServicer):
    """The registry's RPCs. `close` ends the open watches, so that the server can stop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End every watch with UNAVAILABLE, and refuse new ones."""
        self._closed.set()

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Grant a lease, or renew it with new contents."""
        try:
            if request.lease_ms < 0:
                raise InvalidInput(f"lease_ms is {request.lease_ms}; use 1,000 to 300,000, or 0 for the default")
            instance = located(read_announcement(request.instance), context.peer())
            lease = self._registry.grant(instance, request.lease_ms / 1000)
        except AixgoError as error:
            await abort(context, error)
        return pb.RegisterResponse(
            lease_ms=round(lease.seconds * 1000), epoch=self._registry.epoch, address=lease.announced.address
        )

    async def Renew(
        self, request_iterator: AsyncIterator[pb.RenewRequest], context: Context
    ) -> AsyncIterator[pb.RenewResponse]:
        """Keep leases, one answer for one request."""
        async for request in request_iterator:
            known = self._registry.renew(request.instance_id, request.seq)
            yield pb.RenewResponse(instance_id=request.instance_id, known=known, epoch=self._registry.epoch)

    async def Deregister(self, request: pb.DeregisterRequest, context: Context) -> pb.DeregisterResponse:
        """Give a lease back."""
        try:
            if not request.instance_id:
                raise InvalidInput("instance_id is empty; say which instance ends")
            return pb.DeregisterResponse(found=self._registry.revoke(request.instance_id, request.seq))
        except AixgoError as error:
            await abort(context, error)

    async def Resolve(self, request: pb.ResolveRequest, context: Context) -> pb.ResolveResponse:  # noqa: ARG002
        """The instances of one agent."""
        return pb.ResolveResponse(instances=map(instance_to_proto, self._registry.resolve(request.agent)))

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:  # noqa: ARG002
        """All instances."""
        return pb.ListResponse(
            instances=map(instance_to_proto, self._registry.list()),
            version=self._registry.version,
            epoch=self._registry.epoch,
        )

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """A snapshot, then every change."""
        try:
            if len(request.agents) > MAX_WATCHED_AGENTS:
                raise InvalidInput(
                    f"agents has {len(request.agents)} names; use at most {MAX_WATCHED_AGENTS}, or none for all"
                )
            async for response in self._updates(self._registry.watch(request.agents)):
                yield response
        except AixgoError as error:
            await abort(context, error)

    async def _updates(self, watch: Watch) -> AsyncIterator[pb.WatchResponse]:
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            while True:
                update = asyncio.ensure_future(watch.next())
                try:
                    await asyncio.wait((update, closed), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    update.cancel()
                if closed.done():
                    raise Unavailable("the control plane is stopping; watch again")
                yield update_to_proto(update.result())
        finally:
            closed.cancel()


def located(instance: Instance, peer: str) -> Instance:
    """The instance with the host of its address filled in from the peer that gRPC saw, when it has none."""
    if not instance.address.startswith(":"):
        return instance
    return replace(instance, address=host_of(peer) + instance.address)


def host_of(peer: str) -> str:
    """The host of a gRPC peer, as addresses write it. Raises InvalidInput for a peer without one."""
    kind, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0]
    if kind == "ipv4":
        return host
    if kind != "ipv6":
        raise InvalidInput(f"instance.address has no host, and the connection ({peer}) shows none; write host:port")
    bare = host.strip("[]")
    return bare.removeprefix(_MAPPED_IPV4) if bare.startswith(_MAPPED_IPV4) and "." in bare else f"[{bare}]"
