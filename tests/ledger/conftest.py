"""The two meshes of these tests: everything in one process, and a fleet of three beside it; each has an event loop that
outlives the examples of a property."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from aixgo import DistributedRuntime, LocalRuntime, Usage
from aixgo import call as ambient
from aixgo.call import Budget
from aixgo.errors import AixgoError
from aixgo.runtime.base import BaseRuntime
from hypothesis import HealthCheck, Phase, settings

from tests.ledger.cast import HERE, PLACES, Tree, all_agents
from tests.ledger.vendor import billed
from tests.support import Fleet, fleet

CAST = "tests.ledger.cast:all_agents"
BOUND = 60.0
IN_A_MESH = settings(max_examples=200, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
"""Without shrinking: processes do not take the same course twice, and each example takes its time."""
T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """What became of a tree: what its caller was told, what the ledger above it says, what the vendor billed, and what
    of that can be known.
    """

    told: Usage
    ledger: Usage
    billed: Usage
    known: Usage
    budget: Budget
    error: AixgoError | None


@dataclass
class Mesh:
    """A runtime that reaches all agents, and the loop that it lives on."""

    runner: asyncio.Runner
    runtime: BaseRuntime
    bill: Path
    names: Iterator[int] = field(default_factory=count)

    def run(self, tree: Tree, tokens: int | None, usd: Decimal | None) -> Run:
        """Call the root of a tree with a budget."""
        return self.runner.run(self._run(tree, Budget(tokens, usd)))

    async def _run(self, tree: Tree, budget: Budget) -> Run:
        name = f"tree-{next(self.names)}"
        error: AixgoError | None = None
        above = ambient.root(BOUND)
        above.budget = budget
        with ambient.entered(above):
            try:
                told = (await self.runtime.call(tree["agent"], {**tree, "tree": name, "bill": str(self.bill)})).usage
            except AixgoError as failed:
                told, error = failed.usage, failed
        return Run(told, above.ledger.usage, *billed(self.bill, name), budget, error)


@pytest.fixture(scope="session")
def processes() -> Iterator[Fleet]:
    """A control plane and the processes of PLACES."""
    with fleet(*PLACES.values(), cast=CAST) as running:
        yield running


@pytest.fixture(scope="module", params=["local", "processes"])
def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Both meshes, one after the other."""
    running = None if request.param == "local" else cast("Fleet", request.getfixturevalue("processes"))
    yield from meshes(running, tmp_path_factory.mktemp("ledger") / "bill")


@pytest.fixture(scope="module")
def remote(processes: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The fleet."""
    yield from meshes(processes, tmp_path_factory.mktemp("remote") / "bill")


def meshes(running: Fleet | None, bill: Path) -> Iterator[Mesh]:
    """The mesh of a fleet, or of this process alone."""
    runtime = LocalRuntime() if running is None else DistributedRuntime(control_plane=[running.control_plane])
    for agent in all_agents():
        if running is None or agent.name in HERE:
            runtime.register(agent)
    with asyncio.Runner() as runner:
        runner.run(_entered(runtime.__aenter__()))
        yield Mesh(runner, runtime, bill)
        runner.run(_entered(runtime.__aexit__(None, None, None)))


async def _entered(step: Coroutine[Any, Any, T]) -> T:
    return await step
