"""Finding tools by name, without an MCP server: fakes stand for them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from aixgo.config.schema import McpSpec, ToolSpec
from aixgo.errors import ConfigError, LimitExceeded, ToolError
from aixgo.tools import FunctionTool
from aixgo.tools.mcp import McpServer
from aixgo.tools.mcp_session import McpEndpoint
from aixgo.tools.toolbox import Toolbox, as_tool
from pydantic import SecretStr


class FakeServer(McpServer):
    """An MCP server whose list of tools the test gives."""

    def __init__(self, name: str, tools: Sequence[str] | Exception) -> None:
        super().__init__(name, McpEndpoint(command=["true"]))
        self.given = tools
        self.closed = False

    async def tools(self) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        return [named(name) for name in self.given]

    async def close(self) -> None:
        self.closed = True
        raise OSError("already gone")


def named(name: str) -> FunctionTool:
    return FunctionTool(lambda: name, name=name)


async def test_an_agent_gets_the_tools_that_it_names_and_all_of_its_servers():
    box = Toolbox([named("add"), named("sub")], [FakeServer("files", ["read", "write"]), FakeServer("web", ["get"])])
    offered = await box.offered(["sub"], ["web", "files"])
    assert list(offered) == ["sub", "get", "read", "write"]
    assert [offer.name for offer in offered.offers] == ["sub", "get", "read", "write"]
    assert await offered["get"].call({}) == "get"


async def test_two_tools_of_one_name_are_told_with_both_owners_and_the_fix():
    box = Toolbox([named("read")], [FakeServer("files", ["read"]), FakeServer("more", ["read"])])
    with pytest.raises(ConfigError, match=r"'read' of MCP server 'files' is also among the tools; set `mcp\.prefix`"):
        await box.offered(["read"], ["files"])
    with pytest.raises(ConfigError, match=r"of MCP server 'more' is also among those of MCP server 'files'"):
        await box.offered([], ["files", "more"])


async def test_more_tools_than_vendors_take_are_refused():
    box = Toolbox(servers=[FakeServer("many", [f"t{n}" for n in range(129)])])
    with pytest.raises(LimitExceeded, match="129 tools are offered and 128 are allowed"):
        await box.offered([], ["many"])


async def test_a_server_that_cannot_be_reached_fails_the_offer_and_leaves_no_task():
    box = Toolbox(servers=[FakeServer("ok", ["a"]), FakeServer("gone", ToolError("no"))])
    with pytest.raises(ToolError):
        await box.offered([], ["ok", "gone"])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_goes_on_past_a_server_that_cannot_be_closed():
    servers = [FakeServer("a", []), FakeServer("b", [])]
    await Toolbox(servers=servers).close()
    assert all(server.closed for server in servers)


@pytest.mark.parametrize(
    ("tools", "servers", "told"),
    [
        (["ad"], [], "tools: there is no tool 'ad'; did you mean 'add'?"),
        (["files"], [], "tools: 'files' is an MCP server; name it under mcp_servers"),
        ([], ["add"], "mcp_servers: 'add' is a tool, no MCP server; name it under tools"),
        ([], ["file"], "mcp_servers: there is no MCP server 'file'; did you mean 'files'?"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_the_fix(tools: list[str], servers: list[str], told: str):
    with pytest.raises(ConfigError) as caught:
        Toolbox([named("add")], [FakeServer("files", [])]).check(tools, servers)
    assert caught.value.message == told


def test_a_name_is_there_once():
    with pytest.raises(ConfigError, match="two tools are named 'add'"):
        Toolbox([named("add")], [FakeServer("add", [])])
    with pytest.raises(ConfigError, match="two tools are named 'add'"):
        Toolbox.from_specs([ToolSpec(name="add", python="m:f"), ToolSpec(name="add", mcp=McpSpec(url="http://x"))])


def search(query: str) -> str:
    """Searches."""
    return query


CONSTANT = 3


async def test_a_function_named_by_its_path_is_imported_and_gets_the_name_of_the_file():
    box = Toolbox.from_specs([ToolSpec(name="find", python=f"{__name__}:search")])
    box.check(["find"], [])
    offered = await box.offered(["find"], [])
    assert await offered["find"].call({"query": "x"}) == "x"
    assert offered["find"].description == "Searches."


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("search", "no import path"),
        (f"{__name__}:serch", "cannot be imported"),
        (f"{__name__}:CONSTANT", "tool 'find' is a int; use a function, or an object that is a Tool"),
        (f"{__name__}:FakeServer", "tool 'find' is a type"),
    ],
)
def test_a_path_that_names_no_tool_is_refused(path: str, told: str):
    with pytest.raises(ConfigError, match=told):
        Toolbox.from_specs([ToolSpec(name="find", python=path)]).check(["find"], [])


class Own:
    """A tool that somebody wrote without any of ours."""

    name = "own"
    description = "Does it."
    parameters: ClassVar = {"type": "object", "properties": {}}

    async def call(self, arguments: Any) -> str:
        return "done"


async def test_any_object_of_the_right_shape_is_a_tool():
    own = Own()
    assert as_tool(own, "own") is own
    assert await (await Toolbox([own]).offered(["own"], []))["own"].call({}) == "done"
    with pytest.raises(ConfigError, match="names itself 'own'"):
        as_tool(own, "other")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"command": ["x"], "url": "http://x"},
        {"url": "file:///x"},
        {"url": "http://x", "env": {"A": SecretStr("b")}},
        {"command": ["x"], "headers": {"A": SecretStr("b")}},
    ],
)
def test_an_endpoint_is_a_command_or_a_url(given: dict[str, Any]):
    with pytest.raises(ConfigError):
        McpEndpoint(**given)


def test_an_endpoint_does_not_show_its_secrets():
    assert "hush" not in repr(McpEndpoint(command=["x"], env={"TOKEN": SecretStr("hush")}))
