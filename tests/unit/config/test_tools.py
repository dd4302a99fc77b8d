"""The tools part of the YAML: what is read, what is refused, and that agents get their tools."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from aixgo.config.load import load, loads
from aixgo.errors import ConfigError
from aixgo.launch import make_resources, opened

AGENT = "agents: [{name: a, role: react, model: test/m"
TOOLS = """\
version: 2
tools:
  - {name: add, python: 'my_tools:add'}
  - {name: files, mcp: {command: [mcp-server-files, ./data], env: {TOKEN: hush}}}
  - {name: web, mcp: {url: 'http://localhost:1/mcp', headers: {authorization: hush}, only: [get], prefix: web_}}
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "mesh.yaml")
    return caught.value.message.splitlines()


def test_tools_and_mcp_servers_are_read():
    config = loads(TOOLS + AGENT + ", tools: [add], mcp_servers: [files, web]}]\n")
    add, files, web = config.tools
    assert add.python == "my_tools:add"
    assert files.mcp is not None
    assert files.mcp.command == ("mcp-server-files", "./data")
    assert web.mcp is not None
    assert (web.mcp.only, web.mcp.prefix, web.mcp.timeout) == (("get",), "web_", 30.0)
    assert config.agents[0].mcp_servers == ("files", "web")


def test_secrets_of_mcp_servers_are_not_shown():
    config = loads(TOOLS + AGENT + "}]\n")
    assert "hush" not in repr(config) + str(config.model_dump(mode="json"))


def test_a_command_may_be_written_as_text():
    config = loads("version: 2\ntools: [{name: f, mcp: {command: 'serve \"my data\" -v'}}]\n" + AGENT + "}]\n")
    assert config.tools[0].mcp is not None
    assert config.tools[0].mcp.command == ("serve", "my data", "-v")


@pytest.mark.parametrize(
    ("tools", "told"),
    [
        ("{name: f}", "tools[0]: a tool is either `python: my_pkg.tools:search` or `mcp: {...}`; give one of them"),
        ("{name: f, mcp: {}}", "tools[0].mcp: an MCP server needs either `command` or `url`; give one of them"),
        ("{name: f, mcp: {url: 'ftp://x'}}", "tools[0].mcp: url must begin with http:// or https://"),
        ("{name: f, mcp: {url: 'http://x', env: {A: b}}}",
         "tools[0].mcp: `env` goes with a `command`, and `headers` go with a `url`"),
        ("{name: f, mcp: {command: x, env: {A: 1}}}", "tools[0].mcp.env.A: must be text, and is a number"),
        ("{name: f, mcp: {comand: x}}", "unknown key 'tools[0].mcp.comand'; did you mean 'command'?"),
        ("{name: 'f f', python: 'm:f'}",
         "tools[0].name: tool name 'f f' is not usable; use 1 to 64 letters, digits, '_' or '-'"),
        ("{name: f, python: 'm:f'}, {name: f, python: 'm:g'}", "the name 'f' is taken (line 2); rename one of them"),
    ],
)  # fmt: skip
def test_a_tool_that_cannot_be_used_is_told_with_its_line(tools: str, told: str):
    assert refusal(f"version: 2\ntools: [{tools}]\n" + AGENT + "}]\n") == [f"mesh.yaml:2: {told}"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("tools: [ad]", "agents[0].tools[0]: 'ad' is not among the tools of this file; did you mean 'add'?"),
        ("tools: [files]",
         "agents[0].tools[0]: 'files' is not among the tools of this file; name it under mcp_servers"),
        ("mcp_servers: [add]",
         "agents[0].mcp_servers[0]: 'add' is not among the mcp_servers of this file; name it under tools"),
    ],
)  # fmt: skip
def test_an_agent_names_only_tools_of_the_file(names: str, told: str):
    assert refusal(TOOLS + AGENT + f", {names}}}]\n") == [f"mesh.yaml:6: {told}"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_tools.py").write_text("def add(a: int, b: int) -> int:\n    'Adds.'\n    return a + b\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("my_tools", None)


async def test_agents_of_a_file_use_its_tools(folder: Path):
    (folder / "mesh.yaml").write_text(TOOLS + "agents: [{name: a, role: react, model: test/echo, tools: [add]}]\n")
    async with opened(load(folder / "mesh.yaml"), variables={}) as runtime:
        reply = await runtime.call("a", "hello")
    assert reply.payload == "hello"
    assert reply.metadata["tool_calls"] == []


async def test_a_function_that_cannot_be_imported_is_told_with_the_line_of_the_agent(folder: Path):
    text = "version: 2\ntools: [{name: sub, python: 'my_tools:sub'}]\nagents:\n  - {name: a, role: react, "
    (folder / "mesh.yaml").write_text(text + "model: test/echo, tools: [sub]}\n")
    with pytest.raises(ConfigError, match=r"mesh\.yaml:4: .*tools\.sub\.python: my_tools:sub cannot be imported"):
        async with opened(load(folder / "mesh.yaml"), variables={}):
            pass


async def test_a_tool_that_no_agent_names_is_not_imported():
    config = loads("version: 2\ntools: [{name: t, python: 'no_such_module:f'}]\n" + AGENT + "}]\n")
    resources = make_resources(config, {})
    await resources.close()
    assert "no_such_module" not in sys.modules


async def test_an_agent_that_is_a_function_refuses_them(folder: Path):
    (folder / "my_agents.py").write_text(
        "from aixgo.agent import agent\n@agent\nasync def one(message):\n    return message\n"
    )
    (folder / "mesh.yaml").write_text(TOOLS + "agents: [{name: a, role: 'my_agents:one', tools: [add]}]\n")
    with pytest.raises(ConfigError, match=r"mesh\.yaml:6: my_agents:one is a function and takes no 'tools'"):
        async with opened(load(folder / "mesh.yaml"), variables={}):
            pass
    sys.modules.pop("my_agents")


async def test_a_role_without_tools_refuses_them(folder: Path):
    (folder / "mesh.yaml").write_text(TOOLS + "agents: [{name: a, role: llm, model: test/echo, tools: [add]}]\n")
    with pytest.raises(ConfigError, match=r"mesh\.yaml:6: agents\.a\.tools: role 'llm' uses no tools"):
        async with opened(load(folder / "mesh.yaml"), variables={}):
            pass
