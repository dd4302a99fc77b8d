"""Tools of real MCP servers in processes of their own: over stdio and HTTP, killed, restarted, of the older kind."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from aixgo import errors
from aixgo.agents.react import ReActAgent
from aixgo.config.load import load
from aixgo.config.spec import AgentSpec
from aixgo.events import ToolCall
from aixgo.launch import opened
from aixgo.llm.contract import ToolUse
from aixgo.testing import Reply, ScriptedModel, running, scripted_models
from aixgo.tools.mcp import McpServer
from aixgo.tools.mcp_session import McpEndpoint
from aixgo.tools.toolbox import Toolbox
from pydantic import SecretStr

from tests.support import eventually

SERVER = str(Path(__file__).with_name("mcp_server.py"))
COMMAND = [sys.executable, SERVER]


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """Fails a test that leaves a process or a task behind."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
async def stdio() -> AsyncIterator[McpServer]:
    made = McpServer("files", McpEndpoint(COMMAND, env={"TOKEN": SecretStr("hush")}))
    yield made
    await made.close()


@contextmanager
def http_process(port: int = 0) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    with subprocess.Popen([*COMMAND, "http", str(port)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process
        finally:
            process.kill()


def over_http(port: int, token: str = "hush") -> McpServer:
    url = f"http://127.0.0.1:{port}/mcp"
    return McpServer("web", McpEndpoint(url=url, headers={"authorization": SecretStr(f"Bearer {token}")}))


def agent(server: McpServer, *replies: Any) -> tuple[ReActAgent, ScriptedModel]:
    model = ScriptedModel(replies)
    spec = AgentSpec(name="r", role="react", model=("test/m",), mcp_servers=(server.name,))
    return ReActAgent(spec, models=scripted_models(m=model), tools=Toolbox(servers=[server])), model


def use(name: str, /, **arguments: Any) -> Reply:
    return Reply(tool_uses=[ToolUse("c", name, arguments)])


def told(model: ScriptedModel) -> list[str]:
    return [turn.content for turn in model.requests[-1].messages if turn.role == "tool"]


async def test_its_tools_are_offered_and_used_under_names_that_vendors_take(stdio: McpServer):
    made, model = agent(stdio, use("add", a=1, b=2), use("shout_it", text="hey"), "done")
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    offers = {offer.name: offer for offer in model.requests[0].tools}
    assert offers["add"].description == "Adds two numbers."
    assert set(offers["add"].parameters["properties"]) == {"a", "b"}
    assert told(model) == ['{"sum":3}', '{"result":"HEY"}']
    assert all(call["ok"] for call in reply.metadata["tool_calls"])


async def test_a_started_server_sees_only_the_variables_that_it_is_given(stdio: McpServer):
    seen = await stdio.call("whoami", {})
    assert isinstance(seen, dict)
    assert seen["token"] == "hush"
    passed_on = {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"}
    assert {name for name in seen["variables"] if not name.startswith("LC_")} <= passed_on | {"TOKEN"}


async def test_calls_share_one_session_at_the_same_time(stdio: McpServer):
    assert await asyncio.gather(stdio.call("meet", {}), stdio.call("meet", {})) == [{"result": "met"}] * 2


async def test_what_is_no_text_is_named_and_not_shown(stdio: McpServer):
    assert await stdio.call("picture", {}) == "a dot\n[image, image/png, 6 bytes; not shown]"


async def test_what_a_server_refuses_is_told_to_the_model_without_secrets(stdio: McpServer):
    made, model = agent(stdio, use("refuse", secret="hush"), use("add", a="x"), use("nope"), "done")
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    first, second, third = told(model)
    assert "not with ***" in first
    assert "hush" not in first
    assert "a\n  Input should be a valid integer" in second
    assert third.startswith("Error: there is no tool 'nope'")
    assert [call["ok"] for call in reply.metadata["tool_calls"]] == [False] * 3


async def test_a_server_that_dies_is_told_to_the_model_and_started_again_for_the_next_use(stdio: McpServer):
    before = await stdio.call("whoami", {})
    made, model = agent(stdio, use("die"), use("whoami"), "done")
    async with running(made) as runtime:
        reply = await runtime.call("r", "go")
    first, second = told(model)
    assert first == "Error: MCP server 'files' has gone while it was asked; whether the call was done is not known"
    assert isinstance(before, dict)
    assert json.loads(second)["pid"] != before["pid"]
    assert [call["ok"] for call in reply.metadata["tool_calls"]] == [False, True]


async def test_a_server_killed_between_two_calls_is_started_again_without_an_error(stdio: McpServer):
    before = await stdio.call("whoami", {})
    assert isinstance(before, dict)
    process = psutil.Process(before["pid"])
    process.kill()
    await eventually(lambda: stdio._session is not None and not stdio._session.alive)
    after = await stdio.call("whoami", {})
    assert isinstance(after, dict)
    assert after["pid"] != before["pid"]


async def test_a_cancelled_call_is_cancelled_in_the_server_and_the_session_stays(stdio: McpServer, tmp_path: Path):
    note = tmp_path / "note"
    call = asyncio.create_task(stdio.call("hang", {"path": str(note)}))
    await eventually(note.exists)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await eventually(lambda: note.read_text() == "cancelled")
    assert await stdio.call("add", {"a": 1, "b": 1}) == {"sum": 2}


async def test_a_call_cancelled_while_the_session_opens_leaves_the_session_to_the_others(stdio: McpServer):
    first = asyncio.create_task(stdio.call("add", {"a": 1, "b": 1}))
    second = asyncio.create_task(stdio.call("add", {"a": 1, "b": 2}))
    await eventually(lambda: stdio._session is not None)
    first.cancel()
    assert await second == {"sum": 3}


async def test_closing_while_a_call_is_out_ends_the_call_and_the_server(stdio: McpServer, tmp_path: Path):
    note = tmp_path / "note"
    call = asyncio.create_task(stdio.call("hang", {"path": str(note)}))
    await eventually(note.exists)
    await stdio.close()
    with pytest.raises(errors.ToolError, match="has gone while it was asked"):
        await call
    with pytest.raises(errors.WrongState):
        await stdio.call("add", {})


async def test_closing_while_the_session_opens_ends_the_waiting_calls(stdio: McpServer):
    call = asyncio.create_task(stdio.call("add", {"a": 1, "b": 1}))
    await eventually(lambda: stdio._session is not None)
    await stdio.close()
    with pytest.raises(errors.WrongState, match="closed while it was being opened"):
        await call


@pytest.mark.parametrize(
    ("command", "timeout", "said"),
    [
        (["no-such-command-anywhere"], 60, "cannot be started: No such file or directory"),
        ([sys.executable, "-c", ""], 60, "ended before a session stood; its standard error says why"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], 0.5, "did not answer within 0.5 s"),
    ],
)
async def test_a_server_that_never_came_up_fails_the_agent_and_says_why(command: list[str], timeout: float, said: str):
    server = McpServer("files", McpEndpoint(command), connect_timeout=timeout)
    made, _ = agent(server, "done")
    async with running(made) as runtime:
        with pytest.raises(errors.ToolError, match=f"MCP server 'files' {said}"):
            await runtime.call("r", "go")
    await server.close()


async def test_only_chosen_tools_are_offered_under_a_prefix():
    server = McpServer("files", McpEndpoint(COMMAND), only=["shout.it", "add"], prefix="x_")
    assert [tool.name for tool in await server.tools()] == ["x_shout_it", "x_add"]
    assert await (await server.tools())[1].call({"a": 2, "b": 2}) == {"sum": 4}
    await server.close()
    missing = McpServer("files", McpEndpoint(COMMAND), only=["ad"])
    with pytest.raises(errors.ToolError, match="has no tool 'ad'; did you mean 'add'"):
        await missing.tools()
    await missing.close()


async def test_over_http_with_a_header(tmp_path: Path):
    with http_process() as (port, _):
        server = over_http(port)
        made, model = agent(server, use("add", a=1, b=2), "done")
        async with running(made) as runtime, runtime.stream("r", "go") as events:
            calls = [event async for event in events if isinstance(event, ToolCall)]
        assert calls[-1].output == {"sum": 3}
        assert told(model) == ['{"sum":3}']
        await server.close()
        wrong = over_http(port, "wrong-hush")
        with pytest.raises(errors.ToolError, match="MCP server 'web'") as caught:
            await wrong.tools()
        assert "hush" not in str(caught.value)
        await wrong.close()


async def test_a_server_over_http_that_is_killed_and_comes_back_is_used_again():
    with http_process() as (port, process):
        server = over_http(port)
        assert await server.call("add", {"a": 1, "b": 2}) == {"sum": 3}
        listed = await server.tools()
        process.kill()
        process.wait()
        for _ in range(2):
            with pytest.raises(errors.ToolError, match=r"MCP server 'web' (has gone|cannot be used)"):
                await server.call("add", {"a": 1, "b": 2})
        assert [tool.name for tool in await server.tools()] == [tool.name for tool in listed]
    with http_process(port):
        assert await server.call("add", {"a": 1, "b": 2}) == {"sum": 3}
    await server.close()


async def test_a_file_with_an_mcp_server_runs_as_it_is(tmp_path: Path):
    (tmp_path / "script.yaml").write_text(
        "- when: {any: '\"sum\":3'}\n  text: it is 3\n"
        "- when: {offers: add}\n  tool: {name: add, arguments: {a: 1, b: 2}}\n"
    )
    (tmp_path / "mesh.yaml").write_text(
        "version: 2\n"
        f"tools: [{{name: sums, mcp: {{command: {json.dumps(COMMAND)}}}}}]\n"
        "agents: [{name: a, role: react, model: 'test/script:script.yaml', mcp_servers: [sums]}]\n"
    )
    async with opened(load(tmp_path / "mesh.yaml"), variables={}) as runtime:
        reply = await runtime.call("a", "1+2?")
    assert reply.payload == "it is 3"
    assert reply.metadata["tool_calls"] == [{"name": "add", "ok": True}]


class OlderServer(BaseHTTPRequestHandler):
    """Streamable HTTP as servers of 2025 speak it: a handshake, a session, a list of tools in pages."""

    protocol_version = "HTTP/1.1"
    sessions: set[str]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        session = self.headers.get("mcp-session-id")
        method = body["method"]
        if method == "initialize":
            session = f"s{len(self.sessions)}"
            self.sessions.add(session)
            info = {"protocolVersion": body["params"]["protocolVersion"], "capabilities": {"tools": {}}}
            self._answer(body, {**info, "serverInfo": {"name": "old", "version": "1"}}, session)
        elif session not in self.sessions:
            unknown = {
                "jsonrpc": "2.0",
                "id": "server-error",
                "error": {"code": -32600, "message": "Session not found"},
            }
            self._send(404 if session else 400, json.dumps(unknown).encode())
        elif method == "tools/list":
            page = int(body.get("params", {}).get("cursor", 0))
            listed = [{"name": f"t{page}", "inputSchema": {"type": "object"}}]
            self._answer(body, {"tools": listed} | ({"nextCursor": str(page + 1)} if page < 2 else {}))
        elif method == "tools/call":
            self._answer(body, {"content": [{"type": "text", "text": f"{session} did {body['params']['name']}"}]})
        else:
            self._send(202, b"")

    def do_GET(self) -> None:
        self._send(405, b"")

    do_DELETE = do_GET  # noqa: N815  # the name that http.server looks for

    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002  # the base's name

    def _answer(self, body: Any, result: Any, session: str = "") -> None:
        self._send(200, json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": result}).encode(), session)

    def _send(self, status: int, data: bytes, session: str = "") -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        if session:
            self.send_header("mcp-session-id", session)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def older() -> Iterator[tuple[str, set[str]]]:
    sessions: set[str] = set()
    handler = type("Handler", (OlderServer,), {"sessions": sessions})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_address[1]}/mcp", sessions
        listening.shutdown()
        thread.join()


async def test_an_older_server_lists_its_tools_in_pages_and_may_forget_its_sessions(older: tuple[str, set[str]]):
    url, sessions = older
    server = McpServer("old", McpEndpoint(url=url))
    assert [tool.name for tool in await server.tools()] == ["t0", "t1", "t2"]
    assert await server.call("t1", {}) == "s0 did t1"
    sessions.clear()
    sessions.add("other")
    assert await server.call("t1", {}) == "s1 did t1"
    assert await server.call("t2", {}) == "s1 did t2"
    await server.close()
