"""Every ready role answers as a service of its own, out of one YAML file, as it does in one process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aixgo import DistributedRuntime, Message
from aixgo.config.load import load
from aixgo.errors import NotSupported
from aixgo.launch import opened
from aixgo.runtime.base import BaseRuntime
from aixgo_services.supervisor import Fleet

from tests.support import eventually

BOUND = 30.0
FILE = """\
version: 2
tools:
  - {name: add, python: sums:add}
agents:
  - {name: llm, role: llm, model: test/upper}
  - {name: react, role: react, model: "test/script:script.yaml", tools: [add]}
  - {name: classifier, role: classifier, model: "test/choose:tea", config: {categories: [rice, tea]}}
  - name: nearest
    role: classifier
    config: {method: embeddings, embeddings: test/words, categories: {tea: green leaves, rice: white grains}}
  - {name: aggregator, role: aggregator, config: {strategy: majority}}
  - {name: planner, role: planner, model: "test/script:script.yaml"}
  - {name: retriever, role: retriever, config: {documents: documents, embeddings: test/words}}
  - name: producer
    role: producer
    outputs: [{target: logger}]
    config: {interval: 50ms, message: "tick {count}"}
  - {name: logger, role: logger, config: {file: FOLDER/log.jsonl}}
"""
SCRIPT = """\
- when: {asks: steps}
  json: {steps: [{id: one, task: boil water, needs: []}, {id: two, task: "pour {step.one}", needs: [one]}]}
- when: {any: "5"}
  text: It is 5.
- when: {offers: add}
  tool: {name: add, arguments: {a: 2, b: 3}}
- text: First boil, then pour.
"""
SUMS = '''\
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "tea.md").write_text("Tea is grown in Assam, on green hills.")
    (tmp_path / "documents" / "rice.md").write_text("Rice is grown in Punjab, on wet fields.")
    (tmp_path / "script.yaml").write_text(SCRIPT)
    (tmp_path / "sums.py").write_text(SUMS)
    path = tmp_path / "mesh.yaml"
    path.write_text(FILE.replace("FOLDER", str(tmp_path)))
    return path


@pytest.fixture(params=["local", "processes"])
async def runtime(request: pytest.FixtureRequest, file: Path) -> AsyncIterator[BaseRuntime]:
    config = load(file, {})
    if request.param == "local":
        async with opened(config, variables={}) as local:
            yield local
        return
    async with Fleet(config, file) as fleet, DistributedRuntime(control_plane=[fleet.control_plane]) as remote:
        yield remote


async def test_every_ready_role_answers(runtime: BaseRuntime, tmp_path: Path) -> None:
    async def ask(name: str, content: Any) -> Message:
        return await runtime.call(name, content, timeout=BOUND)

    for check in CHECKS:
        await check(ask)
    log = tmp_path / "log.jsonl"
    await eventually(lambda: log.exists() and log.read_text().count("tick") >= 3)
    said = [json.loads(line)["payload"] for line in log.read_text().rpartition("\n")[0].splitlines()]
    ticks = [int(text.removeprefix("tick ")) for text in said if text.startswith("tick ")]
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))


Ask = Callable[[str, Any], Awaitable[Message]]


async def llm(ask: Ask) -> None:
    reply = await ask("llm", "good tea")
    assert (reply.payload, reply.usage.total_tokens) == ("GOOD TEA", 4)


async def react(ask: Ask) -> None:
    reply = await ask("react", "what is two and three")
    assert reply.payload == "It is 5."
    assert reply.metadata["tool_calls"] == [{"name": "add", "ok": True}]
    assert reply.usage.llm_calls == 2


async def classifier(ask: Ask) -> None:
    assert (await ask("classifier", "a cup of it")).metadata["category"] == "tea"
    nearest = await ask("nearest", "fresh green leaves")
    assert (nearest.payload, nearest.metadata["confidence_from"]) == ("tea", "similarity")


async def aggregator(ask: Ask) -> None:
    reply = await ask("aggregator", {"a": "Tea", "b": "tea.", "c": "rice"})
    assert (reply.payload, reply.metadata["votes"]) == ("Tea", {"Tea": 2.0, "rice": 1.0})


async def planner(ask: Ask) -> None:
    reply = await ask("planner", "make tea")
    steps: Any = reply.payload
    assert [step["id"] for step in steps["steps"]] == ["one", "two"]


async def retriever(ask: Ask) -> None:
    reply: Any = (await ask("retriever", "where is tea grown")).payload
    assert reply["chunks"][0]["source"] == "documents/tea.md"


async def producer(ask: Ask) -> None:
    with pytest.raises(NotSupported):
        await ask("producer", "now")


async def logger(ask: Ask) -> None:
    assert (await ask("logger", "hear this")).payload == "hear this"


CHECKS = (llm, react, classifier, aggregator, planner, retriever, producer, logger)
