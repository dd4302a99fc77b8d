"""docker-compose.mtls.yml by the commands of docs/DEPLOYMENT.md: who has a certificate gets in, and nobody else."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from socket import create_connection

import pytest
from aixgo import DistributedRuntime
from aixgo.errors import Unavailable
from aixgo.security.development import Leaf, write_certificates
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings
from aixgo_services.cli.failures import Exit

from tests.containers.docker import Compose, docker, documented
from tests.support import POLL, Load

BOUND = 60.0
"""Seconds that a call may take."""
WAIT = 120.0
"""Seconds in which certificates that were made anew are in force everywhere; files are looked at once a second."""
PROJECT = "aixgo-test-mtls"
MESH = ("control-plane", "gateway", "triage", "analyst", "sentiment", "ticket")
WITHOUT = ("AIXGO_TLS_CERT_FILE=", "AIXGO_TLS_KEY_FILE=")
IN_PLAIN_TEXT = (*WITHOUT, "AIXGO_TLS_CA_FILE=")


@pytest.fixture(scope="module")
def secured(engine: None) -> Iterator[Compose]:
    """The fleet, with agents that need no model, up by the commands of the page; the last one has called it."""
    export, *commands = documented("Certificates")[0].splitlines()
    base, *overrides = export.removeprefix("export COMPOSE_FILE=").split(":")
    assert base == "docker-compose.yml"
    compose = Compose(PROJECT, (*overrides, "tests/containers/fleet/compose.yaml"), tag="test-mtls")
    compose.down()
    try:
        assert "positive" in compose.type("\n".join(commands))
        yield compose
    finally:
        compose.down()


@pytest.fixture(scope="module")
def certs(secured: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of certificates for callers on this machine, copied and tried out by the commands of the page."""
    folder = tmp_path_factory.mktemp("caller")
    commands = documented("Certificates")[1].replace("localhost:50051", secured.gateway())
    assert "positive" in secured.type(commands, folder=folder)
    return folder / "certs"


def settings(certs: Path, name: str) -> SecuritySettings:
    """Those of a caller who has the certificate of `name`."""
    own = certs / name
    return SecuritySettings(ca=certs / "ca.pem", certificate=own / "cert.pem", key=own / "key.pem")


@asynccontextmanager
async def caller(secured: Compose, told: SecuritySettings) -> AsyncGenerator[DistributedRuntime]:
    """Who calls through the gateway from outside."""
    gateway = await asyncio.to_thread(secured.gateway)
    async with DistributedRuntime(connect={"analyst": gateway}, security=Security(told)) as runtime:
        yield runtime


async def test_with_a_certificate_a_caller_outside_reaches_agents_through_the_gateway(
    secured: Compose, certs: Path
) -> None:
    async with caller(secured, settings(certs, "caller")) as runtime:
        assert (await runtime.call("analyst", "hello", timeout=BOUND)).text == "hello"


@pytest.mark.parametrize("kind", ["without a certificate", "with one of another CA", "in plain text"])
async def test_without_one_a_caller_is_refused_and_told_why(
    kind: str, secured: Compose, certs: Path, tmp_path: Path
) -> None:
    write_certificates(tmp_path, [Leaf.of("caller")])
    shutil.copy(certs / "ca.pem", tmp_path)  # it trusts the fleet, and is not trusted
    told = {
        "without a certificate": SecuritySettings(ca=certs / "ca.pem"),
        "with one of another CA": settings(tmp_path, "caller"),
        "in plain text": SecuritySettings(),
    }[kind]
    async with caller(secured, told) as runtime:
        with pytest.raises(Unavailable, match=r"check AIXGO_TLS_CA_FILE|[Hh]andshake"):
            await runtime.call("analyst", "hello", timeout=BOUND)


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        ("aixgo agents --control-plane control-plane:50050", "no control plane answered"),
        ("aixgo call analyst x --address analyst:50051", "analyst:50051: UNAVAILABLE"),
    ],
    ids=["control plane", "agent"],
)
def test_nor_does_it_get_in_from_the_network_of_the_fleet(command: str, refusal: str, secured: Compose) -> None:
    assert said_inside(secured, command)[1] == Exit.OK
    for variables in (WITHOUT, IN_PLAIN_TEXT):
        said, code = said_inside(secured, command, *variables)
        assert refusal in said
        assert code == Exit.UNAVAILABLE


