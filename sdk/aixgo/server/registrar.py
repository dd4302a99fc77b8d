"""Keeping this process listed: one lease at each control plane, renewed for as long as the process lives.

Owns the instance's `seq` and the registrations. Below it lies `aixgo.runtime.contact`; above it AgentServer, which says
what the instance is (`describe`) and when that has changed (`announce`). No control plane can take the process down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import TypeAlias

import grpc.aio

from aixgo.errors import AixgoError, WrongState
from aixgo.runtime.contact import Contact, open_channel, why
from aixgo.runtime.instance import Instance
from aixgo.v1 import registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.instances import instance_to_proto
from aixgo.wire.status import from_rpc

LONGEST_PAUSE = 1.0
"""Seconds between attempts to register, at most."""
RPC_TIMEOUT = 2.0
"""Seconds that a control plane may take to answer."""
MAX_RPC_TIMEOUT = 16.0
"""Seconds that it may take after it was too slow several times in a row: thousands may be registering at once."""
CLOSE_TIMEOUT = 2.0
"""Seconds that deregistering may take, all control planes together."""

RenewCall: TypeAlias = "grpc.aio.StreamStreamCall[registry_pb2.RenewRequest, registry_pb2.RenewResponse]"

_log = logging.getLogger(__name__)


class Registrar:
    """Registers what `describe` says at each of `control_planes`, and keeps the leases.

    `describe` gives the instance as it is now; its `seq` is the registrar's to choose. `lease` is in seconds, 0 lets
    each control plane choose. `dial`, `sleep` and `random` (0 to 1) are for tests.
    """

    def __init__(
        self,
        control_planes: Sequence[str],
        describe: Callable[[], Instance],
        *,
        lease: float = 0.0,
        dial: Callable[[str], grpc.aio.Channel] = open_channel,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] | None = None,
    ) -> None:
        self._control_planes = tuple(dict.fromkeys(control_planes))
        self._describe = describe
        self._lease = lease
        self._dial = dial
        self._sleep = sleep
        self._random = random or Random().random  # noqa: S311  # jitter, no secret
        self._seq = 0
        self._registrations: list[_Registration] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._progress = asyncio.Event()

    async def open(self) -> None:
        """Start registering; returns at once. Raises WrongState when it is open."""
        if self._tasks:
            raise WrongState("the registrar is open already")
        instance = self._next()
        self._registrations = [
            _Registration(
                Contact(address, "registration", LONGEST_PAUSE, self._random), self._dial(address), instance, self
            )
            for address in self._control_planes
        ]
        self._tasks = [
            asyncio.create_task(registration.keep(self._lease, self._sleep), name=f"lease at {registration.address}")
            for registration in self._registrations
        ]

    async def announce(self) -> None:
        """Tell every control plane that the instance has changed.

        Returns when those that list it know the change, or after 2 s; the others hear of it when they are back.
        """
        instance = self._next()
        for registration in self._registrations:
            registration.announce(instance)
        await self._wait(RPC_TIMEOUT, lambda: all(r.current or not r.listed for r in self._registrations))

    async def registered(self, timeout: float) -> bool:
        """Wait until a control plane lists the instance as it is now; False when none did within `timeout` seconds."""
        return await self._wait(timeout, lambda: any(r.current for r in self._registrations))

    @property
    def refusals(self) -> Mapping[str, AixgoError]:
        """Why control planes, by address, refuse the instance. Those that do not answer at all are not among them."""
        return {r.address: r.refusal for r in self._registrations if r.refusal is not None}

    async def close(self) -> None:
        """Deregister everywhere, for 2 s at most, and stop. The registrar may be opened again."""
        await _cancel(self._tasks)
        self._seq += 1
        ends = [asyncio.create_task(registration.end(self._seq)) for registration in self._registrations]
        if ends:
            await asyncio.wait(ends, timeout=CLOSE_TIMEOUT)
        await _cancel(ends)
        self._tasks, self._registrations = [], []

    def progressed(self) -> None:
        """A registration has changed; for the registrations."""
        self._progress.set()
        self._progress = asyncio.Event()

    def outbid(self, seq: int) -> None:
        """A control plane knows a higher `seq` of this instance: announce one above it; for the registrations."""
        self._seq = max(self._seq, seq)
        instance = self._next()
        for registration in self._registrations:
            registration.announce(instance)

    def _next(self) -> Instance:
        self._seq += 1
        return replace(self._describe(), seq=self._seq)

    async def _wait(self, timeout: float, done: Callable[[], bool]) -> bool:
        try:
            async with asyncio.timeout(timeout):
                while not done():
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True


class _Registration:
    """One instance at one control plane: registered, renewed, registered again."""

    def __init__(self, contact: Contact, channel: grpc.aio.Channel, instance: Instance, owner: Registrar) -> None:
        self.address = contact.address
        self.refusal: AixgoError | None = None
        self._contact = contact
        self._channel = channel
        self._stub = RegistryServiceStub(channel)
        self._instance = instance
        self._owner = owner
        self._listed_seq = 0
        self._patience = RPC_TIMEOUT
        self._wake = asyncio.Event()

    @property
    def listed(self) -> bool:
        """Whether the control plane lists the instance, perhaps as it was."""
        return self._listed_seq > 0

    @property
    def current(self) -> bool:
        """Whether the control plane lists the instance as it is now."""
        return self._listed_seq == self._instance.seq

    def announce(self, instance: Instance) -> None:
        """Register this from now on."""
        self._instance = instance
        self._wake.set()

    async def keep(self, lease: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Stay registered until cancelled. `lease` is in seconds, 0 for the control plane's own."""
        while True:
            try:
                await self._hold(lease)
                reason = "it ended the renewals"
            except grpc.aio.AioRpcError as error:
                reason = self._explain(error)
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    self._be_patient()
            except TimeoutError:
                reason = f"no answer within {self._patience:.0f} s"
                self._be_patient()
            was_listed = self.listed
            self._set_listed(0)
            if was_listed:
                # The way to the control plane may have changed, and with it the address that the instance is seen at;
                # registered again with the seq that is known already, it would keep the old one.
                self._owner.outbid(self._instance.seq)
            await sleep(self._contact.lost(reason))

    async def end(self, seq: int) -> None:
        """Deregister, if the control plane can be reached, and close the channel."""
        request = registry_pb2.DeregisterRequest(instance_id=self._instance.instance_id, seq=seq)
        try:
            await self._stub.Deregister(request, timeout=CLOSE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            _log.debug("control plane %s was not told that the instance ends: %s", self.address, why(error))
        finally:
            await self._channel.close()

    async def _hold(self, lease: float) -> None:
        granted = await self._register(lease)
        call = self._stub.Renew()
        call.add_done_callback(lambda _: self._wake.set())
        try:
            while not call.done():
                await self._pause(granted / 3)
                if call.done():
                    return
                if not self.current or not await self._renew(call):
                    granted = await self._register(lease)
        finally:
            call.cancel()

    async def _register(self, lease: float) -> float:
        """Register what is announced; the seconds of the lease."""
        instance = self._instance
        request = registry_pb2.RegisterRequest(instance=instance_to_proto(instance), lease_ms=round(lease * 1000))
        response = await self._stub.Register(request, timeout=self._patience)
        self._patience = RPC_TIMEOUT
        self.refusal = None
        self._contact.made()
        self._set_listed(instance.seq)
        return response.lease_ms / 1000

    async def _renew(self, call: RenewCall) -> bool:
        request = registry_pb2.RenewRequest(instance_id=self._instance.instance_id, seq=self._instance.seq)
        async with asyncio.timeout(self._patience):
            await call.write(request)
            answer = await call.read()
        return isinstance(answer, registry_pb2.RenewResponse) and answer.known

    async def _pause(self, seconds: float) -> None:
        """Wait until the next renewal is due, or something happened."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _be_patient(self) -> None:
        # Asking a control plane again that is only slow, with as little patience, is what would keep it slow.
        self._patience = min(self._patience * 2, MAX_RPC_TIMEOUT)

    def _explain(self, error: grpc.aio.AioRpcError) -> str:
        refusal = from_rpc(error)
        if refusal is None:
            return why(error)
        if isinstance(refusal, WrongState) and isinstance(refusal.fields.get("seq"), int):
            self._owner.outbid(refusal.fields["seq"])
        self.refusal = refusal
        return refusal.message

    def _set_listed(self, seq: int) -> None:
        self._listed_seq = seq
        self._owner.progressed()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
