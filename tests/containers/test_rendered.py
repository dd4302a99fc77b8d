"""A YAML file as `aixgo run` runs it, and as the Compose file that `aixgo render` makes of it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aixgo import DistributedRuntime, Message
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

from tests.containers.docker import COMMAND, IMAGE, UP, WAIT, docker
from tests.support import ROOT

Compose = Callable[..., str]
PROJECT = "aixgo-test-rendered"
PLANNING = ROOT / "examples" / "planning-incident" / "config.yaml"
"""Scripted models in a file beside it, and an agent of Python in another."""
LETTER = """\
version: 2
agents:
  - {name: Upper_Case, role: llm, model: test/upper}
  - {name: sign, role: "letter:Sign", config: {signature: the team}}
orchestration: {name: letter, pattern: sequential, agents: [Upper_Case, sign]}
sessions: {store: "sqlite:///sessions.db"}
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
def brought_up(tmp_path: Path, image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Compose]]:
    """Renders a file, and brings up what Compose makes of it; taken down afterwards."""
    monkeypatch.setenv("AIXGO_GATEWAY_PORT", "0")
    folder = tmp_path / "rendered"

    def run(*words: str, timeout: float = COMMAND) -> str:
        file = str(folder / "docker-compose.yml")
        return docker("compose", "--project-name", PROJECT, "--file", file, *words, timeout=timeout)

    def bring_up(file: Path) -> Compose:
        assert execute(["render", "compose", str(file), "-o", str(folder), "--image", image]) == Exit.OK
        run("up", "--detach", *WAIT, timeout=UP + COMMAND)
        return run

    yield bring_up
    run("down", "--volumes", "--remove-orphans")


def aixgo(*words: str) -> Any:
    """The reply of a command."""
    command = [sys.executable, "-m", "aixgo_services.cli.main", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == Exit.OK, done.stderr
    return json.loads(done.stdout)


async def words_seen(gateway: str, *messages: str) -> list[int]:
    """How many words the model of `Upper_Case` was shown for each message of one session."""
    async with DistributedRuntime(connect={"Upper_Case": gateway}) as runtime:
        replies = [await runtime.call("Upper_Case", Message(each, session_id="s"), timeout=60) for each in messages]
    return [reply.usage.prompt_tokens for reply in replies]


def test_the_same_file_answers_the_same_in_one_process_and_as_a_rendered_fleet(
    letter: Path, brought_up: Callable[[Path], Compose]
):
    compose = brought_up(letter)
    gateway = compose("port", "gateway", "50051")
    assert aixgo("call", "letter", "hello", "--gateway", gateway)["payload"] == "HELLO -- the team"
    assert aixgo("run", str(letter), "-i", "hello")["payload"] == "HELLO -- the team"
    # Two replicas share the file of sessions, which is on a volume: whichever is asked, it knows what was said before.
    assert asyncio.run(words_seen(gateway, "a", "b", "c", "d")) == [1, 3, 5, 7]
    running = compose("ps", "--format", "{{.Image}} {{.State}} {{.Health}}").splitlines()
    assert running == [f"{IMAGE} running healthy"] * 6


def test_a_plan_is_made_followed_and_made_anew_by_containers_as_in_one_process(
    brought_up: Callable[[Path], Compose],
):
    incident = "Checkout answers with errors since 14:02."
    gateway = brought_up(PLANNING)("port", "gateway", "50051")
    fleet = aixgo("call", "incident", incident, "--gateway", gateway)
    alone = aixgo("run", str(PLANNING), "-i", incident)
    assert fleet["payload"] == alone["payload"]
    assert fleet["metadata"] == alone["metadata"]
    assert fleet["metadata"]["replans"] == 1
    assert fleet["usage"] == alone["usage"]
