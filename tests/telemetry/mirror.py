"""A server that refuses whoever comes, and quotes the keys they sent: vendors, MCP servers, stores, Langfuse in one."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_KEYS = ("authorization", "api-key", "x-api-key", "x-goog-api-key")
"""Headers that keys come in. Only they are quoted, because clients cut long answers."""


class Mirror(ThreadingHTTPServer):
    """What was asked of it so far is in `seen`: paths and headers, as text."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def mirror() -> Generator[Mirror]:
    """A mirror that listens until the end of the block."""
    with Mirror() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Mirror  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower, by construction
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._quote()

    def do_PUT(self) -> None:
        self.do_POST()

    def do_GET(self) -> None:
        self._quote()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the standard library
        """Nothing: a test reads what came, not the log."""

    def _quote(self) -> None:
        keys = {name: value for name, value in self.headers.items() if name.lower() in _KEYS}
        quoted = f"{self.path} with {keys} is refused"
        self.server.seen.append(quoted)
        body = json.dumps(
            {"error": {"message": quoted, "type": "x", "code": 401}, "status": {"error": quoted}}
        ).encode()
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("x-you-sent", quoted.replace("\n", " "))
        self.end_headers()
        self.wfile.write(body)
