"""RegistryService on gRPC: maps messages to the registry and back.

Owns no state of instances: `registry.py` below does. It fills in the host of an address that comes without one.
`main.py` above wires it.
"""

# The methods are named by the contract.
# ruff: noqa: N802
from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc.aio
from aixgo.errors import AixgoError, InvalidInput, LimitExceeded
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.runtime.updates import Update
from aixgo.security.identity import Caller
from aixgo.security.security import Security
from aixgo.v1 import agent_pb2
from aixgo.v1 import registry_pb2 as pb
from aixgo.v1.registry_pb2_grpc import RegistryServiceServicer
from aixgo.wire.instances import (
    agent_to_proto,
    check_instance_id,
    instance_to_proto,
    read_announcement,
    update_to_proto,
)
from aixgo.wire.status import abort

from aixgo_controlplane.registry import Registry
from aixgo_controlplane.tombstones import NAME_BYTES

MAX_WATCHED_AGENTS = 1_000
"""Names in one WatchRequest."""
MAX_WATCHED_NAME = 1_024
"""Characters of a name in it, as many as a call may ask for."""
MAX_WATCHED_BYTES = 128 * 1024 * 1024
"""Bytes that the names of all watches may take."""

SPARE_ENCODED = 1_000
"""Encoded instances kept beyond twice the listed ones, before all are made anew."""
SPARE_BYTES = 4 * 1024 * 1024
"""Bytes of encoded instances kept beyond twice those of the listed ones, in the same way."""

_MAPPED_IPV4 = "::ffff:"

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class RegistryService(RegistryServiceServicer):
    """The registry's RPCs.

    Where `security` asks callers who they are, an instance is listed, kept and ended only by those who may register all
    of its names, so nobody takes over or ends the instances of another.
    """

    def __init__(self, registry: Registry, security: Security | None = None) -> None:
        self.watchers = 0
        """Watches that are open."""
        self._watched_bytes = 0
        self._registry = registry
        self._security = security or Security()
        self._encoder = _Encoder(registry)

    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:
        """Grant a lease, or renew it with new contents."""
        try:
            caller = self._security.caller(context)
            if request.lease_ms < 0:
                raise InvalidInput(f"lease_ms is {request.lease_ms}; use 1,000 to 300,000, or 0 for the default")
            instance = located(read_announcement(request.instance), context.peer())
            self._check(caller, instance.instance_id)
            self._security.check_register(caller, instance.by_name)
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
        try:
            caller = self._security.caller(context)
            async for request in request_iterator:
                self._check(caller, request.instance_id)
                known = self._registry.renew(request.instance_id, request.seq)
                yield pb.RenewResponse(instance_id=request.instance_id, known=known, epoch=self._registry.epoch)
        except AixgoError as error:
            await abort(context, error)

    async def Deregister(self, request: pb.DeregisterRequest, context: Context) -> pb.DeregisterResponse:
        """Give a lease back."""
        try:
            caller = self._security.caller(context)
            check_instance_id("instance_id", request.instance_id)
            self._check(caller, request.instance_id)
            return pb.DeregisterResponse(found=self._registry.revoke(request.instance_id, request.seq))
        except AixgoError as error:
            await abort(context, error)

    async def Resolve(self, request: pb.ResolveRequest, context: Context) -> pb.ResolveResponse:
        """The instances of one agent."""
        await self._admit(context)
        return pb.ResolveResponse(instances=map(self._encoder.instance, self._registry.resolve(request.agent)))

    async def List(self, request: pb.ListRequest, context: Context) -> pb.ListResponse:
        """All instances."""
        await self._admit(context)
        return pb.ListResponse(
            instances=map(self._encoder.instance, self._registry.list()),
            version=self._registry.version,
            epoch=self._registry.epoch,
        )

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        """A snapshot, then every change."""
        self.watchers += 1
        try:
            self._security.caller(context)
            with self._names(request.agents):
                watch = self._registry.watch(request.agents, by_name=request.by_name)
                try:
                    while True:
                        yield self._encoder.update(await watch.next())
                finally:
                    watch.close()
        except AixgoError as error:
            await abort(context, error)
        finally:
            self.watchers -= 1

    @contextmanager
    def _names(self, agents: Sequence[str]) -> Generator[None]:
        """Hold the names of one watch. Raises InvalidInput and LimitExceeded, naming the limit, for too many."""
        if len(agents) > MAX_WATCHED_AGENTS:
            raise InvalidInput(f"agents has {len(agents)} names; use at most {MAX_WATCHED_AGENTS}, or none for all")
        for index, name in enumerate(agents):
            if len(name) > MAX_WATCHED_NAME:
                raise InvalidInput(
                    f"agents[{index}] has {len(name)} characters; at most {MAX_WATCHED_NAME} are allowed"
                )
        size = sum(len(name.encode()) + NAME_BYTES for name in agents)
        if self._watched_bytes + size > MAX_WATCHED_BYTES:
            raise LimitExceeded(
                f"the names of all watches take {self._watched_bytes} bytes, and {MAX_WATCHED_BYTES} are allowed;"
                " watch by fewer names, or all instances",
                fields={"field": "agents", "limit": MAX_WATCHED_BYTES},
            )
        self._watched_bytes += size
        try:
            yield
        finally:
            self._watched_bytes -= size

    async def _admit(self, context: Context) -> None:
        """End the RPC of a caller that does not say who it is."""
        try:
            self._security.caller(context)
        except AixgoError as error:
            await abort(context, error)

    def _check(self, caller: Caller, instance_id: str) -> None:
        """Raise PermissionDenied for a caller that may not speak for an instance which is listed."""
        listed = self._registry.get(instance_id)
        if listed is not None:
            self._security.check_register(caller, listed.by_name)


class _Encoder:
    """Instances as messages, each made once however many watchers there are."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._made: dict[str, tuple[Instance, pb.Instance]] = {}
        self._bytes = 0
        self._catalogue: tuple[tuple[AgentInfo, ...], list[agent_pb2.AgentDescriptor]] = ((), [])

    def instance(self, instance: Instance) -> pb.Instance:
        known = self._made.get(instance.instance_id)
        if known is not None and known[0] is instance:
            return known[1]
        held = self._registry.held
        if len(self._made) > 2 * held.instances + SPARE_ENCODED or self._bytes > 2 * held.bytes + SPARE_BYTES:
            self._made.clear()
            self._bytes = 0
        message = instance_to_proto(instance)
        self._made[instance.instance_id] = (instance, message)
        self._bytes += message.ByteSize()
        return message

    def update(self, update: Update) -> pb.WatchResponse:
        described = self._described(update.agents) if update.snapshot else None
        return update_to_proto(update, map(self.instance, update.changed), described)

    def _described(self, catalogue: tuple[AgentInfo, ...]) -> list[agent_pb2.AgentDescriptor]:
        if self._catalogue[0] is not catalogue and catalogue:
            self._catalogue = (catalogue, [agent_to_proto(agent) for agent in catalogue])
        return self._catalogue[1] if catalogue else []


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
