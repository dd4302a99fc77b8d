"""No secret is in anything that a failing fleet emits: logs, spans, metrics pages, errors, and what commands print.

Everything that the fleet depends on refuses it and quotes what it was sent. Every secret is tested to have been used.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import traceback
import urllib.request
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aixgo import AixgoError, DistributedRuntime, Message
from aixgo.config.load import load
from aixgo.config.settings import Settings, read_environment
from aixgo.launch import make_resources
from aixgo.llm.models import ModelSettings
from aixgo.telemetry.langfuse import LangfuseSettings
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.v1 import agent_pb2, agent_pb2_grpc
from aixgo_services.supervisor import Fleet, free_port

from tests.telemetry.emitting import PAGE
from tests.telemetry.mirror import Mirror, mirror
from tests.telemetry.receiver import Receiver

SECRETS = {
    "OPENAI_API_KEY_FILE": "sk-proj-fileKey0123456789",
    "ANTHROPIC_API_KEY": "anthropic-77aa88bb99cc",
    "GEMINI_API_KEY": "AIzaSyA1b2C3d4E5f6G7h8I9j0K1l2",
    "LANGFUSE_SECRET_KEY": "sk-lf-9d8c7b6a5f4e3d2c",
    "QDRANT_API_KEY": "qdrant-7788bbcc99dd",
    "COLLECTOR_TOKEN": "collector-5f4e3d2c1b0a",
    "MCP_ENV": "mcpenv-7766aabb5544",
    "MCP_QUERY": "mcpquery-5566eeff7788",
    "MCP_HEADER": "mcpheader-1122ccdd3344",
    "SESSIONS_PASSWORD": "sessions-3344eeff5566",
    "PROXY_PASSWORD": "proxy-1212abab3434",
    "STORE_PASSWORD": "store-9900ddee1122",
    "CALLERS_TOKEN": "caller-5566ffaa7788",
}
PUBLIC = "pk-lf-0011223344"
BASIC = b64encode(f"{PUBLIC}:{SECRETS['LANGFUSE_SECRET_KEY']}".encode()).decode()
PROXY_BASIC = b64encode(f"app:{SECRETS['PROXY_PASSWORD']}".encode()).decode()
MESH = """
version: 2
tools:
  - {name: lookup, python: "leaky:lookup"}
  - {name: dies, mcp: {command: [PYTHON, dies.py], env: {TOKEN: "${MCP_ENV}"}, timeout: 10}}
  - {name: refuses, mcp: {url: "MIRROR/mcp?key=${MCP_QUERY}", headers: {authorization: "Bearer ${MCP_HEADER}"}}}
agents:
  - {name: writer, role: llm, model: [openai/gpt-4o-mini, anthropic/claude-3-5-haiku-latest, gemini/gemini-2.0-flash]}
  - {name: clerk, role: react, model: "test/script:clerk.yaml", tools: [lookup]}
  - {name: dying, role: react, model: test/echo, mcp_servers: [dies]}
  - {name: refused, role: react, model: test/echo, mcp_servers: [refuses]}
  - {name: shelf, role: retriever, config: {store: MIRROR, collection: tea, embeddings: test/words}}
  - {name: broken, role: "leaky:Broken"}
orchestrations:
  - {name: all, pattern: parallel, agents: [writer, clerk, dying, refused, shelf, broken], config: {require: all}}
sessions: {store: "postgresql://app:${SESSIONS_PASSWORD}@127.0.0.1:1/sessions"}
observability:
  otlp: COLLECTOR
  protocol: http/protobuf
  headers: {authorization: "Bearer ${COLLECTOR_TOKEN}"}
  langfuse: true
  prometheus: 127.0.0.1:0
"""

CLERK = """
- when: {any: "Error:"}
  text: could not look up
- tool: {name: lookup, arguments: {key: tea}}
"""
LEAKY = """
import logging, os
from aixgo import Agent, Message

DSN = f"postgresql://app:{os.environ['STORE_PASSWORD']}@db.internal/store"

def lookup(key: str) -> str:
    "Look something up."
    raise RuntimeError(f"cannot connect to {DSN}, password={os.environ['STORE_PASSWORD']}")

class Broken(Agent):
    def __init__(self, spec):
        self.name = spec.name

    async def execute(self, message: Message) -> Message:
        logging.getLogger("leaky").warning("connecting to %s", DSN)
        try:
            lookup("tea")
        except RuntimeError as error:
            raise LookupError(f"api_key={os.environ['QDRANT_API_KEY']}: {error}") from error
