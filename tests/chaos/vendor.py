"""A vendor of language models that takes its time, and notes when each request began and how it ended.

Speaks the chat format of OpenAI over HTTP, whole and streamed. A request ends when it is answered, or when its client
closes the connection. Above: `trees.py`.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Self

from tests.chaos.tree_cast import tree_of
from tests.unit.llm.vendor_server import Exchange, chat_answer, chat_chunk, usage_chunk

TAKES = (0.05, 0.5)
"""Seconds, from and to, that an answer takes."""
PIECES = 5
"""Pieces of a streamed answer, besides the first."""
TOKENS = (10, 5)
"""Tokens of a prompt and of a completion."""


@dataclass
class Request:
    """One request. `ended` is None while it is being worked on."""

    tree: str
    begun: float
    ended: float | None = None
    answered: bool = False


class SlowVendor:
    """Serves, while the `async with` lasts, at `url`; `requests` has all that ever came."""

    def __init__(self, rng: random.Random) -> None:
        self.requests: list[Request] = []
        self._rng = rng

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
            body = json.loads(await reader.readexactly(int(length.partition(":")[2])))
            exchange = Exchange("", {}, body, reader, writer)
            request = Request(tree_of(json.dumps(body["messages"])), monotonic())
            self.requests.append(request)
            answering = asyncio.create_task(self._answer(exchange, request.tree))
            gone = asyncio.create_task(reader.read())  # the client sends nothing more, so this is its end
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            request.ended, request.answered = monotonic(), answering.done() and answering.exception() is None
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # a connection that was made for a request that was cancelled
        finally:
            writer.close()

    async def _answer(self, exchange: Exchange, tree: str) -> None:
        pause = self._rng.uniform(*TAKES)
        if not exchange.body.get("stream"):
            await asyncio.sleep(pause)
            answer = chat_answer(f"done with {tree}")
            spent = dict(zip(("prompt_tokens", "completion_tokens"), TOKENS, strict=True))
            await exchange.answer(200, answer | {"usage": spent | {"total_tokens": sum(TOKENS)}}, connection="close")
            return
        await exchange.begin_stream()
        await exchange.send(chat_chunk(f"done with {tree}"))
        for _ in range(PIECES):
            await asyncio.sleep(pause / PIECES)
            await exchange.send(chat_chunk(" on"))
        await exchange.send(chat_chunk(reason="stop"))
        await exchange.send(usage_chunk(*TOKENS))
        await exchange.send("[DONE]")
        await exchange.end_stream()
