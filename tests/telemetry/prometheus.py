"""A Prometheus of the tests' own, scraping real processes, and what it says when it is asked."""

from __future__ import annotations

import asyncio
import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from aixgo_services.supervisor import free_port

from tests.support import eventually

STOP = 20.0
"""Seconds that it may take to end."""


class Prometheus:
    """A Prometheus that runs. What it is asked it answers from its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):
                return True
        except (urllib.error.URLError, ConnectionError):
            return False

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now."""
        asked = urllib.parse.urlencode({"query": expression})
        return (await asyncio.to_thread(self._get, f"query?{asked}"))["result"]

    async def rules(self) -> list[dict[str, Any]]:
        """All rules and how their last evaluation went."""
        groups = (await asyncio.to_thread(self._get, "rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that went."""
        return (await asyncio.to_thread(self._get, "targets"))["activeTargets"]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}", timeout=10) as answer:
            return json.load(answer)["data"]


@asynccontextmanager
async def prometheus(folder: Path, pages: Sequence[str], rules: Path) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes these pages every second and evaluates these rules as often; it needs the program."""
    configure(folder, pages, rules)
    address = f"127.0.0.1:{free_port()}"
    process = start(folder, address)
    try:
        running = Prometheus(f"http://{address}")
        await eventually(lambda: running.ready, timeout=60)
        yield running
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, STOP)


def configure(folder: Path, pages: Sequence[str], rules: Path) -> None:
    """Write what it reads."""
    often = "1s"
    groups = yaml.safe_load(rules.read_text())["groups"]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{**group, "interval": often} for group in groups]}))
    targets = [{"targets": [urlsplit(page).netloc for page in pages]}]
    config = {
        "global": {"scrape_interval": often, "scrape_timeout": often, "evaluation_interval": often},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "fleet", "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))


def start(folder: Path, address: str) -> subprocess.Popen[bytes]:
    """Start it in a folder, where its log lies, too."""
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": address,
    }
    with (folder / "prometheus.log").open("wb") as log:
        return subprocess.Popen(
            ["prometheus", *(f"--{name}={value}" for name, value in options.items())], stdout=log, stderr=log
        )
