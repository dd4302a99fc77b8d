"""AgentServer: listens, lists itself with the control planes, and drains without a failed call.

Wiring of its parts: `calls.py` (serving), `servicer.py` (gRPC), `registrar.py` (leases), grpc.health.v1 and reflection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import grpc.aio

from aixgo.message import new_id
from aixgo.runtime.base import MAX_MESSAGE_BYTES, BaseRuntime
from aixgo.runtime.contact import open_channel
from aixgo.runtime.instance import Instance, InstanceState
from aixgo.security.security import Security
from aixgo.server.callees import Callees, OwnAgents
from aixgo.server.calls import MAX_CONCURRENT_CALLS, CallServer
from aixgo.server.limits import RateLimit
from aixgo.server.listening import MAX_RPCS, add_health_and_reflection, bind, new_server, open_health_port
from aixgo.server.loop_watch import LoopWatch
from aixgo.server.registrar import Registrar
from aixgo.server.servicer import AgentServicer, add_agent_service
from aixgo.server.session import Sessions
from aixgo.telemetry import metrics
from aixgo.v1 import agent_pb2

log = logging.getLogger(__name__)

TRANSPORTS = ("plain", "session")
"""The ways of calling that every server of aixgo offers."""
HEADROOM = 64 * 1024
"""Bytes that a request may have beyond its message: context, metadata, framing."""
READY_POLL = 1.0
"""Seconds between two looks at whether the agents are ready."""
DRAIN_PAUSE = 0.2
"""Seconds that callers get to hear of a drain before calls are refused."""
STOP_GRACE = 0.5
"""Seconds for the last replies to leave after all calls have ended."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """How much an AgentServer takes: bytes of a message, calls at once, seconds for a drain, calls of one caller."""

    max_message_bytes: int = MAX_MESSAGE_BYTES
    max_concurrent_calls: int = MAX_CONCURRENT_CALLS
    drain_timeout: float = 10.0
    rate_limit: RateLimit | None = None


class AgentServer:
    """Serves the agents of a runtime at one address. `async with server:` listens; leaving it drains.

    `listen` is host:port (port 0: any free one). `advertise` is the host:port that others are told, where it differs;
    a server that listens on all interfaces and advertises nothing is listed under the host that the control plane sees.
    `callees` are whom it calls, when those are not the agents of the runtime. `instance_id` is for a process that is
    known by an id already, in its telemetry. `security` says who may call, and how it and the control planes are
    reached; without it, that is in plain text, by everybody, and on this machine only.
    """

    def __init__(
        self,
        runtime: BaseRuntime,
        *,
        listen: str = "127.0.0.1:0",
        advertise: str | None = None,
        control_plane: Sequence[str] = (),
        limits: ServerLimits | None = None,
        callees: Callees | None = None,
        instance_id: str = "",
        security: Security | None = None,
    ) -> None:
        self.instance_id = instance_id or new_id()
        self._callees = callees or OwnAgents(runtime, self.instance_id)
        self._runtime = runtime
        self._listen = listen
        self._advertise = advertise
        self._limits = limits or ServerLimits()
        self._state = InstanceState.READY
        self._security = security or Security()
        limit = self._limits.max_concurrent_calls
        self._calls = CallServer(
            self._callees,
            max_concurrent_calls=limit,
            security=self._security,
            instance_id=self.instance_id,
            rate_limit=self._limits.rate_limit,
        )
        dial = partial(open_channel, security=self._security)
        self._sessions = Sessions(self._calls, max_bytes=self._limits.max_message_bytes + HEADROOM)
        self._registrar = Registrar(control_plane, self.describe, dial=dial) if control_plane else None
        self._server: grpc.aio.Server | None = None
        self._health_port: grpc.aio.Server | None = None
        self._monitor: asyncio.Task[None] | None = None
        self._loop_watch = LoopWatch()
        self._stopped = asyncio.Event()
        self.address = ""

    def describe(self) -> Instance:
        """This instance as callers and control planes see it; `seq` is the registrar's to count."""
        from aixgo import __version__

        labels = {"pid": str(os.getpid()), "host": socket.gethostname()}
        return Instance(
            self.instance_id,
            self._advertised(),
            0,
            self._callees.infos(),
            self._state,
            TRANSPORTS,
            __version__,
            labels,
        )

    async def registered(self, timeout: float) -> bool:
        """Wait until a control plane lists this instance; False when none does within `timeout` seconds."""
        return self._registrar is not None and await self._registrar.registered(timeout)

    def readings(self) -> Iterable[metrics.Reading]:
        """How busy it is, for whoever collects metrics."""
        yield "aixgo.server.calls.active", self._calls.count, {}
        yield "aixgo.server.calls.limit", self._limits.max_concurrent_calls, {}
        yield from self._loop_watch.readings()

    async def drain(self) -> None:
        """Take no new calls, finish the running ones within `drain_timeout`, and stop. Safe to call again."""
        if self._state is InstanceState.DRAINING:
            await self._stopped.wait()
            return
        self._state = InstanceState.DRAINING
        try:
            await self._wind_down()
        finally:
            self._loop_watch.stop()
            for server in (self._server, self._health_port):
                if server is not None:
                    await server.stop(None)  # at once, where the drain was cut short
            self._stopped.set()

    async def wait_stopped(self) -> None:
        """Return when a drain has ended."""
        await self._stopped.wait()

    async def __aenter__(self) -> Self:
        from grpc_health.v1 import health_pb2

        self._security.check_rules((name, agent.allow_callers) for name, agent in self._runtime.own_agents.items())
        self._serving = health_pb2.HealthCheckResponse.SERVING
        self._not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
        server = new_server(
            self._limits.max_message_bytes + HEADROOM, max_rpcs=self._limits.max_concurrent_calls + MAX_RPCS
        )
        servicer = AgentServicer(self._calls, self._sessions, self.describe, self._runtime.max_message_bytes)
        add_agent_service(servicer, server)
        service = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name
        self._health = add_health_and_reflection(server, [service], self._security)
        self.address = bind(server, self._listen, self._security)
        await server.start()
        self._health_port = await open_health_port(self._health, self.address, self._security)
        self._server = server
        await self._publish_health(self.describe())
        if self._registrar is not None:
            await self._registrar.open()
        self._loop_watch.start()
        metrics.observe(self)
        self._monitor = asyncio.get_running_loop().create_task(self._watch_ready(), name="readiness")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.drain()

    async def _wind_down(self) -> None:
        if self._monitor is not None:
            self._monitor.cancel()
        if self._registrar is not None:
            await self._registrar.announce()
        self._sessions.drain()
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(DRAIN_PAUSE if self._registrar is not None else 0)
        if not await self._calls.finish(self._limits.drain_timeout, self._runtime.queues.refuse_waiting):
            log.warning(
                "calls were cancelled because they took longer than the drain, %g s", self._limits.drain_timeout
            )
        self._sessions.finish()
        if self._server is not None:
            await self._server.stop(STOP_GRACE)
        if self._registrar is not None:
            await self._registrar.close()

    def _advertised(self) -> str:
        if self._advertise:
            return self._advertise
        host, _, port = self.address.rpartition(":")
        return f":{port}" if host in ("0.0.0.0", "[::]", "") else self.address  # noqa: S104  # compared, not bound

    async def _watch_ready(self) -> None:
        """Publish what changes: agents that come, go, or turn ready or unready."""
        published, serving = self.describe(), self._callees.serving
        while True:
            await asyncio.sleep(READY_POLL)
            now = self.describe()
            if (now, self._callees.serving) != (published, serving):
                gone = published.by_name.keys() - now.by_name.keys()
                published, serving = now, self._callees.serving
                await self._publish_health(now, gone)
                if self._registrar is not None:
                    await self._registrar.announce()

    async def _publish_health(self, instance: Instance, gone: Iterable[str] = ()) -> None:
        for name in gone:
            await self._health.set(name, self._not_serving)
        for agent in instance.agents:
            await self._health.set(agent.name, self._serving if agent.ready else self._not_serving)
        await self._health.set("", self._serving if self._callees.serving else self._not_serving)
