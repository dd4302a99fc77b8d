"""The process that serves agents of a YAML file: telemetry, models, runtime and server, wired together.

An orchestrator worker is the same process with an orchestration's name. Above: `aixgo serve`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aixgo.config.build import build_agents
from aixgo.config.settings import Settings
from aixgo.launch import make_mailboxes, make_resources, make_security, telemetry_settings
from aixgo.message import new_id
from aixgo.runtime.distributed import DistributedRuntime
from aixgo.server.server import AgentServer, ServerLimits
from aixgo.telemetry.setup import set_up

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from aixgo.config.schema import Config
    from aixgo.security.security import Security


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process serves: what it binds, what it tells others, and which control planes list it."""

    listen: str = "127.0.0.1:0"
    advertise: str | None = None
    control_plane: tuple[str, ...] = ()


async def serve_agents(
    config: Config,
    names: Sequence[str],
    place: Place,
    *,
    variables: Mapping[str, str],
    stop: asyncio.Event,
    ready: Callable[[AgentServer], None],
) -> None:
    """Serve the agents and orchestrations with these names until `stop`, then drain.

    Members that live elsewhere are called there, whatever the deployment's mode. `ready` is called once the server
    listens. Raises ConfigError; WrongState when the port is taken.
    """
    instance_id = new_id()
    async with set_up(telemetry_settings(config, variables, names, instance_id)):
        resources = make_resources(config, variables)
        try:
            security = make_security(variables)
            settings = Settings.read(variables)
            limits = ServerLimits(rate_limit=settings.rate(config.deployment.rate_limit))
            runtime = DistributedRuntime(
                control_plane=place.control_plane,
                connect=config.deployment.connect,
                hedged=config.hedged,
                mailboxes=make_mailboxes(config, settings),
                security=security,
                transport=settings.transport,
            )
            for agent in build_agents(config, resources, names):
                runtime.register(agent)
            async with runtime, _server(runtime, place, instance_id, security, limits) as server:
                ready(server)
                await stop.wait()
        finally:
            await resources.close()


def _server(
    runtime: DistributedRuntime, place: Place, instance_id: str, security: Security, limits: ServerLimits
) -> AgentServer:
    return AgentServer(
        runtime,
        listen=place.listen,
        advertise=place.advertise,
        control_plane=place.control_plane,
        limits=limits,
        instance_id=instance_id,
        security=security,
    )
