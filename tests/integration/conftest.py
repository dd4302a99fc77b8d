"""What tests of processes share: a host without a control plane to talk to, started once, and the ways of calling."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc.aio
import pytest

from tests.support import Process, start_host


@pytest.fixture(params=["plain", "session"])
def transport(request: pytest.FixtureRequest) -> str:
    """How the calls of a test travel: each way in its turn."""
    return request.param


@pytest.fixture(scope="session")
def host() -> Iterator[Process]:
    """A process that serves a few agents at a fixed address."""
    names = (
        "upper", "boom", "sold-out", "words", "breaks-off", "observer", "journal", "slow", "collector", "writer",
        "paid-then-slow",
    )  # fmt: skip
    with start_host(names) as process:
        yield process.wait_ready()


@pytest.fixture
async def channel(host: Process) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel to that process."""
    async with grpc.aio.insecure_channel(host.address) as channel:
        yield channel
