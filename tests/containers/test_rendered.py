"""A YAML file as `aixgo run` runs it, and as the Compose file that `aixgo render` makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

from tests.containers.docker import IMAGE, docker

PROJECT = "aixgo-test-rendered"
LETTER = """\
version: 2
agents:
  - {name: Upper_Case, role: llm, model: test/upper}
  - {name: sign, role: "letter:Sign", config: {signature: the team}}
orchestration: {name: letter, pattern: sequential, agents: [Upper_Case, sign]}
deployment: {agents: {Upper_Case: {replicas: 2}}}
"""
SIGN = """\
from aixgo import Agent, AgentSpec, Message


class Sign(Agent):
    def __init__(self, spec: AgentSpec) -> None:
        self.name, self.signature = spec.name, spec.config["signature"]

    async def execute(self, message: Message) -> Message:
        return message.with_(payload=f"{message.text} -- {self.signature}")
"""


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    (tmp_path / "letter.py").write_text(SIGN)
    (tmp_path / "letter.yaml").write_text(LETTER)
    return tmp_path / "letter.yaml"


@pytest.fixture
def compose(letter: Path, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Compose with what is rendered beside the file; taken down afterwards."""
    monkeypatch.setenv("AIXGO_GATEWAY_PORT", "0")
    assert execute(["render", "compose", str(letter), "-o", str(letter.parent), "--image", image]) == Exit.OK
    file = str(letter.parent / "docker-compose.yml")

    def run(*words: str) -> str:
        return docker("compose", "--project-name", PROJECT, "--file", file, *words)

    yield run
    run("down", "--remove-orphans")


def aixgo(*words: str) -> str:
    command = [sys.executable, "-m", "aixgo_services.cli.main", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == Exit.OK, done.stderr
    return json.loads(done.stdout)["payload"]


def test_the_same_file_answers_the_same_in_one_process_and_as_a_rendered_fleet(
    letter: Path, compose: Callable[..., str]
):
    compose("up", "--detach", "--wait", "--wait-timeout", "150")
    gateway = compose("port", "gateway", "50051")
    assert aixgo("call", "letter", "hello", "--gateway", gateway) == "HELLO -- the team"
    assert aixgo("run", str(letter), "-i", "hello") == "HELLO -- the team"
    running = compose("ps", "--format", "{{.Image}} {{.State}} {{.Health}}").splitlines()
    assert running == [f"{IMAGE} running healthy"] * 6
