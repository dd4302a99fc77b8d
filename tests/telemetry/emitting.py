"""Fleets of real processes with telemetry on, and everything that they emitted until they ended."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aixgo import DistributedRuntime
from aixgo.config.load import load
from aixgo_services.supervisor import Fleet

from tests.telemetry.receiver import Received, Receiver

NESTED = """
version: 2
tools:
  - {name: lookup, python: "fleet_tools:lookup"}
agents:
  - {name: writer, role: llm, model: test/upper}
  - {name: critic, role: llm, model: test/echo}
  - {name: clerk, role: react, model: "test/script:clerk.yaml", tools: [lookup]}
orchestrations:
  - name: panel
    pattern: parallel
    agents: [writer, critic]
  - name: main
    pattern: sequential
    agents:
      - clerk
      - panel
      - {pattern: parallel, agents: [writer, {pattern: sequential, agents: [critic, writer]}]}
observability: OBSERVABILITY
"""
CLERK = """
- when: {any: found}
  text: looked up
- when: {any: "Error:"}
  text: could not look up
- when: {user: fail}
  tool: {name: lookup, arguments: {key: fail}}
- tool: {name: lookup, arguments: {key: hunter2}}
"""
TOOLS = """
import os

def lookup(key: str) -> str:
    "Look something up."
    if "fail" in key:
        raise RuntimeError(f"cannot connect to {os.environ['STORE_DSN']} with {os.environ['OPENAI_API_KEY']}")
    return f"found {key}"

def redact(text: str) -> str:
    return text.replace("hunter2", "[gone]").replace("HUNTER2", "[gone]")
"""
PAGE = re.compile(r"metrics at (http://[^\s\"]+)")
NAMES = ("writer", "critic", "clerk", "panel", "main")


@dataclass
class Emitted:
    """What a fleet emitted: to a collector, as lines of its processes by name, and on its metrics pages."""

    received: Received
    lines: dict[str, list[str]] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)

    def logged(self) -> list[dict[str, Any]]:
        """The lines that are JSON."""
        return [json.loads(line) for lines in self.lines.values() for line in lines if line.startswith("{")]

    def everything(self) -> str:
        """All of it as one text."""
        told = [line for lines in self.lines.values() for line in lines]
        return "\n".join([*told, *self.pages.values(), *(one.decode("latin-1") for one in self.received.bytes)])


class Running:
    """A fleet that runs, and a runtime to call it with."""

    def __init__(self, runtime: DistributedRuntime, emitted: Emitted, control_plane: str) -> None:
        self.runtime = runtime
        self.emitted = emitted
        self.control_plane = control_plane

    def page_urls(self) -> dict[str, str]:
        """The address of the metrics page of every process that has one."""
        told = self.emitted.lines.items()
        return {name: found[1] for name, lines in told for line in lines if (found := PAGE.search(line))}

    async def read_pages(self) -> None:
        """Read all metrics pages."""
        for name, url in self.page_urls().items():
            self.emitted.pages[name] = await asyncio.to_thread(_read, url)


@asynccontextmanager
async def running(
    folder: Path, receiver: Receiver, observability: Mapping[str, Any], text: str = NESTED
) -> AsyncIterator[Running]:
    """Five processes and a control plane; leaving stops them, which delivers what they recorded."""
    (folder / "fleet_tools.py").write_text(TOOLS)
    (folder / "clerk.yaml").write_text(CLERK)
    file = folder / "mesh.yaml"
    file.write_text(text.replace("OBSERVABILITY", json.dumps(dict(observability))))
    emitted = Emitted(receiver.received)

    def heard(name: str, line: str) -> None:
        emitted.lines.setdefault(name, []).append(line)

    async with (
        Fleet(load(file), file, on_line=heard) as fleet,
        DistributedRuntime(control_plane=(fleet.control_plane,)) as runtime,
    ):
        yield Running(runtime, emitted, fleet.control_plane)


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        return page.read().decode()