"""
DIES = """
import os, sys
sys.exit(f"token={os.environ['TOKEN']} is refused")
"""


class Emitted:
    """Everything that was emitted, by where."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}

    def add(self, place: str, *texts: str) -> None:
        self.texts.setdefault(place, []).extend(texts)

    def leaks(self) -> list[tuple[str, str, str]]:
        """Secret, place and the line of each that is there."""
        wanted = {**SECRETS, "LANGFUSE_BASIC": BASIC, "PROXY_BASIC": PROXY_BASIC}
        return [
            (name, place, line[:300])
            for place, texts in self.texts.items()
            for text in texts
            for line in text.splitlines()
            for name, secret in wanted.items()
            if secret in line
        ]


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emitted, Mirror, Receiver, Path]]:
    """What a fleet emitted that has then ended, and what others got of it."""
    folder = tmp_path_factory.mktemp("secrets")
    with mirror() as refuses, Receiver() as receiver, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in _environment(folder, refuses).items():
            patch.setenv(name, value)
        for name, text in (("leaky.py", LEAKY), ("dies.py", DIES), ("clerk.yaml", CLERK)):
            (folder / name).write_text(text)
        mesh = MESH.replace("MIRROR", refuses.url).replace("COLLECTOR", receiver.http_url, 1)
        (folder / "mesh.yaml").write_text(mesh.replace("PYTHON", sys.executable))
        emitted = asyncio.run(_fail(folder / "mesh.yaml"))
        emitted.add("collector", *(each.decode("latin-1") for each in receiver.received.bytes))
        yield emitted, refuses, receiver, folder


def _environment(folder: Path, refuses: Mirror) -> Mapping[str, str]:
    (folder / "openai.key").write_text(SECRETS["OPENAI_API_KEY_FILE"])
    vendors = {f"{vendor}_BASE_URL": refuses.url for vendor in ("OPENAI", "ANTHROPIC")}
    vendors["GEMINI_BASE_URL"] = refuses.url.replace("//", f"//app:{SECRETS['PROXY_PASSWORD']}@")
    given = {name: value for name, value in SECRETS.items() if name != "CALLERS_TOKEN"}
    return (
        given
        | vendors
        | {
            "OPENAI_API_KEY_FILE": str(folder / "openai.key"),
            "LANGFUSE_PUBLIC_KEY": PUBLIC,
            "LANGFUSE_HOST": refuses.url,
            "AIXGO_LOG_LEVEL": "debug",
            "AIXGO_LOG_FORMAT": "json",
            "OPENAI_LOG": "debug",
            "ANTHROPIC_LOG": "debug",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", "")))),
        }
    )


async def _fail(file: Path) -> Emitted:
    emitted = Emitted()
    async with (
        Fleet(load(file), file, on_line=lambda name, line: emitted.add(f"log of {name}", line)) as fleet,
        DistributedRuntime(control_plane=(fleet.control_plane,)) as runtime,
        _gateway(fleet.control_plane, emitted) as gateway,
    ):
        for name in (*(each.agents[0] for each in fleet.processes if each.agents), "nobody"):
            await _call(runtime, name, emitted)
            await _call_by_gateway(gateway, name, emitted)
        await _read_pages(emitted)
    return emitted


async def _call(runtime: DistributedRuntime, name: str, emitted: Emitted) -> None:
    """Call and stream, with and without a session; keep all that comes."""
    for session in ("", "s"):
        try:
            emitted.add(f"reply of {name}", repr(await runtime.call(name, Message("tea", session_id=session))))
        except AixgoError as error:
            emitted.add(f"error of {name}", *told(error))
        try:
            async with runtime.stream(name, Message("tea", session_id=session)) as events:
                async for event in events:
                    emitted.add(f"events of {name}", repr(event), *told(getattr(event, "error", None)))
        except AixgoError as error:
            emitted.add(f"error of {name}", *told(error))


def told(error: Any) -> list[str]:
    """All that an error can say."""
    if not isinstance(error, BaseException):
        return []
    fields = [repr(error.fields), repr(error.brief())] if isinstance(error, AixgoError) else []
    return [str(error), repr(error), *fields, *traceback.format_exception(error)]


