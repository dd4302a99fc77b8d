"""A vendor's server in the OpenAI wire format that remembers what it bills: the other side of a fleet's ledgers.

Owns what a request costs and how it ends, both drawn from the request's `user`, so that the same request fares the same
in every run: `TREE|...`, where TREE is whom it is billed to. It answers, streams, refuses, fails, hangs until its
client leaves, or loses the connection. Above: `test_fleet_sums.py`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

from aixgo import Usage
from aixgo.llm.contract import ChatMessage, CompletionRequest
from aixgo.llm.metering import estimate_prompt
from aixgo.llm.price import Price

from tests.ledger.vendor import PIECE, PRICES

MODELS: Mapping[str, Price | None] = {name.partition("/")[2]: price for name, price in PRICES.items()} | {
    "secret": None
}
"""The models of the shop, and what they cost."""
ENDINGS = (*["answers"] * 40, *["refuses", "fails"] * 2, "drops", "hangs")
PATIENCE = 60.0
"""Seconds that a request hangs at most."""


class Shop(ThreadingHTTPServer):
    """The server. `ended` counts requests by how they ended."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ended = Counter[str]()
        self._lock = threading.Lock()
        self._tries = Counter[str]()
        self._bills = defaultdict[str, list[Usage]](list)

    @property
    def url(self) -> str:
        """Its OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def billed(self, tree: str) -> Usage:
        """All that was billed to a tree, in tokens and USD."""
        with self._lock:
            return sum(self._bills[tree], Usage())

    def draw(self, user: str) -> Random:
        """The course of the next try of a request."""
        with self._lock:
            self._tries[user] += 1
            return Random(f"{user}|{self._tries[user]}")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing about clients that have left."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def bill(self, user: str, model: str, spent: Usage, ending: str) -> None:
        """Write down what a request costs."""
        price = MODELS[model]
        cost = None if price is None else price.of(spent)
        with self._lock:
            self.ended[ending] += 1
            self._bills[user.partition("|")[0]].append(spent + Usage(cost_usd=cost))


@contextmanager
def shop() -> Generator[Shop]:
    """A shop that is open until the end of the block."""
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Shop  # pyright: ignore[reportIncompatibleVariableOverride]  # narrower, by construction
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        if not sent:  # the client has left
            return
        body = json.loads(sent)
        draw = self.server.draw(body["user"])
        ending, spent = draw.choice(ENDINGS), _taken(body, draw)
        if ending in ("refuses", "fails"):
            self.server.bill(body["user"], body["model"], Usage(), ending)
            self._answer(429 if ending == "refuses" else 500, {"error": {"message": ending}})
            return
        pieces = draw.randint(0, min(4, spent.completion_tokens)) if body.get("stream") else 0
        # What is broken off costs nothing when nothing was said, or something up to all of it.
        free = ending != "answers" and not pieces and draw.random() < 0.3
        self.server.bill(body["user"], body["model"], Usage() if free else spent, ending)
        with suppress(ConnectionError):  # the client may leave at any time
            if ending == "answers":
                self._stream(body, spent, pieces) if body.get("stream") else self._answer(200, _whole(body, spent))
                return
            self._pieces(body, pieces)
            if ending == "hangs":
                self.connection.settimeout(PATIENCE)
                self.connection.recv(1)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the standard library
        """Nothing: a test reads the bill."""

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: Any, spent: Usage, pieces: int) -> None:
        self._pieces(body, pieces)
        if not pieces:
            self._begin()
        self._send(_chunk(body, {}, "stop"))
        self._send({**_chunk(body, {}), "choices": [], "usage": _usage(spent)})
        self.wfile.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def _pieces(self, body: Any, count: int) -> None:
        if count:
            self._begin()
        for _ in range(count):
            self._send(_chunk(body, {"content": PIECE}))

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _send(self, chunk: Any) -> None:
        data = f"data: {json.dumps(chunk)}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


def _taken(body: Any, draw: Random) -> Usage:
    turns = [ChatMessage(turn["role"], turn["content"]) for turn in body["messages"]]
    prompt = estimate_prompt(CompletionRequest(turns))
    completion = draw.randint(0, body["max_tokens"])
    return Usage(
        prompt, completion, cached_tokens=draw.randint(0, prompt), reasoning_tokens=draw.randint(0, completion)
    )


def _usage(spent: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.total_tokens,
        "prompt_tokens_details": {"cached_tokens": spent.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": spent.reasoning_tokens},
    }


def _whole(body: Any, spent: Usage) -> dict[str, Any]:
    message = {"role": "assistant", "content": PIECE}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    told = {"id": "1", "object": "chat.completion", "created": 1, "model": body["model"], "choices": choices}
    return told | {"usage": _usage(spent)}


def _chunk(body: Any, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "choices": choices}
