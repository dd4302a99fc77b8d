"""The server of the metrics page under callers that mean it no good: real sockets against the real server."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from aixgo.telemetry.page import MAX_CONNECTIONS, PageServer

from tests.support import eventually


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"aixgo_calls 1\n"]


@pytest.fixture
def page() -> Iterator[PageServer]:
    server = PageServer("127.0.0.1", 0, application)
    yield server
    server.close()


def read(page: PageServer) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{page.server_port}/metrics", timeout=30) as answer:
        return bytes(answer.read())


def connect(page: PageServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", page.server_port), timeout=30)


async def test_it_answers_while_more_callers_than_it_serves_sit_and_say_nothing(page: PageServer) -> None:
    with ExitStack() as stack:
        for _ in range(4 * MAX_CONNECTIONS):
            stack.enter_context(connect(page))
        answer = await asyncio.to_thread(read, page)
        assert answer == b"aixgo_calls 1\n"
        assert page.connections <= MAX_CONNECTIONS


async def test_the_oldest_connection_is_the_one_that_ends_for_a_new_one(page: PageServer) -> None:
    with ExitStack() as stack:
        oldest = stack.enter_context(connect(page))
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(connect(page))
        assert await asyncio.to_thread(oldest.recv, 1) == b""


@pytest.mark.parametrize("sent", [b"\x00\xff" * 500, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET " + b"x" * 70_000])
async def test_bytes_that_are_no_request_end_their_connection_and_write_nothing_on_the_terminal(
    page: PageServer, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect(page) as caller:
        caller.sendall(sent)
        caller.shutdown(socket.SHUT_WR)
        assert await asyncio.to_thread(read, page) == b"aixgo_calls 1\n"
        await eventually(lambda: page.connections == 0)
    assert capfd.readouterr().err == ""