@pytest.mark.parametrize(("service", "port"), [("control-plane", 50050), ("gateway", 50051)])
def test_probes_are_answered_in_plain_text_by_their_own_port_only(service: str, port: int, secured: Compose) -> None:
    script = f"aixgo health; aixgo health 127.0.0.1:{port} || echo exit code $?"
    said = secured("exec", "--no-TTY", service, "sh", "-c", script)
    assert said.split("\n") == ["SERVING", "UNAVAILABLE", f"exit code {Exit.UNAVAILABLE}"]


def test_the_port_of_probes_takes_no_calls(secured: Compose) -> None:
    said, code = said_inside(secured, "aixgo call analyst x --address analyst:50052", *IN_PLAIN_TEXT)
    assert "Method not found" in said
    assert code == Exit.FAILED


async def test_certificates_made_anew_are_in_force_without_a_restart_and_no_call_fails(
    secured: Compose, certs: Path
) -> None:
    before, began = await asyncio.to_thread(served, secured, certs), await started(secured)
    async with (
        caller(secured, settings(certs, "caller")) as runtime,
        Load(lambda: runtime.call("analyst", "x", timeout=BOUND)) as load,
    ):
        await load.more(50)
        # `aixgo certs dev` keeps what is good for more than a week: here it is gone before it is asked.
        gone = ("run", "--rm", "--no-deps", "--entrypoint", "sh", "certs", "-c", "rm -r /etc/aixgo/*/")
        await asyncio.to_thread(secured, *gone)
        await asyncio.to_thread(secured, "up", "certs")
        async with asyncio.timeout(WAIT):
            # Of processes in containers nobody sets an event.
            while await asyncio.to_thread(served, secured, certs) == before or await stale(secured):  # noqa: ASYNC110
                await asyncio.sleep(POLL)
        await load.more(200)
    assert load.errors == []
    assert await started(secured) == began


def said_inside(secured: Compose, command: str, *variables: str) -> tuple[str, int]:
    """What a command says in the gateway's container, with these variables in place of its own, and its exit code."""
    told = [word for variable in variables for word in ("--env", variable)]
    said = secured("exec", "--no-TTY", *told, "gateway", "sh", "-c", f"{command} 2>&1; echo $?")
    words, _, code = said.rpartition("\n")
    return words, int(code)


def served(secured: Compose, certs: Path) -> str:
    """The serial number of the certificate that the gateway shows."""
    host, _, port = secured.gateway().rpartition(":")
    context = ssl.create_default_context(cafile=certs / "ca.pem")
    context.load_cert_chain(certs / "caller" / "cert.pem", certs / "caller" / "key.pem")
    context.set_alpn_protocols(["h2"])
    with (
        create_connection((host, int(port)), timeout=BOUND) as plain,
        context.wrap_socket(plain, server_hostname="mesh.aixgo.dev") as connection,
    ):
        return str((connection.getpeercert() or {})["serialNumber"])


async def stale(secured: Compose) -> set[str]:
    """The containers that have not said yet that they have read certificates anew."""
    lines = (await asyncio.to_thread(secured, "logs", "--no-color")).splitlines()
    anew = {line.partition("|")[0].strip() for line in lines if "read again: " in line}
    return set(await started(secured)) - anew


async def started(secured: Compose) -> dict[str, str]:
    """When each container of the mesh was started, by its name in the logs."""
    listed = (await asyncio.to_thread(secured, "ps", "--format", "json", *MESH)).splitlines()
    names = [json.loads(line)["Name"] for line in listed]
    times = await asyncio.to_thread(docker, "inspect", "--format", "{{.State.StartedAt}}", *names)
    return {name.removeprefix(f"{PROJECT}-"): time for name, time in zip(names, times.splitlines(), strict=True)}
