"""docker-compose.yml as it is, with the embedded model: the first thing that a user does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.containers.docker import MEBIBYTE, Compose, docker, image_bytes
from tests.support import seconds_of


@pytest.fixture
def project(image: str, model_image: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Compose]:
    compose = Compose("aixgo-test-model")
    with capsys.disabled():
        print(f"\n{model_image}: {(image_bytes(model_image) - image_bytes(image)) / MEBIBYTE:.0f} MiB above {image}")
    yield compose
    compose.down()


def test_up_then_a_call_from_the_host_then_down(project: Compose, capsys: pytest.CaptureFixture[str]) -> None:
    with seconds_of() as up:
        project.up()
    ticket = call("triage", "You charged me twice and I am furious.", project.gateway())
    assert ticket["payload"]["priority"] in ("P1", "P2", "P3")
    assert ticket["usage"]["prompt_tokens"] > 100
    containers = project("ps", "--all", "--quiet").split()
    with seconds_of() as stop:
        project("stop")
    codes = docker("inspect", "--format", "{{.Name}} {{.State.ExitCode}}", *containers).splitlines()
    assert [line for line in codes if not line.endswith(" 0")] == []
    with seconds_of() as down:
        project.down()
    with capsys.disabled():
        print(f"up in {up.seconds:.1f} s, down in {stop.seconds + down.seconds:.1f} s")
    assert docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={project.project}") == ""


def test_only_the_gateway_is_published_and_only_to_this_machine() -> None:
    services = json.loads(Compose("aixgo")("config", "--format", "json"))["services"]
    published = {name: one["ports"] for name, one in services.items() if one.get("ports")}
    assert list(published) == ["gateway"]
    assert [port["host_ip"] for port in published["gateway"]] == ["127.0.0.1"]


def test_every_process_is_hardened() -> None:
    profile = ("--profile", "observability", "config", "--format", "json")
    for name, service in json.loads(Compose("aixgo")(*profile))["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def call(name: str, text: str, gateway: str) -> dict[str, Any]:
    """`aixgo call` from the host; its reply."""
    command = [sys.executable, "-m", "aixgo_services.cli.main", "call", name, text, "--gateway", gateway, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
