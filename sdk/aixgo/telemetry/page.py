"""A small HTTP server for one WSGI application, that callers of any kind cannot exhaust: for the metrics page.

Owns the bounds of it. Above it lies `export.py`, which says what is on the page. It runs in threads of its own, so
that the page answers also while the event loop is blocked.
"""

from __future__ import annotations

import io
import logging
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

MAX_CONNECTIONS = 32
"""Connections at the same time, a thread each. One more ends the oldest, which has had the longest time to ask."""
IO_TIMEOUT = 5.0
"""Seconds that a caller may take to send the next piece of its request, or to read the next of the answer."""

_log = logging.getLogger(__name__)

Application = Callable[..., Iterable[bytes]]


class PageServer(ThreadingMixIn, WSGIServer):
    """Serves `application` at a host and port until `close`. Raises OSError when they cannot be bound."""

    daemon_threads = True
    request_queue_size = 128
    """Connections that wait to be taken. More believe that they are connected, for minutes."""

    def __init__(self, host: str, port: int, application: Application) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self.address_family = family
        self._connections: OrderedDict[Any, None] = OrderedDict()
        self._lock = Lock()
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(application)
        self._thread = Thread(target=self.serve_forever, name="metrics page", daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def close(self) -> None:
        """Stop serving."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own; for socketserver."""
        with self._lock:
            self._connections[request] = None
            oldest = self._connections.popitem(last=False)[0] if len(self._connections) > MAX_CONNECTIONS else None
        if oldest is not None:
            _shut(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """A connection has been served; for socketserver."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection has broken off, or was too slow: no reason for a traceback on the terminal."""
        _log.debug("a reader of the metrics page is gone", exc_info=True)


class _Handler(WSGIRequestHandler):
    """One request of one connection. Nothing of it is logged: Prometheus asks every few seconds."""

    timeout = IO_TIMEOUT

    def get_stderr(self) -> Any:
        return io.StringIO()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in http.server
        pass


def _shut(connection: socket.socket) -> None:
    """Wake the thread that waits on a connection: it finds it ended."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        _log.debug("a connection to the metrics page had ended by itself: %s", error)
