"""A fleet with everything that a trace passes on its way: a gateway, mailboxes, MCP servers, deadlines.

`run_errands` has it do one of each, and returns all that came of it once its processes have ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aixgo import DistributedRuntime, Message
from aixgo.errors import DeadlineExceeded
from aixgo.runtime.dns import ANY_NAME
from aixgo.telemetry import spans
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.telemetry.setup import set_up
from aixgo.v1 import agent_pb2
from aixgo.v1.agent_pb2_grpc import AgentServiceStub
from aixgo_services.gateway import ask_gateway
from aixgo_services.supervisor import free_port

from tests.support import STOP, eventually
from tests.telemetry.emitting import Emitted, Running, running
from tests.telemetry.receiver import Receiver

USER, SESSION = "ann-4711", "monday-7"
RECORDER = str(Path(__file__).with_name("mcp_recorder.py"))
MESH = """
version: 2
tools:
  - {name: web, mcp: {url: "http://127.0.0.1:MCP_PORT/mcp"}}
  - name: files
    mcp:
      command: [PYTHON, RECORDER, STDIO_NOTES]
      prefix: local_
      env: {OTEL_EXPORTER_OTLP_ENDPOINT: COLLECTOR, OTEL_METRICS_EXPORTER: none, OTEL_BSP_SCHEDULE_DELAY: "100"}
agents:
  - {name: clerk, role: react, model: "test/script:script.yaml", mcp_servers: [web, files]}
  - {name: writer, role: llm, model: test/upper}
  - {name: sender, role: "errand_agents:Sender"}
  - {name: keeper, role: llm, model: test/echo, inputs: [{source: sender}], outputs: [{target: archive}]}
  - {name: archive, role: "errand_agents:Archive"}
  - {name: hangs, role: "errand_agents:hangs"}
orchestrations:
  - {name: main, pattern: sequential, agents: [clerk, writer]}
  - {name: patient, pattern: parallel, agents: [writer, hangs], limits: {timeout: 3s}}
observability: OBSERVABILITY
"""
SCRIPT = """
- when: {any: remembered second}
  text: both are remembered
- when: {any: remembered first}
  tool: {name: local_remember, arguments: {text: second}}
- tool: {name: remember, arguments: {text: first}}
"""
AGENTS = """
import asyncio
import logging

import aixgo

@aixgo.agent
async def hangs(message):
    await asyncio.Event().wait()

class Sender(aixgo.Agent):
    def __init__(self, spec):
        self.name = spec.name

    async def execute(self, message):
        await self.runtime.send("keeper", message)
        return message

class Archive(Sender):
    async def execute(self, message):
        return message

    async def start(self):
        async for delivery in self.runtime.recv():
            async with delivery as message:
                await self.runtime.call("writer", message)
                logging.getLogger("aixgo").info("archived %s", message.text)
"""


@dataclass
class Errands:
    """What a fleet on errands emitted, and what its MCP servers noted."""

    emitted: Emitted
    http_notes: list[dict[str, Any]] = field(default_factory=list)
    stdio_notes: list[dict[str, Any]] = field(default_factory=list)


def run_errands(folder: Path) -> Errands:
    """Do all the errands in processes that end before this returns."""
    with Receiver() as receiver, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", "")))))
        patch.syspath_prepend(str(folder))
        patch.setenv("AIXGO_LOG_FORMAT", "json")
        return asyncio.run(_errands(folder, receiver))


async def _errands(folder: Path, receiver: Receiver) -> Errands:
    http_notes, stdio_notes, port = folder / "http.jsonl", folder / "stdio.jsonl", free_port()
    (folder / "script.yaml").write_text(SCRIPT)
    (folder / "errand_agents.py").write_text(AGENTS)
    words = {"PYTHON": sys.executable, "RECORDER": RECORDER, "STDIO_NOTES": str(stdio_notes), "MCP_PORT": str(port)}
    text = MESH.replace("COLLECTOR", receiver.grpc_url)
    for word, value in words.items():
        text = text.replace(word, value)
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_url}
    asked = {"otlp": receiver.grpc_url, "prometheus": "127.0.0.1:0"}
    async with (
        _process([RECORDER, str(http_notes), str(port)], port, told),
        running(folder, receiver, asked, text) as fleet,
        _gateway(fleet.control_plane, told) as gateway,
    ):
        await _through_the_gateway(gateway, receiver)
        await _by_mail(fleet)
        await _in_vain(fleet)
        await fleet.read_pages()
        emitted = fleet.emitted
    return Errands(emitted, _lines(http_notes), _lines(stdio_notes))


async def _through_the_gateway(gateway: str, receiver: Receiver) -> None:
    settings = TelemetrySettings(otlp=receiver.grpc_url, no_metrics=True, service_name="client")
    async with set_up(settings), DistributedRuntime(connect={ANY_NAME: gateway}) as runtime:
        with spans.span("client calls", {spans.USER: USER}):
            await runtime.call("main", _message("remember both"))
        with spans.span("client streams", {spans.USER: USER}):
            async with runtime.stream("main", _message("remember both")) as events:
                async for _ in events:
                    pass


async def _by_mail(fleet: Running) -> None:
    await fleet.runtime.call("sender", _message("by mail"))
    await eventually(lambda: any("archived by mail" in line for line in fleet.emitted.lines["archive"]))


async def _in_vain(fleet: Running) -> None:
    """Calls that come to nothing, each in a session that says why."""
    with pytest.raises(DeadlineExceeded):
        await fleet.runtime.call("hangs", Message("x", session_id="stopped-by-the-server"), timeout=1)
    await fleet.runtime.call("patient", Message("x", session_id="given-up-by-the-caller"))
    await _call_barely(next(one.address for one in fleet.runtime.instances() if "hangs" in one.by_name))
    unwanted = asyncio.create_task(fleet.runtime.call("hangs", Message("x", session_id="unwanted")))
    page = fleet.page_urls()["hangs"]
    await eventually(lambda: "aixgo_calls_active 1.0" in _page(page))
    unwanted.cancel()
    await asyncio.wait({unwanted})
    await eventually(lambda: "aixgo_calls_active 0.0" in _page(page))


async def _call_barely(address: str) -> None:
    """As another language's client calls, which says its deadline to gRPC only."""
    request = agent_pb2.ExecuteRequest(agent="hangs")
    request.message.text = "x"
    request.message.session_id = "a-bare-deadline"
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await AgentServiceStub(channel).Execute(request, timeout=1)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _message(text: str) -> Message:
    return Message(text, {"user_id": USER}, session_id=SESSION)


@asynccontextmanager
async def _gateway(control_plane: str, told: dict[str, str]) -> AsyncIterator[str]:
    """The address of a gateway that has heard the control plane."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = ["-m", "aixgo_services.cli.main", "gateway", f"--listen={address}", f"--control-plane={control_plane}"]
    async with _process(command, port, told):
        await _until(lambda: _serves_main(address))
        yield address


@asynccontextmanager
async def _process(command: Sequence[str], port: int, environment: dict[str, str]) -> AsyncIterator[None]:
    """A process of Python that listens at a port."""
    process = await asyncio.create_subprocess_exec(sys.executable, *command, env={**os.environ, **environment})
    try:
        await _until(lambda: _listens(port))
        yield
    finally:
        process.terminate()
        async with asyncio.timeout(STOP):
            await process.wait()


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110  # of another process nobody sets an event
            await asyncio.sleep(0.05)


async def _serves_main(gateway: str) -> bool:
    return "main" in (await ask_gateway(gateway, 20.0)).by_name


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        return page.read().decode()


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
