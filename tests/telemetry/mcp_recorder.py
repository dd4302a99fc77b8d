"""An MCP server for tests that notes what it is sent: `mcp_recorder.py NOTES` over stdio, `... NOTES PORT` over HTTP.

Each line of the file NOTES is a JSON object: `meta` of a tool's call, and, of a request over HTTP, its `headers` and
`method` of JSON-RPC. Its own spans, which the SDK makes, go to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from aixgo.launch import telemetry_settings
from aixgo.telemetry.setup import set_up
from mcp.server.mcpserver import Context, MCPServer

NOTES = Path(sys.argv[1])
server = MCPServer("recorder", log_level="CRITICAL")


def note(**told: Any) -> None:
    """Write one line."""
    with NOTES.open("a") as file:
        file.write(json.dumps(told) + "\n")


@server.tool()
def remember(text: str, context: Context[Any, Any]) -> str:
    """Remembers a text."""
    note(meta=dict(context.request_context.meta or {}))
    return f"remembered {text}"


def noting(app: Any) -> Any:
    """`app`, with each request's headers noted."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        async def body() -> Any:
            event = await receive()
            if event.get("body"):
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                note(method=json.loads(event["body"]).get("method"), headers=headers)
            return event

        await app(scope, body if scope["type"] == "http" else receive, send)

    return serve


if __name__ == "__main__":
    with set_up(telemetry_settings(None, os.environ, ["recorder"])):
        if len(sys.argv) > 2:
            config = uvicorn.Config(
                noting(server.streamable_http_app()), port=int(sys.argv[2]), log_level="critical", lifespan="on"
            )
            uvicorn.Server(config).run()
        else:
            server.run()