@asynccontextmanager
async def _gateway(control_plane: str, emitted: Emitted) -> AsyncGenerator[str]:
    """The address of a gateway."""
    address = f"127.0.0.1:{free_port()}"
    command = ["-m", "aixgo_services.cli.main", "-v", "gateway", f"--listen={address}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, f"--control-plane={control_plane}", stderr=asyncio.subprocess.PIPE
    )
    try:
        yield address
    finally:
        process.terminate()
        _, log = await process.communicate()
        emitted.add("log of the gateway", log.decode())


async def _call_by_gateway(address: str, name: str, emitted: Emitted) -> None:
    """One RPC as other languages make it: its status, details and trailers are what a caller sees."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        request = agent_pb2.ExecuteRequest(agent=name)
        request.message.text = "tea"
        headers = (("authorization", f"Bearer {SECRETS['CALLERS_TOKEN']}"), ("x-api-key", SECRETS["CALLERS_TOKEN"]))
        try:
            reply = await stub.Execute(request, timeout=30, metadata=headers, wait_for_ready=True)
            emitted.add(f"reply of {name} by the gateway", str(reply))
        except grpc.aio.AioRpcError as error:
            told = (str(error.details()), str(error.trailing_metadata()), repr(error))
            emitted.add(f"error of {name} by the gateway", *told)


async def _read_pages(emitted: Emitted) -> None:
    for place, lines in list(emitted.texts.items()):
        for found in [match for line in lines if place.startswith("log of") and (match := PAGE.search(line))]:
            emitted.add(f"page of {place}", await asyncio.to_thread(_page, found[1]))


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        return page.read().decode()


def test_nothing_that_the_fleet_emitted_has_a_secret_in_it(failed: tuple[Emitted, Mirror, Receiver, Path]) -> None:
    assert not failed[0].leaks()


def test_everything_was_asked_with_its_secret_and_failed_loudly(
    failed: tuple[Emitted, Mirror, Receiver, Path],
) -> None:
    """Else there would be nothing to search."""
    emitted, refuses, receiver, _ = failed
    heard = "\n".join([*refuses.seen, *(str(headers) for headers in receiver.received.headers)])
    sent = {"OPENAI_API_KEY_FILE", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "QDRANT_API_KEY", "COLLECTOR_TOKEN"}
    for name in (*sent, "MCP_HEADER", "MCP_QUERY"):
        assert SECRETS[name] in heard, name
    assert BASIC in heard
    assert PROXY_BASIC in heard
    everything = "\n".join(text for texts in emitted.texts.values() for text in texts)
    for said in (
        "cannot connect to postgresql://***@db.internal/store",  # broken, and what clerk's tool raises
        "openai/gpt-4o-mini at",
        "answers 401",
        "MCP server 'refuses'",
        "token=*** is refused",  # what an MCP server says on its standard error
        "sessions",
        "telemetry is not delivered: ",  # to Langfuse
    ):
        assert said in everything, said
    for place in ("writer", "clerk", "dying", "refused", "shelf", "broken", "all"):
        assert emitted.texts[f"log of {place}"], place
        assert emitted.texts[f"page of log of {place}"], place
    for place in ("writer", "dying", "refused", "shelf", "broken", "all"):
        assert emitted.texts[f"error of {place}"], place
        assert emitted.texts[f"error of {place} by the gateway"], place
    assert any(span.failed for span in receiver.received.spans)


@pytest.mark.parametrize(
    "command",
    [
        "doctor mesh.yaml",
        "doctor mesh.yaml --json",
        "config check mesh.yaml",
        "config check mesh.yaml --json",
        "run mesh.yaml --target broken -i tea",
        "run mesh.yaml --target writer -i tea --json",
    ],
)
def test_no_command_prints_a_secret(failed: tuple[Emitted, Mirror, Receiver, Path], command: str) -> None:
    _, refuses, _, folder = failed
    assert _printed(command.split(), folder, refuses)


@pytest.mark.parametrize("target", ["compose", "kubernetes"])
def test_what_is_rendered_names_secrets_and_has_none(
    failed: tuple[Emitted, Mirror, Receiver, Path], target: str
) -> None:
    _, refuses, _, folder = failed
    assert _printed(["render", target, "mesh.yaml"], folder, refuses)


FAULTS = {
    "a key that there is not": "agents: [{name: a, role: llm, model: test/echo, tokn: '${QDRANT_API_KEY}'}]",
    "a number that is none": "agents: [{name: a, role: llm, model: test/echo, max_tokens: '${QDRANT_API_KEY}'}]",
    "a role's config": "agents: [{name: a, role: llm, model: test/echo, config: {temprature: '${QDRANT_API_KEY}'}}]",
    "a header": "tools: [{name: t, mcp: {url: 'http://x', headers: ['${QDRANT_API_KEY}']}}]\nagents: []",
    "an MCP server's variables": "tools: [{name: t, mcp: {command: x, env: {A: ['${QDRANT_API_KEY}']}}}]",
    "an MCP server's address": "tools: [{name: t, mcp: {url: 'ftp://app:${STORE_PASSWORD}@x'}}]",
    "a store": "sessions: {store: 'mysql://app:${STORE_PASSWORD}@db/x'}",
    "a store without a host": "sessions: {store: 'postgresql://app:${STORE_PASSWORD}'}",
    "a collector": "observability: {otlp: 'ftp://app:${STORE_PASSWORD}@collector'}",
    "a collector's headers": "observability: {headers: 'authorization=Bearer ${COLLECTOR_TOKEN}'}",
    "no YAML": "agents: [{name: '${QDRANT_API_KEY}'",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_file_is_said_without_what_filled_it(
    failed: tuple[Emitted, Mirror, Receiver, Path], fault: str
) -> None:
    _, refuses, _, folder = failed
    (folder / "bad.yaml").write_text(f"version: 2\n{FAULTS[fault]}\n")
    assert "bad.yaml" in _printed(["config", "check", "bad.yaml"], folder, refuses)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIXGO_SESSION_STORE", "mysql://app:{}@db/x"),
        ("AIXGO_METRICS_ADDRESS", "app:{}@host"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization Bearer {}"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://app:{}@collector"),
        ("LANGFUSE_HOST", "ftp://app:{}@langfuse"),
        ("OPENAI_API_KEY", "a key with {} and spaces"),
        ("ANTHROPIC_API_KEY_FILE", "/none/{}"),
    ],
)
def test_what_is_wrong_with_a_variable_is_said_without_its_secret(
    failed: tuple[Emitted, Mirror, Receiver, Path], name: str, value: str
) -> None:
    _, refuses, _, folder = failed
    given = {name: value.format(SECRETS["STORE_PASSWORD"])}
    if name == "OPENAI_API_KEY":
        given["OPENAI_API_KEY_FILE"] = ""
    if name == "ANTHROPIC_API_KEY_FILE":
        given |= {"ANTHROPIC_API_KEY": "", name: "/none/file"}
    _printed(["run", "mesh.yaml", "--target", "clerk", "-i", "tea"], folder, refuses, given)


def _printed(command: list[str], folder: Path, refuses: Mirror, more: Mapping[str, str] | None = None) -> str:
    """What a command prints, searched for secrets."""
    environment = {**os.environ, **_environment(folder, refuses), **(more or {})}
    ran = subprocess.run(
        [sys.executable, "-m", "aixgo_services.cli.main", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    emitted = Emitted()
    emitted.add("stdout", ran.stdout)
    emitted.add("stderr", ran.stderr)
    assert not emitted.leaks()
    return ran.stdout + ran.stderr


def test_nothing_that_holds_a_secret_shows_it(
    failed: tuple[Emitted, Mirror, Receiver, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, refuses, _, folder = failed
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    for name, value in _environment(folder, refuses).items():
        monkeypatch.setenv(name, value)
    variables = read_environment(folder)
    config = load(folder / "mesh.yaml", variables)
    resources = make_resources(config, variables)
    vendors = ModelSettings.from_environment(variables)
    held = [
        config,
        config.tools,
        config.sessions,
        config.observability,
        Settings.read(variables | {"AIXGO_SESSION_STORE": "postgresql://app:store-9900ddee1122@db/x"}),
        vendors,
        *(resources.models.provider(f"{vendor}/m")[0] for vendor in ("openai", "anthropic", "gemini")),
        resources,
        resources.sessions,
        resources.tools,
        LangfuseSettings.read(variables),
        TelemetrySettings.read(config.observability, variables, service_name="x"),
    ]
    emitted = Emitted()
    for each in held:
        assert each is not None
        state = [repr(part) for part in getattr(each, "__dict__", {}).values()]
        emitted.add(type(each).__name__, repr(each), str(each), f"{each}", *state)
    assert not emitted.leaks()
