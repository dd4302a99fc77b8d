"""What is around the process: ports, control planes, and an engine for containers.

How addresses are probed, control planes asked and commands run is passed in. Above: `examination.py`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aixgo_services.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from aixgo.config.schema import Config

Listening = Callable[[str], Awaitable[bool]]
"""Whether somebody listens at host:port."""
Listed = Callable[[str], Awaitable[int | None]]
"""How many instances the control plane at host:port lists; None when no control plane answers there."""
Ran = Callable[[tuple[str, ...]], Awaitable[tuple[int, str] | None]]
"""Exit code and output of a command; None when there is no such command, or when it takes too long."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Network:
    """How the network is looked at."""

    listening: Listening
    listed: Listed


async def check_control_plane(address: str, network: Network, *, needed: bool) -> Finding:
    """Who is at the address of a control plane. `needed`: the file cannot run without one."""
    if not await network.listening(address):
        return _nobody(address, needed=needed)
    count = await network.listed(address)
    if count is not None:
        return ok("control plane", f"{address} answers, and lists {count} {'instance' if count == 1 else 'instances'}")
    told = f"something listens at {address}, and it is no control plane"
    fix = "stop it, or name another address: --control-plane, AIXGO_CONTROL_PLANE"
    return problem("control plane", told, fix) if needed else warning("control plane", told, fix)


async def check_ports(config: Config, network: Network) -> list[Finding]:
    """Whether the ports that a file fixes are free on this machine."""
    findings: list[Finding] = []
    for name, placement in config.deployment.agents.items():
        ports = range(placement.port, placement.port + placement.replicas) if placement.port else ()
        for port in ports:
            if await network.listening(f"127.0.0.1:{port}"):
                fix = "another fleet may be running; else stop what listens there, or change deployment.agents"
                findings.append(warning("ports", f"port {port}, which the file gives to {name}, is taken", fix))
    return findings


async def check_engine(run: Ran) -> list[Finding]:
    """Whether containers could be run here. That is never a problem: nothing but containers needs it."""
    engine = await run(("docker", "version", "--format", "{{json .Server}}"))
    if engine is None:
        return [ok("containers", "no docker command here; only `docker compose up` needs it")]
    code, output = engine
    if code != 0:
        told = "the docker command is here, and no engine answers it"
        return [warning("containers", told, "start Docker, or ignore this: only containers need it")]
    compose = await run(("docker", "compose", "version", "--short"))
    if compose is None or compose[0] != 0:
        fix = "install Docker Compose 2 or later, or ignore this: only `docker compose up` needs it"
        return [warning("containers", f"Docker {_version(output)} is here, without Compose", fix)]
    return [ok("containers", f"Docker {_version(output)}, Compose {compose[1].strip()}")]


def _nobody(address: str, *, needed: bool) -> Finding:
    if needed:
        told = f"none answers at {address}, and the file's deployment.mode is distributed"
        return problem("control plane", told, "start it: aixgo controlplane; or name the right one: --control-plane")
    here = address.rpartition(":")[0] in _LOOPBACK
    free = "the port is free for `aixgo up` or `aixgo controlplane`" if here else "nothing needs one so far"
    return ok("control plane", f"none at {address}; {free}")


def _version(output: str) -> str:
    try:
        told: Any = json.loads(output)
        return str(told["Version"])
    except (ValueError, KeyError, TypeError):
        return "of an unknown version"
