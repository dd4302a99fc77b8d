"""The tools of a process, by name: what agents name in their specs is found here.

Owns Toolbox, which many agents share, and Offered, what one agent may use for one request. Below: functions and MCP
servers as tools. Above: the agents that use tools, and whoever builds a process from a configuration.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from aixgo.errors import ConfigError, LimitExceeded
from aixgo.imports import find_object
from aixgo.llm.contract import ToolOffer
from aixgo.names import nearest
from aixgo.tools.contract import Tool, check_tool_name, offer
from aixgo.tools.functions import FunctionTool
from aixgo.tools.mcp import McpServer
from aixgo.tools.mcp_session import McpEndpoint

if TYPE_CHECKING:
    from aixgo.config.schema import McpSpec, ToolSpec

log = logging.getLogger(__name__)

MAX_TOOLS = 128
"""Tools that one request may offer (OpenAI's limit)."""


class Offered(Mapping[str, Tool]):
    """The tools of one request, by the names that the model sees."""

    def __init__(self, tools: Mapping[str, Tool]) -> None:
        self._tools = dict(tools)

    @property
    def offers(self) -> Sequence[ToolOffer]:
        """What the model is told of them, in order."""
        return tuple(offer(tool) for tool in self._tools.values())

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)


class Toolbox:
    """Tools and MCP servers by name; `close` it at the end. Raises ConfigError for a name that is there twice."""

    def __init__(self, tools: Iterable[Tool] = (), servers: Iterable[McpServer] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._paths: dict[str, str] = {}
        self._servers: dict[str, McpServer] = {}
        for tool in tools:
            check_tool_name(tool.name)
            self._check_free(tool.name)
            self._tools[tool.name] = tool
        for server in servers:
            self._check_free(server.name)
            self._servers[server.name] = server

    @classmethod
    def from_specs(cls, specs: Iterable[ToolSpec]) -> Self:
        """The tools of a configuration. Functions are imported when an agent names them, servers begin when they are
        used. Raises ConfigError.
        """
        made = cls(servers=[_server(spec.name, spec.mcp) for spec in specs if spec.mcp is not None])
        for spec in specs:
            if spec.python is not None:
                check_tool_name(spec.name)
                made._check_free(spec.name)
                made._paths[spec.name] = spec.python
        return made

    def check(self, tools: Sequence[str], servers: Sequence[str]) -> None:
        """Raise ConfigError when there is no tool, or no MCP server, of one of these names, or a function cannot be
        imported.
        """
        for name in tools:
            if name in self._servers:
                raise ConfigError(f"tools: {name!r} is an MCP server; name it under mcp_servers")
            self._find(name)
        for name in servers:
            if name in self._tools or name in self._paths:
                raise ConfigError(f"mcp_servers: {name!r} is a tool, no MCP server; name it under tools")
            if name not in self._servers:
                raise ConfigError(f"mcp_servers: there is no MCP server {name!r}; {nearest(name, self._servers)}")

    async def offered(self, tools: Sequence[str], servers: Sequence[str]) -> Offered:
        """The tools of these names and all tools of these MCP servers, asked for now.

        Raises ToolError when a server cannot be reached, ConfigError when two tools have one name, LimitExceeded over
        MAX_TOOLS.
        """
        self.check(tools, servers)
        found: dict[str, Tool] = {name: self._find(name) for name in tools}
        owners = dict.fromkeys(tools, "the tools")
        for server, listed in zip(servers, await self._listed(servers), strict=True):
            for tool in listed:
                if tool.name in found:
                    raise ConfigError(
                        f"tool {tool.name!r} of MCP server {server!r} is also among {owners[tool.name]}; set"
                        " `mcp.prefix` of the server, or `mcp.only` to choose its tools"
                    )
                found[tool.name], owners[tool.name] = tool, f"those of MCP server {server!r}"
        if len(found) > MAX_TOOLS:
            raise LimitExceeded(
                f"{len(found)} tools are offered and {MAX_TOOLS} are allowed; choose with `mcp.only`",
                fields={"limit": MAX_TOOLS},
            )
        return Offered(found)

    async def close(self) -> None:
        """End the sessions with MCP servers, and the servers that were started for them, all at the same time."""
        ended = await asyncio.gather(*(server.close() for server in self._servers.values()), return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                log.error("an MCP server could not be closed: %s", type(error).__name__)

    async def _listed(self, servers: Sequence[str]) -> Sequence[Sequence[Tool]]:
        tasks = [asyncio.ensure_future(self._servers[name].tools()) for name in servers]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _find(self, name: str) -> Tool:
        if name not in self._tools:
            if name not in self._paths:
                raise ConfigError(f"tools: there is no tool {name!r}; {nearest(name, {*self._tools, *self._paths})}")
            found = find_object(self._paths[name], f"tools.{name}.python", "a function, or an object that is a Tool")
            self._tools[name] = as_tool(found, name)
        return self._tools[name]

    def _check_free(self, name: str) -> None:
        if name in self._tools or name in self._paths or name in self._servers:
            raise ConfigError(f"two tools are named {name!r}; rename one of them")


def as_tool(value: Any, name: str) -> Tool:
    """A function, or an object that is a tool, as a tool of that name. Raises ConfigError for anything else."""
    if isinstance(value, FunctionTool):
        return value if value.name == name else value.renamed(name)
    if isinstance(value, Tool) and not isinstance(value, type):
        if value.name != name:
            raise ConfigError(f"tool {name!r} names itself {value.name!r}; use that name")
        return value
    if isinstance(value, type) or not callable(value):
        raise ConfigError(f"tool {name!r} is a {type(value).__name__}; use a function, or an object that is a Tool")
    return FunctionTool(value, name=name)


def _server(name: str, spec: McpSpec) -> McpServer:
    endpoint = McpEndpoint(spec.command, spec.url or "", spec.env, spec.headers)
    return McpServer(name, endpoint, only=spec.only, prefix=spec.prefix, connect_timeout=spec.timeout)
