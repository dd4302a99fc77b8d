"""The gateway: one port through which callers outside the mesh reach any agent of it by name.

Owns what passing a call on means: it is no entry of the call tree, so that depth, path, deadline, grant, session and
trace reach the agent as the caller sent them, and errors, usage and events come back as they are. Limits, deadline,
Cancel and drain are those of AgentServer (below); finding, balancing and retrying are those of RemoteCalls. It keeps no
agents, registers nowhere, and adds no span: there is nothing to tell of it between the caller's and the agent's.
`wait_for_ready` is an option of the caller's own runtime: a gateway waits for a ready instance as long as any caller
does without it, 2 s. Above: `aixgo gateway`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from aixgo.call import Budget, CallState, entered
from aixgo.config.settings import Settings, read_environment
from aixgo.errors import AgentNotFound, DeadlineExceeded, Unavailable
from aixgo.launch import make_security, telemetry_settings
from aixgo.mailboxes.contract import LASTING_MESSAGES, SEND_TIMEOUT, MailboxPolicy
from aixgo.mailboxes.places import make_mailboxes
from aixgo.runtime.channels import ChannelPool
from aixgo.runtime.contract import DEFAULT_OPTIONS
from aixgo.runtime.distributed import DistributedRuntime
from aixgo.runtime.instance import AgentInfo, Instance, InstanceState
from aixgo.runtime.plain import PlainTransport, TransportFailed
from aixgo.server.callees import IncomingCall, refused
from aixgo.server.server import AgentServer, ServerLimits
from aixgo.telemetry.setup import set_up
from aixgo.usage import Ledger
from aixgo.wire.instances import agent_from_proto

if TYPE_CHECKING:
    from aixgo.events import Event
    from aixgo.mailboxes.contract import Letter, Mailboxes
    from aixgo.message import Message
    from aixgo.security.security import Security

DEFAULT_LISTEN = "127.0.0.1:50051"
FIRST_SNAPSHOT = 1.0
"""Seconds that a gateway waits for a control plane before it listens, so that its first callers find everybody."""
MAX_LIST_BYTES = 64 * 1024 * 1024
"""Bytes of the longest list of agents."""
ANY_DEPTH = 2**32
"""Depth is for the agent's own process to judge: above what the wire can say."""


class MeshAgents:
    """The agents of a mesh as the callees of a server: every call goes on through `runtime`, as it is."""

    max_depth = ANY_DEPTH
    reads_traces = True

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime
        self._remote = runtime.remote

    @property
    def serving(self) -> bool:
        """Whether a control plane was ever heard, or there is none to hear."""
        return self._remote.replicas.resolver.heard

    def infos(self) -> tuple[AgentInfo, ...]:
        return merged(self._runtime.instances())

    def allowed_callers(self, name: str) -> Sequence[str] | None:
        return None  # its own rules say it, and the agents' processes theirs of the gateway

    def accept(self, name: str) -> None:
        if "/" in name:
            raise refused(
                AgentNotFound(
                    f"{name!r} is an unnamed member, which only its parent can call; call {name.partition('/')[0]!r}",
                    fields={"agent": name},
                )
            )

    def call(self, call: IncomingCall, state: CallState) -> Awaitable[Message]:
        _hand_on(state)
        return self._remote.call(call.agent, call.message, state, DEFAULT_OPTIONS, call.trace)

    def stream(self, call: IncomingCall, state: CallState) -> AsyncGenerator[Event]:
        _hand_on(state)
        return self._remote.stream(call.agent, call.message, state, DEFAULT_OPTIONS, call.trace)

    async def deliver(self, name: str, letter: Letter) -> str:
        """Into the agent's mailbox where that lasts and is known here; else to one of its instances."""
        self.accept(name)
        if await self._runtime.mailboxes.put(name, letter, SEND_TIMEOUT):
            return ""
        deadline = asyncio.get_running_loop().time() + SEND_TIMEOUT
        sender = CallState(deadline, len(letter.sender), letter.sender, letter.message.session_id, Ledger())
        with entered(sender if letter.sender else None):
            return await self._remote.send(name, letter.message, (letter.traceparent, "", ""))


