"""The two meshes of these tests: everything in one process, and the same in a fleet that is started once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import cast

import pytest
from aixgo import DistributedRuntime, LocalRuntime
from aixgo.runtime.base import BaseRuntime

from tests.patterns.cast import Brain
from tests.patterns.mesh import PLACES, all_agents
from tests.support import Fleet, fleet

CAST = "tests.patterns.mesh:all_agents"


@pytest.fixture(scope="session")
def processes() -> Iterator[Fleet]:
    """A control plane and the processes of PLACES."""
    with fleet(*PLACES.values(), cast=CAST) as running:
        yield running


@pytest.fixture(params=["local", "processes"])
def where(request: pytest.FixtureRequest) -> Fleet | None:
    """The fleet to call, or None for one process."""
    return None if request.param == "local" else cast("Fleet", request.getfixturevalue("processes"))


@pytest.fixture
async def runtime(where: Fleet | None) -> AsyncIterator[BaseRuntime]:
    """A runtime that reaches all agents of these tests."""
    if where is not None:
        async with DistributedRuntime(control_plane=[where.control_plane]) as remote:
            yield remote
        return
    local = LocalRuntime()
    for agent in all_agents(Brain()):
        local.register(agent)
    async with local:
        yield local
