"""Agents of a YAML file, served by processes of `aixgo serve`, and what these say on their metrics pages.

Owns the file and the agents in it, for tests of what only a file or the environment can ask for. Below it:
`integration/secured.py`, which starts the processes.
"""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.secured import Running, aixgo
from tests.support import POLL, eventually

AGENTS = """
import asyncio
import os

from aixgo import agent


@agent(idempotent=True)
async def who(message):
    return str(os.getpid())


@agent
async def desk(message):
    await asyncio.sleep(float(message.text))
    return str(os.getpid())
"""
FILE = """
version: 2
agents:
  - {name: who, role: "people:who"}
  - {name: desk, role: "people:desk", max_concurrent_calls: 1, max_queue: 0}
deployment: DEPLOYMENT
"""
PAGE = re.compile(r"metrics at (http://[^\s\"]+)")


def write_file(folder: Path, deployment: str = "{mode: distributed}") -> None:
    """Write the file and its agents into a folder: `who` answers with the process, `desk` takes one call at a time."""
    (folder / "people.py").write_text(AGENTS)
    (folder / "fleet.yaml").write_text(FILE.replace("DEPLOYMENT", deployment))


@contextmanager
def serving(folder: Path, **environment: str) -> Generator[Running]:
    """A process that serves the agents of the file."""
    asked = {"AIXGO_METRICS_ADDRESS": "127.0.0.1:0", **environment}
    with aixgo(folder, "serve", "fleet.yaml", "--agent=who", "--agent=desk", **asked) as process:
        yield process


async def refused(process: Running, reason: str) -> int:
    """How many calls a process has refused for a reason."""
    return await _counted(process, "aixgo_calls_refused_total", f'aixgo_reason="{reason}"')


async def busy(process: Running, calls: int) -> None:
    """Return when so many calls from other processes run in a process."""
    async with asyncio.timeout(60.0):
        while await _counted(process, "aixgo_server_calls_active") != calls:  # noqa: ASYNC110  # of another process
            await asyncio.sleep(POLL)


async def _counted(process: Running, name: str, label: str = "") -> int:
    """The sum of a metric over all labels, or those with one of them, as the process's metrics page says."""
    await eventually(lambda: PAGE.search(process.log()) is not None)
    found = PAGE.search(process.log())
    assert found is not None
    page = await asyncio.to_thread(_read, found[1])
    lines = re.findall(rf"^{name}(\{{.*\}})? (\S+)$", page, re.MULTILINE)
    return sum(int(float(count)) for labels, count in lines if label in labels)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()