class _HandedOn(Budget):
    """The grant of a call that goes on as it came: nothing is kept back, because nothing is spent here.

    An attempt that is lost has all of it, so that another one after it finds nothing to spend.
    """

    __slots__ = ()

    def grant(self) -> Budget:
        return self.lend()


def _hand_on(state: CallState) -> None:
    if state.budget is not None:
        state.budget = _HandedOn(above=state.budget)


async def serve_gateway(
    listen: str,
    *,
    control_plane: Sequence[str] = (),
    connect: Mapping[str, str] | None = None,
    limits: ServerLimits | None = None,
    variables: Mapping[str, str] | None = None,
    ready: Callable[[AgentServer], None],
    stop: asyncio.Event,
) -> None:
    """Serve the agents that `control_plane` lists, and those of `connect`, at `listen` until `stop`, then drain.

    `ready` is called once it listens; its health is SERVING once a control plane was heard. `variables` say where its
    telemetry goes, where mailboxes are, how it is secured and who may call whom (default: those of the process). Raises
    ConfigError for an address that is none; WrongState when the port is taken.
    """
    limits = limits or ServerLimits()
    size = limits.max_message_bytes
    given = read_environment() if variables is None else variables
    settings, security = Settings.read(given), make_security(given)
    limits = replace(limits, rate_limit=limits.rate_limit or settings.rate())
    async with (
        set_up(telemetry_settings(None, given, ["gateway"])),
        DistributedRuntime(
            control_plane=control_plane,
            connect=connect,
            mailboxes=_mailboxes(settings),
            max_message_bytes=size,
            security=security,
            transport=settings.transport,
        ) as runtime,
    ):
        runtime.remote.replicas.resolver.use_all()  # it lists everybody, and may be asked for anybody
        await runtime.remote.replicas.resolver.first_snapshot(FIRST_SNAPSHOT)
        callees = MeshAgents(runtime)
        async with AgentServer(runtime, listen=listen, limits=limits, callees=callees, security=security) as server:
            ready(server)
            await stop.wait()


def _mailboxes(settings: Settings) -> Mailboxes | None:
    """Those that AIXGO_MAILBOX names. There is no file that says how much they hold, so that it is the usual."""
    if settings.mailbox is None:
        return None
    return make_mailboxes(settings.mailbox, MailboxPolicy(max_messages=LASTING_MESSAGES))


async def ask_gateway(address: str, timeout: float, security: Security | None = None) -> Instance:
    """The gateway at an address and whom it serves; `timeout` is in seconds. Raises Unavailable."""
    channels = ChannelPool(max_message_bytes=MAX_LIST_BYTES, security=security)
    try:
        answer = await PlainTransport(channels).describe(address, timeout)
    except (TransportFailed, DeadlineExceeded) as error:
        raise Unavailable(
            f"no gateway answered at {address}; start one (aixgo gateway), or check the address"
        ) from error
    finally:
        await channels.close()
    return Instance(answer.instance_id, address, 0, tuple(agent_from_proto(agent) for agent in answer.agents))


def merged(instances: Sequence[Instance]) -> tuple[AgentInfo, ...]:
    """The agents of all these instances, each once, by name: ready when one instance is, idempotent when all are."""
    agents: dict[str, AgentInfo] = {}
    for instance in instances:
        takes_calls = instance.state is InstanceState.READY
        for info in instance.agents:
            known = agents.get(info.name)
            ready, idempotent = takes_calls and info.ready, info.idempotent
            if known is not None:
                ready, idempotent = ready or known.ready, idempotent and known.idempotent
            agents[info.name] = replace(known or info, ready=ready, idempotent=idempotent)
    return tuple(agents[name] for name in sorted(agents))
