"""An MCP server for tests, written with the SDK: `python mcp_server.py` over stdio, `... http PORT` over HTTP.

Over HTTP it prints its port and wants the header `authorization: Bearer hush`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("test", log_level="CRITICAL")
_waiting: list[asyncio.Event] = []


@server.tool()
def add(a: int, b: int) -> dict[str, int]:
    """Adds two numbers."""
    return {"sum": a + b}


@server.tool(name="shout.it")
def shout(text: str) -> str:
    """Says it loudly."""
    return text.upper()


@server.tool()
def whoami() -> dict[str, Any]:
    """Tells its process and the names of its environment variables."""
    return {"pid": os.getpid(), "variables": sorted(os.environ), "token": os.environ.get("TOKEN")}


@server.tool()
def refuse(secret: str) -> str:
    """Refuses, and says why."""
    raise ToolError(f"not with {secret}")


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """Shows a picture."""
    return ["a dot", Image(data=b"12345", format="png")]


@server.tool()
async def meet() -> str:
    """Waits until it is called a second time."""
    mine = asyncio.Event()
    _waiting.append(mine)
    if len(_waiting) == 2:
        for event in _waiting:
            event.set()
    await mine.wait()
    return "met"


@server.tool()
async def hang(path: str) -> None:
    """Never ends; notes in the file when it begins and when it is cancelled."""
    try:
        Path(path).write_text("began")  # noqa: ASYNC240
        await asyncio.Event().wait()
    finally:
        Path(path).write_text("cancelled")  # noqa: ASYNC240


@server.tool()
def die() -> None:
    """Ends the process at once."""
    os._exit(3)


def guarded(app: Any) -> Any:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and dict(scope["headers"]).get(b"authorization") != b"Bearer hush":
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await app(scope, receive, send)

    return serve


def serve_http(port: int) -> None:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen()
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(guarded(server.streamable_http_app()), log_level="critical", lifespan="on")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    if sys.argv[1:2] == ["http"]:
        serve_http(int(sys.argv[2]))
    else:
        server.run()
