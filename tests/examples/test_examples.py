"""Every example answers what it promises: in one process, as a fleet, and from Python; its README tells the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from aixgo import DistributedRuntime, Message
from aixgo.config.load import load
from aixgo.launch import default_target, opened
from aixgo.message import to_json
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute
from aixgo_services.supervisor import Fleet

from tests.examples.readme import ROOT, Example

TIMEOUT = 60.0


@dataclass(frozen=True)
class Promise:
    """What an example answers to the first command of its README: a part of the text, and some of the metadata."""

    name: str
    answer: str
    metadata: Mapping[str, Any]

    @property
    def example(self) -> Example:
        return Example(self.name)


PROMISES = [
    Promise(
        "sequential-release-notes",
        "Before you upgrade",
        {"pattern": "sequential", "agent_count": 3, "step_count": 3},
    ),
    Promise(
        "parallel-analysis",
        "sentiment: mixed\ntopic: reliability\nchurn: leaves",
        {"pattern": "parallel", "agent_count": 4, "strategy": "concatenate"},
    ),
    Promise(
        "router-costopt",
        "pay-as-you-go costs",
        {"pattern": "router", "routed_to": "large", "category": "hard"},
    ),
    Promise(
        "supervisor-research",
        "make the next oven an electric one",
        {"pattern": "supervisor", "rounds": 5, "finished": True},
    ),
    Promise(
        "swarm-customer-service",
        "I have activated it again",
        {"pattern": "swarm", "handoff_count": 2, "active_agent": "technical"},
    ),
    Promise(
        "reflection-writing",
        "No mail is lost",
        {"pattern": "reflection", "scores": [0.4, 0.85, 0.6], "best_iteration": 2, "stopped": "no_improvement"},
    ),
    Promise(
        "ensemble-medical",
        "emergency",
        {"pattern": "ensemble", "votes": {"emergency": 2.0, "today": 1.0}, "used_fallback": False},
    ),
    Promise(
        "rag-enterprise",
        "140 euros, in Paris, London, Oslo, Toronto and New York 210. [1]",
        {"pattern": "rag", "grounded": True, "invalid_citations": [], "queries": ["What may a hotel in Paris cost?"]},
    ),
    Promise(
        "hierarchical-report",
        "We recommend a second supplier",
        {"pattern": "hierarchical", "agent_count": 5, "level": 1},
    ),
    Promise(
        "debate-policy",
        "Try the four-day week for six months in two teams",
        {"pattern": "debate", "rounds": 2, "ended": "consensus", "consensus": 1.0, "verdict_by": "moderator"},
    ),
    Promise(
        "planning-incident",
        "their tax rates were missing",
        {"pattern": "planning", "step_count": 6, "replans": 1},
    ),
    Promise(
        "mapreduce-reviews",
        "noise: 1 good, 3 bad",
        {"pattern": "mapreduce", "item_count": 12, "findings": 12},
    ),
]
each_example = pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.name)


async def in_one_process(example: Example, text: str) -> Message:
    config = load(example.config)
    async with opened(config) as runtime:
        return await runtime.call(default_target(config), text, timeout=TIMEOUT)


async def as_a_fleet(example: Example, text: str) -> Message:
    config = load(example.config)
    async with (
        Fleet(config, example.config) as fleet,
        DistributedRuntime(control_plane=[fleet.control_plane]) as runtime,
    ):
        return await runtime.call(default_target(config), text, timeout=TIMEOUT)


def printed_by(*command: str) -> str:
    """What a command prints on stdout. It must end well."""
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def rounded(metadata: Mapping[str, Any]) -> Any:
    """Metadata without the last digits of floats: sums of vectors differ there from process to process."""
    return json.loads(to_json(metadata), parse_float=lambda digits: round(float(digits), 9))


def test_every_pattern_has_an_example():
    from aixgo.orchestration.catalog import PATTERNS

    assert {promise.metadata["pattern"] for promise in PROMISES} == set(PATTERNS)


@each_example
def test_its_configuration_is_right(promise: Promise, capsys: pytest.CaptureFixture[str]):
    assert execute(["config", "check", str(promise.example.config)]) == Exit.OK, capsys.readouterr().err


@each_example
async def test_it_answers_in_one_process(promise: Promise):
    reply = await in_one_process(promise.example, promise.example.inputs("run")[0])
    assert promise.answer in reply.text
    assert promise.metadata.items() <= reply.metadata.items()
    assert reply.usage.total_tokens == reply.metadata["tokens_total"] > 0


@each_example
async def test_a_fleet_answers_the_same_for_the_same_tokens(promise: Promise):
    text = promise.example.inputs("up")[0]
    local, remote = await in_one_process(promise.example, text), await as_a_fleet(promise.example, text)
    assert remote.payload == local.payload
    assert rounded(remote.metadata) == rounded(local.metadata)
    assert remote.usage == local.usage


@each_example
def test_its_program_prints_what_its_readme_shows(promise: Promise):
    printed = printed_by("-W", "error", str(promise.example.folder / "main.py"))
    assert promise.answer in printed
    assert f"```text\n{printed.strip()}\n```" in promise.example.text


@each_example
def test_its_readme_names_files_that_exist_and_says_that_the_answers_are_scripted(promise: Promise):
    example = promise.example
    assert promise.example.paths
    assert [path for path in sorted(example.paths) if not (ROOT / path).exists()] == []
    assert [words[:2] for words in example.commands[:2]] == [["aixgo", "run"], ["aixgo", "up"]]
    assert ["python", f"examples/{example.name}/main.py"] in example.commands
    assert "scripted" in example.text


def test_the_first_commands_of_a_readme_print_the_same_answer():
    example = Example("swarm-customer-service")
    run, up = (printed_by("-m", "aixgo_services.cli.main", *words[1:]) for words in example.commands[:2])
    assert run == up
    assert "I have activated it again" in run


def test_the_index_names_every_example():
    index = (ROOT / "examples" / "README.md").read_text()
    folders = {path.name for path in (ROOT / "examples").iterdir() if path.is_dir() and path.name != "proto"}
    assert {promise.name for promise in PROMISES} <= folders
    assert [name for name in sorted(folders) if f"]({name})" not in index] == []
