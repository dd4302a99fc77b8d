"""What the suite knows of a vendor's wire format: what a server of it answers, and what a request of it says.

One Dialect a format, in `openai_dialects.py` and `dialects.py`; the suite knows nothing else of vendors.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aixgo.llm.contract import StopReason, ToolUse
from aixgo.usage import Usage

from tests.unit.llm.vendor_server import Exchange, Handler

SPENT = Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4, reasoning_tokens=2)


@dataclass(frozen=True)
class Said:
    """What the model says, in no vendor's words."""

    text: str = ""
    uses: Sequence[ToolUse] = ()
    stop: StopReason = "stop"


class Dialect(ABC):
    """One vendor's format. `name` tells dialects of one vendor apart; `keyed` False: the server wants no key."""

    vendor: str
    name: str
    keyed: ClassVar[bool] = True
    embeds: ClassVar[bool] = True
    spent: ClassVar[Usage] = SPENT
    """What the answers say that was taken."""
    stops: ClassVar[Mapping[StopReason, str]]
    schema_refusal: ClassVar[str]
    """How a model that has no schema mode refuses it."""

    def __init__(self, vendor: str, name: str = "") -> None:
        self.vendor = vendor
        self.name = name or vendor

    @property
    def model(self) -> str:
        return f"{self.vendor}/model-1"

    @property
    def url_variable(self) -> str:
        return f"{self.vendor.upper()}_BASE_URL"

    @abstractmethod
    def body(self, said: Said) -> Any:
        """A whole answer."""

    @abstractmethod
    def events(self, said: Said) -> Sequence[tuple[str, Any]]:
        """A streamed answer: the event's name and its data."""

    @abstractmethod
    def error(self, status: int, words: str) -> Any:
        """The body of an error."""

    @abstractmethod
    def wants_stream(self, exchange: Exchange) -> bool: ...

    @abstractmethod
    def key_of(self, exchange: Exchange) -> str: ...

    @abstractmethod
    def images(self, body: Any) -> Sequence[str]:
        """The images of a request: base64 or addresses."""

    @abstractmethod
    def results(self, body: Any) -> Sequence[tuple[str, str]]:
        """What tools gave, as a request tells it: name or id of the use, and the text."""

    @abstractmethod
    def asks_schema(self, body: Any) -> bool:
        """Whether the vendor's own schema mode is asked for."""

    @abstractmethod
    def sent(self, body: Any) -> str:
        """Everything that is said in a request, of all roles."""

    def embeddings(self, vectors: Sequence[Sequence[float]]) -> Any:
        """A whole answer of a model of embeddings, to as many texts."""
        raise NotImplementedError

    def embedded(self, body: Any) -> Sequence[str]:
        """The texts of a request for embeddings."""
        raise NotImplementedError

    def embeds_as(self, *vectors: Sequence[float]) -> Handler:
        async def handle(exchange: Exchange) -> None:
            await exchange.answer(200, self.embeddings(vectors))

        return handle

    def answers(self, said: Said) -> Handler:
        """Answers whole or streamed, as the request wants it."""

        async def handle(exchange: Exchange) -> None:
            if not self.wants_stream(exchange):
                await exchange.answer(200, self.body(said))
                return
            await exchange.begin_stream()
            for event, data in self.events(said):
                await exchange.send(data, event)
            await exchange.end_stream()

        return handle

    def refuses(self, status: int, words: str, **headers: str) -> Handler:
        async def handle(exchange: Exchange) -> None:
            await exchange.answer(status, self.error(status, words), **headers)

        return handle

    def is_cut_off(self, said: Said) -> Handler:
        """Answers half of what it said that it would, and closes the connection."""

        async def handle(exchange: Exchange) -> None:
            data = json.dumps(self.body(said)).encode()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            exchange.writer.write(head.encode() + data[: len(data) // 2])
            await exchange.writer.drain()
            exchange.writer.close()

        return handle

    def breaks_off(self, *, cleanly: bool) -> Handler:
        """Streams the beginning of an answer, and ends the response or just the connection."""

        async def handle(exchange: Exchange) -> None:
            await exchange.begin_stream()
            for event, data in self.beginning("Hello"):
                await exchange.send(data, event)
            if cleanly:
                await exchange.end_stream()
            exchange.writer.close()

        return handle

    @abstractmethod
    def beginning(self, text: str) -> Sequence[tuple[str, Any]]:
        """The events of an answer up to its first text."""


def pieces(text: str) -> Sequence[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]
