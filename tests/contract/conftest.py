"""The meshes of the conformance suite: all agents in one process, and the same agents in a fleet of processes, called
over each of the transports.

A fleet is started once for all tests; each test has a runtime of its own. Keys and sessions are unique to a test, so
that what other tests left in the processes' journals does not matter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from aixgo import DistributedRuntime, LocalRuntime
from aixgo.message import new_id
from aixgo.runtime.base import BaseRuntime

from tests.contract.agents import MAILBOX_SIZE, PLACES, all_agents
from tests.contract.witnesses import Journal
from tests.support import Fleet, fleet

BOUND = 20.0
"""Seconds that anything may take that should happen at once."""


@dataclass(frozen=True)
class Mesh:
    """A runtime that reaches all agents under test."""

    runtime: BaseRuntime
    key: str
    """Unique to the test: under it agents note what they do."""

    async def noted(self, count: int, key: str = "") -> list[Any]:
        """What agents noted under the test's key, once there are `count` entries."""
        reply = await self.runtime.call("journal", {"key": key or self.key, "count": count}, timeout=BOUND)
        return cast("list[Any]", reply.payload)

    async def note(self, key: str, entry: str) -> None:
        """Note something for an agent that waits for it."""
        await self.runtime.call("journal", {"key": key, "note": entry}, timeout=BOUND)


@pytest.fixture(scope="session")
def processes() -> Iterator[Fleet]:
    """A control plane and the three processes of PLACES, which call each other plain."""
    with fleet(*PLACES.values()) as running:
        yield running


@pytest.fixture(scope="session")
def session_processes() -> Iterator[Fleet]:
    """The same, but they call each other over sessions."""
    with fleet(*PLACES.values(), transport="session") as running:
        yield running


FLEETS = {"processes": "processes", "sessions": "session_processes"}


@pytest.fixture(params=["local", *FLEETS])
def where(request: pytest.FixtureRequest) -> Fleet | None:
    """The fleet to call, or None for one process."""
    return None if request.param == "local" else cast("Fleet", request.getfixturevalue(FLEETS[request.param]))


@pytest.fixture
async def mesh(where: Fleet | None) -> AsyncIterator[Mesh]:
    """A mesh that serves all agents under test."""
    if where is None:
        runtime: BaseRuntime = LocalRuntime(mailbox_size=MAILBOX_SIZE)
        for agent in all_agents(Journal()):
            runtime.register(agent)
    else:
        runtime = DistributedRuntime(
            control_plane=[where.control_plane], mailbox_size=MAILBOX_SIZE, transport=where.transport
        )
    async with runtime:
        await runtime.call("echo", "", timeout=BOUND)  # the first snapshot is there, so names can be listed
        yield Mesh(runtime, new_id())
