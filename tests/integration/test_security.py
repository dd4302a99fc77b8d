"""TLS, identities and tokens between real processes: who gets in, who does not, and that rotation costs no call."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import grpc.aio
import pytest
from aixgo import AgentServer, DistributedRuntime, agent
from aixgo.errors import AgentNotFound, AixgoError, PermissionDenied, Unauthenticated, Unavailable
from aixgo.runtime.contact import open_channel
from aixgo.security.files import LOOK_INTERVAL
from aixgo.security.security import Security
from aixgo.security.settings import SecuritySettings
from aixgo.v1 import agent_pb2, registry_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo.v1.registry_pb2_grpc import RegistryServiceStub
from aixgo.wire.status import from_rpc
from aixgo_services.cli.health import check
from pydantic import SecretStr

from tests.integration.secured import Running, aixgo, certificates, fleet_file, security, variables
from tests.support import Load, eventually

BOUND = 30.0
NAMES = ("control-plane", "shout", "keeper", "stranger")
TOKEN = "a-token-that-nobody-guesses-0123456789"


@agent
async def shout(message: object) -> str:
    """An impostor: it has the name of the real one."""
    return f"forged {message}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates, and a fleet's file."""
    folder = tmp_path_factory.mktemp("secured")
    certificates(folder / "certs", *NAMES)
    certificates(folder / "foreign", *NAMES)
    fleet_file(folder)
    return folder


@pytest.fixture(scope="module")
def control_plane(place: Path) -> Iterator[Running]:
    """A control plane with mTLS that lets `shout` register the other agent of its process, too."""
    rules = "{name}; spiffe://*/agent/{name}; spiffe://aixgo.dev/agent/shout=vault"
    with aixgo(place, "controlplane", **variables(place / "certs", "control-plane", AIXGO_ALLOW_REGISTER=rules)) as ran:
        yield ran


@pytest.fixture(scope="module")
def fleet(place: Path, control_plane: Running) -> Iterator[Running]:
    """A process with both agents, with mTLS."""
    told = variables(
        place / "certs", "shout", AIXGO_HEALTH_PORT=str(free_port()), AIXGO_CONTROL_PLANE=of(control_plane)
    )
    with aixgo(place, "serve", "fleet.yaml", "--agent=shout", "--agent=vault", **told) as ran:
        yield Running({**ran.ready, "health": f"127.0.0.1:{told['AIXGO_HEALTH_PORT']}"}, ran.log)


