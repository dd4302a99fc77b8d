"""One process of a fleet under test: a control plane, or some of the agents of a cast behind an AgentServer.

    python -m tests.contract.host registry --listen 127.0.0.1:0
    python -m tests.contract.host agents echo upper --control-plane HOST:PORT
    python -m tests.contract.host agents leaf --cast tests.patterns.mesh:all_agents

It prints one line of JSON when it serves, drains on SIGTERM, and ends when its standard input does, so that no process
outlives the tests. Above: `tests/support.py`, which starts it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable

from aixgo import Agent, AgentServer, DistributedRuntime
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings
from aixgo_controlplane.main import run_control_plane

from tests.contract.agents import MAILBOX_SIZE

LEASE, PROBE_INTERVAL, REGISTRATION = 3.0, 0.5, 30.0
"""Seconds: a lease, between two health checks, and for the first registration."""


async def serve_registry(listen: str, security: Security, stop: asyncio.Event) -> None:
    """Run a control plane."""
    await run_control_plane(
        listen,
        lease=LEASE,
        probe_interval=PROBE_INTERVAL,
        security=security,
        ready=lambda address: announce(address, ""),
        stop=stop,
    )


async def serve_agents(
    listen: str,
    control_plane: list[str],
    transport: str,
    names: list[str],
    cast: Callable[[], list[Agent]],
    security: Security,
    stop: asyncio.Event,
) -> None:
    """Serve the named agents of a cast."""
    async with DistributedRuntime(
        control_plane=control_plane, mailbox_size=MAILBOX_SIZE, transport=transport
    ) as runtime:
        for agent in cast():
            if agent.name in names:
                runtime.register(agent)
        async with AgentServer(runtime, listen=listen, control_plane=control_plane, security=security) as server:
            if control_plane and not await server.registered(REGISTRATION):
                raise SystemExit(f"not registered at {control_plane}")
            announce(server.address, server.instance_id)
            await stop.wait()


def announce(address: str, instance_id: str) -> None:
    """Say on standard output that the process serves."""
    print(json.dumps({"address": address, "instance_id": instance_id, "pid": os.getpid()}), flush=True)


async def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or the end of standard input."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(sys.stdin.fileno(), _stdin_ended, stop)
    security = Security(SecuritySettings(allow_insecure=arguments.insecure))
    if arguments.what == "registry":
        await serve_registry(arguments.listen, security, stop)
    else:
        module, _, function = arguments.cast.partition(":")
        cast = getattr(importlib.import_module(module), function)
        await serve_agents(
            arguments.listen, arguments.control_plane, arguments.transport, arguments.names, cast, security, stop
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["registry", "agents"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--cast", default="tests.contract.agents:new_agents")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--control-plane", action="append", default=[])
    parser.add_argument("--transport", default="plain")
    parser.add_argument("--insecure", action="store_true", help="may listen beyond this machine")
    asyncio.run(run(parser.parse_args()))


def _stdin_ended(stop: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()


if __name__ == "__main__":
    main()
