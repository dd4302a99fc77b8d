"""DistributedRuntime: the same contract over gRPC. Agents of this process are called directly, others where they are.

Wiring of its parts: resolver (which instances), replicas (which one), transport (how), `remote.py` (the calls). It does
not listen: AgentServer does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from aixgo.agent import Agent
from aixgo.call import MAX_DEPTH, CallState
from aixgo.errors import AixgoError, RegistryUnavailable, WrongState
from aixgo.events import Event
from aixgo.mailboxes.contract import Mailboxes
from aixgo.message import Message
from aixgo.runtime.base import MAILBOX_SIZE, MAX_MESSAGE_BYTES, BaseRuntime
from aixgo.runtime.channels import ChannelPool
from aixgo.runtime.contact import open_channel
from aixgo.runtime.contract import CallOptions
from aixgo.runtime.discovery import Discovery
from aixgo.runtime.dns import Hosts, Resolve, system_resolve
from aixgo.runtime.entry import READY_TIMEOUT, typed
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.runtime.plain import PlainTransport, TransportFailed
from aixgo.runtime.remote import RemoteCalls
from aixgo.runtime.replicas import Replicas
from aixgo.runtime.resolver import Resolver
from aixgo.runtime.session import SessionTransport, TransportChoice
from aixgo.security.security import Security
from aixgo.telemetry.metrics import Reading
from aixgo.wire.instances import agent_from_proto

DESCRIBE_TIMEOUT = 60.0
"""Seconds that `connect` goes on asking, in the background, what lives at a fixed address."""


class DistributedRuntime(BaseRuntime):
    """The Runtime contract over gRPC.

    `control_plane` lists the addresses of the control planes, `connect` addresses of agents by name: `host:port`, or
    `dns:///host:port` for every address of a host name, looked up again every few seconds. The name `*` stands for all
    names that are not known otherwise: `{"*": "gateway:50051"}` for a gateway, `{"*": "dns:///{name}.agents:50051"}`
    for a headless Service of each agent. `resolve` looks host names up, in place of the system. `security` says how
    others are dialled (without it: in plain text). `transport` says how calls travel: `auto`, `plain` or `session` (see
    TransportChoice). `hedged` are the seconds after which calls of an agent are hedged, by its name, as
    `CallOptions.hedge_after` says for one call. It must be entered (`async with`) before it calls other processes.
    """

    def __init__(
        self,
        *,
        control_plane: Sequence[str] = (),
        connect: Mapping[str, str] | None = None,
        max_depth: int = MAX_DEPTH,
        mailbox_size: int = MAILBOX_SIZE,
        mailboxes: Mailboxes | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        resolve: Resolve = system_resolve,
        security: Security | None = None,
        transport: TransportChoice | str = TransportChoice.AUTO,
        hedged: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(
            max_depth=max_depth,
            mailbox_size=mailbox_size,
            mailboxes=mailboxes,
            max_message_bytes=max_message_bytes,
        )
        dial = partial(open_channel, security=security)
        self._discovery = Discovery(control_plane, by_name=True, dial=dial) if control_plane else None
        self._channels = ChannelPool(max_message_bytes=max_message_bytes + 64 * 1024, security=security)
        self._transport = PlainTransport(self._channels)
        self._hosts = Hosts(resolve=resolve, describe=self._agents_at)
        self._resolver = Resolver(self._discovery, self._hosts)
        self._replicas = Replicas(self._resolver, self._transport.healthy)
        self._sessions = self._make_sessions(TransportChoice.of(transport), max_message_bytes + 64 * 1024)
        self._remote = RemoteCalls(self._replicas, self._transport, self._sessions, hedged=hedged)
        self._describing: set[asyncio.Task[None]] = set()
        self._entered = False
        for name, address in (connect or {}).items():
            self._resolver.connect(name, address)

    def register(self, agent: Agent) -> None:
        super().register(agent)
        if self._entered:
            self._look_for([agent])

    async def connect(self, name: str, address: str) -> None:
        self._resolver.connect(name, address)
        if self._entered:
            await self._begin_to_ask([name])

    async def disconnect(self, name: str) -> None:
        await self._channels.drop(self._resolver.disconnect(name))

    @property
    def remote(self) -> RemoteCalls:
        """The calls to other processes, for who passes calls on as they are: the gateway."""
        return self._remote

    def instances(self) -> Sequence[Instance]:
        """The instances of other processes that are known now, ready or not.

        They are those of the agents that this process calls; `all_instances` brings those of all agents.
        """
        return self._resolver.all()

    async def all_instances(self, *, timeout: float = READY_TIMEOUT) -> Sequence[Instance]:
        """The instances of all agents, ready or not; from now on `instances` tells of all, too.

        Waits until each control plane has listed its own or could not be reached, for `timeout` seconds at most. Raises
        RegistryUnavailable when none has until then.
        """
        if not await self._resolver.heard_all(timeout):
            raise RegistryUnavailable(
                f"no control plane has listed its instances within {timeout:g} s; check that one runs at the"
                " configured address (aixgo controlplane)"
            )
        return self._resolver.all()

    def readings(self) -> Iterable[Reading]:
        yield from super().readings()
        states = Counter(instance.state.name.lower() for instance in self._resolver.all())
        for state in InstanceState:
            name = state.name.lower()
            yield "aixgo.instances", states[name], {"aixgo.instance.state": name}
        yield "aixgo.channels", len(self._channels), {}

    def _call_elsewhere(
        self, target: str, message: Message, state: CallState, options: CallOptions
    ) -> Coroutine[Any, Any, Message]:
        if not self._entered:
            raise self._not_entered(state)
        return self._remote.call(target, message, state, options)

    def _stream_elsewhere(
        self, target: str, message: Message, state: CallState, options: CallOptions
    ) -> AsyncGenerator[Event]:
        if not self._entered:
            raise self._not_entered(state)
        return self._remote.stream(target, message, state, options)

    async def _send_elsewhere(self, target: str, message: Message) -> None:
        await self._remote.send(target, message)

    def _proxy(self, name: str) -> Agent:
        info = self._resolver.info(name)
        if info is None:
            raise self._unknown(name)
        return RemoteAgent(self, info)

    def _names_elsewhere(self) -> Sequence[str]:
        return self._resolver.names()

    async def _opened(self) -> None:
        self._entered = True
        self._look_for(self.own_agents.values())
        if self._discovery is not None:
            await self._discovery.open()
        await self._begin_to_ask(self._resolver.fixed_names())

    def _make_sessions(self, choice: TransportChoice, max_bytes: int) -> SessionTransport | None:
        if choice is TransportChoice.PLAIN:
            return None
        return SessionTransport(
            self._channels,
            self._transport,
            max_bytes=max_bytes,
            eager=choice is TransportChoice.SESSION,
            loaded=self._replicas.balancer.reported,
        )

    async def _closed(self) -> None:
        self._entered = False
        for task in self._describing:
            task.cancel()
        if self._sessions is not None:
            await self._sessions.close()
        await self._replicas.close()
        await self._hosts.close()
        if self._discovery is not None:
            await self._discovery.close()
        await self._channels.close()

    def _look_for(self, agents: Iterable[Agent]) -> None:
        """Ask for those whom these agents will call: at their first call every control plane may be away."""
        callees = {name for agent in agents for name in agent.callees()}
        self._resolver.use(callees.difference(self.own_agents))

    def _not_entered(self, state: CallState) -> AixgoError:
        return typed(WrongState("this DistributedRuntime is not entered; use `async with runtime:`"), state)

    async def _begin_to_ask(self, names: Sequence[str]) -> None:
        """Ask, in the background, a gateway and the processes at the fixed addresses of these names who lives there."""
        await self._hosts.open()
        for name in set(names) & set(self._resolver.fixed_names()):
            asked = self._ask(name, self._resolver.instances(name)[0].address)
            task = asyncio.get_running_loop().create_task(asked, name=f"describe {name}")
            self._describing.add(task)
            task.add_done_callback(self._describing.discard)

    async def _ask(self, name: str, address: str) -> None:
        """Learn whether the agent at a fixed address is idempotent; an address that never answers stays as it is."""
        for info in await self._agents_at(address, DESCRIBE_TIMEOUT) or ():
            if info.name == name:
                self._resolver.described(name, info)

    async def _agents_at(self, address: str, timeout: float) -> Sequence[AgentInfo] | None:
        """Who lives at an address; None when it does not say."""
        try:
            answer = await self._transport.describe(address, timeout)
        except (AixgoError, TransportFailed):
            return None
        if self._sessions is not None:
            self._sessions.described(address, answer.transports)
        return [agent_from_proto(agent) for agent in answer.agents]


class RemoteAgent(Agent):
    """An agent of another process, as `get_agent` returns it: what is known of it, and calls through the runtime."""

    def __init__(self, runtime: DistributedRuntime, info: AgentInfo) -> None:
        self.name, self.role, self.idempotent = info.name, info.role, info.idempotent
        self.pattern, self.agents = info.pattern, info.agents
        self._info = info
        self.bind(runtime)

    async def execute(self, message: Message) -> Message:
        return await self.runtime.call(self.name, message)

    async def stream(self, message: Message) -> AsyncGenerator[Event]:
        async with self.runtime.stream(self.name, message) as events:
            async for event in events:
                yield event

    def ready(self) -> bool:
        return self._info.ready
