"""A vendor's server in each wire format, and models that reach it as they reach the vendor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aixgo.llm.chat import Chat
from aixgo.llm.models import Models, ModelSettings

from tests.unit.llm.vendor_server import VendorServer
from tests.vendors.dialects import DIALECTS, Dialect

KEY = "sk-very-secret-0123456789"


@dataclass
class Clock:
    """Sleeps at once, and remembers for how long it would have."""

    naps: list[float] = field(default_factory=list[float])

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


@pytest.fixture
async def server() -> AsyncIterator[VendorServer]:
    made = VendorServer()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield made
    listening.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def models(dialect: Dialect, server: VendorServer, clock: Clock) -> AsyncIterator[Models]:
    environment = {dialect.url_variable: server.url, f"{dialect.vendor.upper()}_API_KEY": KEY if dialect.keyed else ""}
    settings = ModelSettings.from_environment(environment)
    made = Models(settings, sleep=clock.sleep)
    yield made
    await made.close()


@pytest.fixture
def chat(models: Models, dialect: Dialect) -> Chat:
    return models.chat([dialect.model])
