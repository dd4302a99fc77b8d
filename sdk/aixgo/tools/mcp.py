"""The tools of MCP servers, over stdio and streamable HTTP.

Owns McpServer, which opens its session on first use, keeps it and opens another when it broke; what becomes of the
content of a result; and what is told when a server does not deliver. Below: `mcp_session.py`. Above: `toolbox.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from aixgo.errors import AixgoError, ToolError, WrongState
from aixgo.message import JSON
from aixgo.names import nearest
from aixgo.telemetry.outside import without_baggage
from aixgo.tools.contract import acceptable_name
from aixgo.tools.mcp_session import McpEndpoint, Session

if TYPE_CHECKING:
    from mcp import Client
    from mcp.types import CallToolResult

T = TypeVar("T")

CONNECT_TIMEOUT = 30.0
"""Seconds for starting or reaching a server, and for one page of its list of tools."""
MAX_PAGES = 100
"""Pages of a list of tools: one that never ends cannot hang a call."""

_CUT = 300
_CONNECTION_CLOSED = -32000
"""The code with which the SDK says that its connection is gone (mcp_types.jsonrpc)."""


class McpTool:
    """A tool of an MCP server. The server checks the arguments."""

    def __init__(self, server: McpServer, their_name: str, name: str, description: str, parameters: Any) -> None:
        self._server = server
        self._their_name = their_name
        self.name = name
        self.description = description
        self.parameters: Mapping[str, Any] = parameters

    async def call(self, arguments: Mapping[str, Any]) -> JSON:
        """What the server answers. Raises ToolError."""
        return await self._server.call(self._their_name, arguments)


class McpServer:
    """An MCP server and its tools. One session serves all agents of a process.

    `only` are the server's own names of the tools to use (default: all); `prefix` is put before the names that models
    see, so that two servers may have tools of one name. A server that was started here ends with `close`.
    """

    def __init__(
        self,
        name: str,
        endpoint: McpEndpoint,
        *,
        only: Sequence[str] = (),
        prefix: str = "",
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        self.name = name
        self._endpoint = endpoint
        self._only = tuple(only)
        self._prefix = prefix
        self._timeout = connect_timeout
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._listed: Sequence[McpTool] = ()

    async def tools(self) -> Sequence[McpTool]:
        """The tools that the server has now; while it cannot be reached, those that it had last.

        Raises ToolError when it never could be reached, or has not what `only` names.
        """
        try:
            listed = await self._asked(self._list)
        except ToolError:
            if not self._listed:
                raise
            return self._listed
        self._listed = [self._tool(one) for one in self._chosen(listed)]
        return self._listed

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> JSON:
        """Call a tool by the server's own name of it. Raises ToolError.

        A call that was out when the connection broke is not made again: it may have been done.
        """
        result = await self._asked(lambda client: client.call_tool(tool, dict(arguments)))
        if result.is_error:
            raise ToolError(self._masked(_texts(result) or f"tool {tool!r} failed without saying why"))
        return _output(result)

    async def close(self) -> None:
        """End the session. Using the server afterwards raises WrongState."""
        self._closed = True
        async with self._opening:
            if self._session is not None:
                await self._session.close()

    async def _asked(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        """What the server answers, in a session that stands; once more where it has forgotten the session."""
        for last in (False, True):
            session, client = await self._open()
            try:
                with without_baggage():  # the SDK puts what there is into the request's `_meta`
                    return await ask(client)
            except Exception as error:
                if isinstance(error, TimeoutError):
                    session.lose()
                if last or not (session.forgotten and _code(error) not in (None, _CONNECTION_CLOSED)):
                    raise self._failure(error) from error
        raise AssertionError("the last attempt returns or raises")

    async def _open(self) -> tuple[Session, Client]:
        async with self._opening:
            if self._closed:
                raise WrongState(f"MCP server {self.name!r} is closed with its process or agent")
            if self._session is None or not self._session.alive:
                if self._session is not None:
                    await self._session.close()
                self._session = Session(self._endpoint, self._timeout)
            session = self._session
        try:
            return session, await session.client()
        except Exception as error:
            raise self._failure(error, opening=True) from error

    async def _list(self, client: Client) -> Sequence[Any]:
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            async with asyncio.timeout(self._timeout):
                page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return found
        raise ToolError(f"MCP server {self.name!r} lists its tools on more than {MAX_PAGES} pages")

    def _chosen(self, listed: Sequence[Any]) -> Sequence[Any]:
        if not self._only:
            return listed
        by_name = {one.name: one for one in listed}
        for name in self._only:
            if name not in by_name:
                raise ToolError(f"MCP server {self.name!r} has no tool {name!r}; {nearest(name, by_name)}")
        return [by_name[name] for name in self._only]

    def _tool(self, listed: Any) -> McpTool:
        name = acceptable_name(self._prefix + listed.name)
        return McpTool(self, listed.name, name, listed.description or "", listed.input_schema)

    def _failure(self, error: Exception, *, opening: bool = False) -> AixgoError:
        """The error as agents and models may see it: with the server's name, and without what is secret."""
        if isinstance(error, AixgoError):
            return error
        told = _told(_innermost(error), self._timeout, opening=opening)
        return ToolError(self._masked(f"MCP server {self.name!r} {told}"))

    def _masked(self, text: str) -> str:
        for secret in self._endpoint.secrets:
            text = text.replace(secret, "***")
        return text


def _code(error: BaseException) -> int | None:
    """The JSON-RPC code of an answer, or of what the SDK makes of a connection that broke; None of other errors."""
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


def _innermost(error: BaseException) -> BaseException:
    """The first single error of what may be groups within groups, as anyio raises them."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error


def _told(error: BaseException, timeout: float, *, opening: bool) -> str:
    code = _code(error)
    if code == _CONNECTION_CLOSED and opening:
        return "ended before a session stood; its standard error says why"
    if code == _CONNECTION_CLOSED:
        return "has gone while it was asked; whether the call was done is not known"
    if isinstance(error, TimeoutError):
        return f"did not answer within {timeout:g} s"
    if isinstance(error, OSError):
        return f"cannot be started: {error.strerror or type(error).__name__}"
    if code is not None:
        return f"refuses: {str(getattr(error, 'message', ''))[:_CUT]}"
    return f"cannot be used: {type(error).__name__}: {str(error)[:_CUT]}"


def _output(result: CallToolResult) -> JSON:
    """A structured result as it is; else the texts, and what is no text by its kind."""
    if result.structured_content is not None and all(block.type == "text" for block in result.content):
        return result.structured_content
    return _texts(result)


def _texts(result: CallToolResult) -> str:
    return "\n".join(_text(block) for block in result.content)


def _text(block: Any) -> str:
    match block.type:
        case "text":
            return block.text
        case "image" | "audio":
            # Base64: four characters for three bytes.
            return f"[{block.type}, {block.mime_type}, {len(block.data) * 3 // 4} bytes; not shown]"
        case "resource_link":
            return f"[resource {block.name}: {block.uri}]"
        case "resource" if hasattr(block.resource, "text"):
            return f"[resource {block.resource.uri}]\n{block.resource.text}"
        case "resource":
            return f"[resource {block.resource.uri}, {block.resource.mime_type or 'unknown type'}; not shown]"
        case other:
            return f"[{other}; not shown]"