def of(control_plane: Running) -> str:
    return str(control_plane.ready["control_plane"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def caller(control_plane: Running, who: Security, transport: str = "plain") -> AsyncGenerator[DistributedRuntime]:
    """Who calls what the control plane lists, once it lists `shout`."""
    async with DistributedRuntime(control_plane=[of(control_plane)], security=who, transport=transport) as runtime:
        await eventually(lambda: "shout" in runtime.list_agents(), BOUND)
        yield runtime


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("transport", ["plain", "session"])
async def test_with_certificates_on_both_sides_calls_work(place: Path, control_plane: Running, transport: str) -> None:
    async with caller(control_plane, security(place / "certs", "stranger"), transport) as runtime:
        assert (await runtime.call("shout", "hi", timeout=BOUND)).payload == "HI"


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("transport", ["plain", "session"])
async def test_who_is_not_in_allow_callers_is_refused_and_the_agent_does_not_run(
    place: Path, control_plane: Running, transport: str
) -> None:
    (place / "opened").unlink(missing_ok=True)
    async with caller(control_plane, security(place / "certs", "stranger"), transport) as runtime:
        with pytest.raises(PermissionDenied, match=r"spiffe://aixgo\.dev/agent/stranger may not call agent 'vault'"):
            await runtime.call("vault", "open", timeout=BOUND)
        with pytest.raises(PermissionDenied):
            async with runtime.stream("vault", "open", timeout=BOUND) as events:
                _ = [event async for event in events]
        with pytest.raises(PermissionDenied):
            await runtime.send("vault", "open")
    assert not (place / "opened").exists()
    async with caller(control_plane, security(place / "certs", "keeper")) as runtime:
        assert (await runtime.call("vault", "open", timeout=BOUND)).payload == "gold"


async def test_a_server_of_another_ca_is_not_trusted(place: Path, fleet: Running) -> None:
    distrusting = Security(SecuritySettings(ca=place / "foreign" / "ca.pem"))
    async with DistributedRuntime(connect={"shout": fleet.ready["address"]}, security=distrusting) as runtime:
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await runtime.call("shout", "hi", timeout=BOUND)


@pytest.mark.parametrize("kind", ["without a certificate", "with one of another CA", "in plain text"])
async def test_who_has_no_certificate_of_the_ca_gets_no_connection(kind: str, place: Path, fleet: Running) -> None:
    foreign = place / "foreign" / "keeper"
    ca = place / "certs" / "ca.pem"
    told = {
        "without a certificate": SecuritySettings(ca=ca),
        "with one of another CA": SecuritySettings(ca=ca, certificate=foreign / "cert.pem", key=foreign / "key.pem"),
        "in plain text": SecuritySettings(),
    }[kind]
    async with DistributedRuntime(connect={"shout": fleet.ready["address"]}, security=Security(told)) as runtime:
        with pytest.raises(Unavailable, match="check AIXGO_TLS_CA_FILE"):
            await runtime.call("shout", "hi", timeout=BOUND)


async def test_the_certificate_of_a_server_must_be_for_the_name_that_is_asked_for(place: Path, fleet: Running) -> None:
    own = {name: place / "certs" / "keeper" / f"{name}.pem" for name in ("cert", "key")}
    for name, fits in (("shout", True), ("vault", False)):
        told = SecuritySettings(
            ca=place / "certs" / "ca.pem", certificate=own["cert"], key=own["key"], server_name=name
        )
        async with DistributedRuntime(connect={"shout": fleet.ready["address"]}, security=Security(told)) as runtime:
            if fits:
                assert (await runtime.call("shout", "hi", timeout=BOUND)).payload == "HI"
            else:
                with pytest.raises(Unavailable):
                    await runtime.call("shout", "hi", timeout=BOUND)


async def test_nobody_is_listed_under_the_name_of_another(place: Path, control_plane: Running, fleet: Running) -> None:
    forger = security(place / "certs", "stranger")
    own = DistributedRuntime()
    own.register(shout.renamed("shout"))
    async with own, AgentServer(own, control_plane=[of(control_plane)], security=forger) as server:
        assert not await server.registered(1.0)
        async with caller(control_plane, security(place / "certs", "keeper")) as runtime:
            replies = {(await runtime.call("shout", "hi", timeout=BOUND)).text for _ in range(20)}
            assert replies == {"HI"}
            assert [each.instance_id for each in await runtime.all_instances()] == [fleet.ready["instance_id"]]


async def test_nobody_ends_or_takes_over_the_instance_of_another(
    place: Path, control_plane: Running, fleet: Running
) -> None:
    instance_id = fleet.ready["instance_id"]
    async with open_channel(of(control_plane), security(place / "certs", "stranger")) as channel:
        stub = RegistryServiceStub(channel)
        forged = registry_pb2.Instance(instance_id=instance_id, address="127.0.0.1:9", seq=10**6)
        forged.agents.add(name="stranger")
        for request in (
            stub.Deregister(registry_pb2.DeregisterRequest(instance_id=instance_id, seq=10**6), timeout=BOUND),
            stub.Register(registry_pb2.RegisterRequest(instance=forged), timeout=BOUND),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await request
            assert isinstance(from_rpc(refused.value), PermissionDenied)
        listed = await stub.List(registry_pb2.ListRequest(), timeout=BOUND)
    assert [each.instance_id for each in listed.instances] == [instance_id]


async def test_health_is_told_without_tls_on_a_port_of_its_own_which_serves_nothing_else(fleet: Running) -> None:
    for service in ("", "shout"):
        assert await asyncio.to_thread(check, fleet.ready["health"], service, BOUND) == "SERVING"
    async with grpc.aio.insecure_channel(fleet.ready["health"]) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await AgentServiceStub(channel).Execute(agent_pb2.ExecuteRequest(agent="shout"), timeout=BOUND)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("transport", ["plain", "session"])
async def test_certificates_and_even_the_ca_are_replaced_under_load_without_a_failed_call(
    tmp_path: Path, transport: str
) -> None:
    folder = certificates(tmp_path / "certs", *NAMES)
    after = certificates(tmp_path / "after", *NAMES)
    fleet_file(tmp_path)
    told = variables(folder, "shout")
    with aixgo(tmp_path, "controlplane", **variables(folder, "control-plane")) as plane:
        serving = aixgo(tmp_path, "serve", "fleet.yaml", "--agent=shout", AIXGO_CONTROL_PLANE=of(plane), **told)
        with serving as served:
            async with caller(plane, security(folder, "keeper"), transport) as runtime:

                async def call() -> object:
                    return (await runtime.call("shout", "hi", timeout=BOUND)).payload

                async with Load(call, workers=4) as load:
                    before = await asyncio.to_thread(shown, served.ready["address"], folder, folder)
                    both = (folder / "ca.pem").read_bytes() + (after / "ca.pem").read_bytes()
                    await replaced(load, {folder / "ca.pem": both})
                    await replaced(
                        load, {path: (after / path.relative_to(folder)).read_bytes() for path in leaves(folder)}
                    )
                    await replaced(load, {folder / "ca.pem": (after / "ca.pem").read_bytes()})
                assert load.errors == []
                assert await asyncio.to_thread(shown, served.ready["address"], after, after) != before


def leaves(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.pem"))


async def replaced(load: Load, contents: dict[Path, bytes]) -> None:
    """Replace files as a rotation does, and go on until every process must have looked at them again."""
    for path, data in contents.items():
        beside = path.with_suffix(".new")
        shutil.copy(path, beside)
        beside.write_bytes(data)
        beside.replace(path)
    until = monotonic() + 2 * LOOK_INTERVAL
    while monotonic() < until:
        await load.more(20)


def shown(address: str, own: Path, trusted: Path) -> bytes:
    """The certificate that a server shows to who trusts these CAs; raises OSError when there is no handshake."""
    context = ssl.create_default_context(cafile=str(trusted / "ca.pem"))
    context.load_cert_chain(own / "keeper" / "cert.pem", own / "keeper" / "key.pem")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)), BOUND)
    with plain, context.wrap_socket(plain, server_hostname=host) as encrypted:
        return encrypted.getpeercert(binary_form=True) or b""


async def test_who_has_no_certificate_shows_a_token(place: Path) -> None:
    tokens = place / "tokens"
    tokens.write_text(f"keeper: sha256:{hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    told = variables(place / "certs", "shout", AIXGO_TLS_MODE="tls", AIXGO_TOKENS_FILE=str(tokens))
    with aixgo(place, "serve", "fleet.yaml", "--agent=shout", "--agent=vault", **told) as ran:
        address: str = ran.ready["address"]
        connect = {"shout": address, "vault": address}
        ca = place / "certs" / "ca.pem"

        async def call(name: str, token: str | None) -> object:
            own = SecuritySettings(ca=ca, token=None if token is None else SecretStr(token))
            async with DistributedRuntime(connect=connect, security=Security(own)) as runtime:
                return (await runtime.call(name, "hi", timeout=BOUND)).payload

        assert await call("shout", TOKEN) == "HI"
        with pytest.raises(PermissionDenied):
            await call("vault", TOKEN)  # known, and another than spiffe://aixgo.dev/agent/keeper
        for wrong in (None, TOKEN + "x"):
            with pytest.raises(Unauthenticated):
                await call("shout", wrong)
        assert TOKEN not in ran.log()


async def test_the_gateway_lets_in_by_token_and_is_let_in_by_certificate(
    place: Path, control_plane: Running, fleet: Running
) -> None:
    tokens = place / "partners"
    tokens.write_text(f"partner: {TOKEN}\n")
    told = variables(
        place / "certs",
        "keeper",
        AIXGO_TLS_MODE="tls",
        AIXGO_TOKENS_FILE=str(tokens),
        AIXGO_ALLOW_CALLERS="partner=shout",
        AIXGO_CONTROL_PLANE=of(control_plane),
    )
    own = Security(SecuritySettings(ca=place / "certs" / "ca.pem", token=SecretStr(TOKEN)))
    with aixgo(place, "gateway", **told) as gateway:
        async with DistributedRuntime(connect={"*": gateway.ready["gateway"]}, security=own) as runtime:
            assert (await runtime.call("shout", "hi", timeout=BOUND)).payload == "HI"
            with pytest.raises(PermissionDenied, match="AIXGO_ALLOW_CALLERS"):
                await runtime.call("vault", "open", timeout=BOUND)
            with pytest.raises((PermissionDenied, AgentNotFound)):
                await runtime.call("nobody", "x", timeout=BOUND)
        assert TOKEN not in gateway.log()
    key = (place / "certs" / "shout" / "key.pem").read_text().splitlines()[1]
    assert key not in fleet.log()
    assert key not in control_plane.log()


async def test_a_control_plane_with_tokens_tells_nothing_to_who_has_none(place: Path) -> None:
    tokens = place / "registrants"
    tokens.write_text(f"shout: {TOKEN}\n")
    told = variables(place / "certs", "control-plane", AIXGO_TLS_MODE="tls", AIXGO_TOKENS_FILE=str(tokens))
    ca = place / "certs" / "ca.pem"
    with aixgo(place, "controlplane", **told) as plane:
        async with open_channel(of(plane), Security(SecuritySettings(ca=ca))) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await RegistryServiceStub(channel).List(registry_pb2.ListRequest(), timeout=BOUND)
        error: AixgoError | None = from_rpc(refused.value)
        assert isinstance(error, Unauthenticated)
        serving = variables(place / "certs", "shout", AIXGO_TOKEN=TOKEN, AIXGO_CONTROL_PLANE=of(plane))
        with aixgo(place, "serve", "fleet.yaml", "--agent=shout", **serving) as served:
            known = security(place / "certs", "keeper", token=SecretStr(TOKEN))
            async with caller(plane, known) as runtime:
                assert (await runtime.call("shout", "hi", timeout=BOUND)).payload == "HI"
            assert TOKEN not in served.log()
        assert TOKEN not in plane.log()
