"""A vendor's server and a client of it, and keys kept out of reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aixgo.llm.openai import Endpoint, OpenAIClient
from vendor_server import VendorServer


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "XAI_API_KEY", "DEEPSEEK_API_KEY", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AIXGO_LOCAL_MODEL_URL", raising=False)


@pytest.fixture
async def vendor() -> AsyncIterator[VendorServer]:
    made = VendorServer()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield made
    server.close()


@pytest.fixture
async def client(vendor: VendorServer) -> AsyncIterator[OpenAIClient]:
    made = OpenAIClient(Endpoint("openai", vendor.url))
    yield made
    await made.close()
