"""A small server that speaks the part of Qdrant's REST API that retrieval uses, over the client library's own engine.

No Qdrant server is to be had as a package, so what is seen here is the client's side of the wire: requests as they are
really sent, and every kind of refusal.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client import models as m

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Handler = Callable[[str, dict[str, Any]], Any]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncGenerator[str]:
    """The URL at which `serve` answers connections; all of them have ended at the end."""
    serving: set[asyncio.Task[Any]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(tracked, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*serving, return_exceptions=True), 10)


class QdrantServer:
    """Serves one engine in memory. `refusal` (status, body) is answered instead, once; `key` is what requests need."""

    def __init__(self) -> None:
        self.engine = QdrantClient(":memory:")
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self.refusals: list[tuple[int, str]] = []
        self.key = ""
        self.url = ""
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            ("GET", re.compile(r"/collections/(\w+)/exists"), self._exists),
            ("GET", re.compile(r"/collections/(\w+)"), self._get),
            ("PUT", re.compile(r"/collections/(\w+)"), self._create),
            ("DELETE", re.compile(r"/collections/(\w+)"), lambda name, _: self.engine.delete_collection(name)),
            ("PUT", re.compile(r"/collections/(\w+)/index"), lambda *_: {"operation_id": 1, "status": "completed"}),
            ("PUT", re.compile(r"/collections/(\w+)/points"), self._upsert),
            ("POST", re.compile(r"/collections/(\w+)/points/delete"), self._delete),
            ("POST", re.compile(r"/collections/(\w+)/points/scroll"), self._scroll),
            ("POST", re.compile(r"/collections/(\w+)/points/query"), self._query),
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                raw = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = request.split()
                status, body = self._answer(method, path.partition("?")[0], headers, json.loads(raw or b"{}"))
                data = body.encode()
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n".encode())
                writer.write(f"content-length: {len(data)}\r\n\r\n".encode() + data)
                await writer.drain()

    def _answer(self, method: str, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, str]:
        self.seen.append((method, path, body))
        if self.key and headers.get("api-key") != self.key:
            return 401, json.dumps({"status": {"error": f"not {headers.get('api-key')}"}})
        if self.refusals:
            return self.refusals.pop(0)
        for wanted, pattern, handler in self._routes:
            found = pattern.fullmatch(path)
            if found and wanted == method:
                try:
                    result = handler(found.group(1), body)
                except ValueError as error:
                    return (404 if "not found" in str(error) else 409), json.dumps({"status": {"error": str(error)}})
                return 200, json.dumps({"result": result, "status": "ok", "time": 0.0})
        return 404, "{}"

    def _exists(self, name: str, _: dict[str, Any]) -> Any:
        return {"exists": self.engine.collection_exists(name)}

    def _get(self, name: str, _: dict[str, Any]) -> Any:
        return self.engine.get_collection(name).model_dump(mode="json")

    def _create(self, name: str, body: dict[str, Any]) -> Any:
        asked = m.CreateCollection.model_validate(body)
        return self.engine.create_collection(
            name, vectors_config=asked.vectors, sparse_vectors_config=asked.sparse_vectors
        )

    def _upsert(self, name: str, body: dict[str, Any]) -> Any:
        done = self.engine.upsert(name, m.PointsList.model_validate(body).points)
        return done.model_dump(mode="json")

    def _delete(self, name: str, body: dict[str, Any]) -> Any:
        done = self.engine.delete(name, m.FilterSelector.model_validate(body))
        return done.model_dump(mode="json")

    def _scroll(self, name: str, body: dict[str, Any]) -> Any:
        points, offset = self.engine.scroll(
            name, limit=body["limit"], offset=body.get("offset"), with_payload=body["with_payload"]
        )
        return {"points": [point.model_dump(mode="json") for point in points], "next_page_offset": offset}

    def _query(self, name: str, body: dict[str, Any]) -> Any:
        asked = m.QueryRequest.model_validate(body)
        found = self.engine.query_points(
            name, asked.query, using=asked.using, limit=asked.limit or 10, query_filter=asked.filter
        )
        return found.model_dump(mode="json")
