"""What a control plane tells of itself: on a page of its own, and to a collector."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import grpc.aio
import pytest
from aixgo import DistributedRuntime, agent
from aixgo.server.server import AgentServer
from aixgo.v1 import agent_pb2, registry_pb2
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo_services.supervisor import free_port

from tests.support import START, STOP, eventually
from tests.telemetry.emitting import PAGE
from tests.telemetry.receiver import Receiver


@contextmanager
def control_plane(**environment: str) -> Iterator[tuple[str, str]]:
    """A process of `aixgo controlplane` with nothing but this environment: its address, and that of its page."""
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "aixgo_services.cli.main", "controlplane", f"--listen={address}", "--lease=1s"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment) as process:
        try:
            assert process.stderr is not None
            readable, _, _ = select.select([process.stderr], [], [], START)
            line = process.stderr.readline().decode() if readable else ""
            found = PAGE.search(line)
            assert found, f"no page: {line}"
            yield address, found[1]
        finally:
            process.terminate()
            process.wait(STOP)


def read(page: str) -> dict[str, float]:
    """The values of the registry's metrics by their names, labels included."""
    with urllib.request.urlopen(page, timeout=5) as answer:
        text = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^aixgo_registry_(\S+) (\S+)$", text, re.MULTILINE)}


@agent
async def echo(message):
    return message.text


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_control_plane_counts_who_comes_who_expires_and_who_watches(receiver: Receiver, protocol: str):
    url = receiver.grpc_url if protocol == "grpc" else receiver.http_url
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    with control_plane(AIXGO_METRICS_ADDRESS="127.0.0.1:0", **told) as (address, page):
        begun = read(page)
        assert begun['instances{aixgo_instance_state="ready"}'] == 0
        async with DistributedRuntime(control_plane=(address,)) as runtime:
            runtime.register(echo)
            async with AgentServer(runtime, listen="127.0.0.1:0", control_plane=(address,)):
                await eventually(lambda: read(page)['instances{aixgo_instance_state="ready"}'] == 1)
                assert read(page)["registrations_total"] == 1
                await eventually(lambda: read(page)["watchers"] == 1)
                await register_and_forget(address)
                await eventually(lambda: read(page)["expirations_total"] == 1)
                assert read(page)["registrations_total"] == 2
        await eventually(lambda: read(page)["watchers"] == 0)
        assert read(page)['instances{aixgo_instance_state="ready"}'] == 0
    assert {"aixgo.registry.instances", "aixgo.registry.registrations"} <= receiver.received.metrics_of["control-plane"]


async def register_and_forget(control_plane: str) -> None:
    """Register an instance that never renews its lease."""
    agents = [agent_pb2.AgentDescriptor(name="lost")]
    instance = registry_pb2.Instance(instance_id="lost", address="127.0.0.1:1", seq=1, agents=agents)
    async with grpc.aio.insecure_channel(control_plane) as channel:
        await RegistryServiceStub(channel).Register(registry_pb2.RegisterRequest(instance=instance))
