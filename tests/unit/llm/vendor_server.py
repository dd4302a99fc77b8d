"""A small HTTP server in a vendor's place, answering each request with the next handler; and the OpenAI chat format.

`tests/vendors/` has the formats of the others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Handler = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One request and the connection to answer it on."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self, status: int, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        await self.writer.drain()

    async def begin_stream(self) -> None:
        self.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await self.writer.drain()

    async def send(self, piece: Any, event: str = "") -> None:
        head = f"event: {event}\n" if event else ""
        data = f"{head}data: {piece if isinstance(piece, str) else json.dumps(piece)}\n\n".encode()
        self.writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self.writer.drain()

    async def end_stream(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def closed_by_peer(self) -> None:
        assert await self.reader.read() == b""


@dataclass
class VendorServer:
    """Answers each request with the next handler."""

    handlers: list[Handler] = field(default_factory=list[Handler])
    seen: list[Exchange] = field(default_factory=list[Exchange])
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                exchange = Exchange(request.split()[1], headers, body, reader, writer)
                self.seen.append(exchange)
                await self.handlers.pop(0)(exchange)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def chat_answer(text: str | None, *, reason: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4-0613",
        "choices": [
            {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
    }


def chat_chunk(text: str | None = None, *, reason: str | None = None, **delta: Any) -> dict[str, Any]:
    content = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": {**content, **delta}, "finish_reason": reason}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4-0613", "choices": [choice]}


def usage_chunk(prompt: int, completion: int) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**chat_chunk(), "choices": [], "usage": usage}


def answers(text: str | None, **more: Any) -> Handler:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(200, chat_answer(text, **more))

    return handle


def refuses(status: int, message: str, **headers: str) -> Handler:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(status, {"error": {"message": message, "type": "x", "secret": "inside"}}, **headers)

    return handle
