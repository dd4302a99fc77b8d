"""`aixgo up --input`: a file as a fleet for one call. Real processes, scripted models."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from aixgo.security.development import Leaf, write_certificates
from aixgo_services.cli.failures import Exit
from aixgo_services.cli.main import execute

MESH = """\
version: 2
agents:
  - {name: upper, role: llm, model: test/upper}
  - {name: echo, role: llm, model: test/echo}
  - {name: never, role: llm, model: "test/slow:never.log"}
  - {name: fails, role: llm, model: "test/fail:RateLimited"}
orchestration: {name: chain, pattern: sequential, agents: [upper, echo]}
deployment: {mode: distributed, agents: {upper: {replicas: 2}}}
"""
BOUND = 60.0
"""Seconds until a test that waits for a process gives up."""

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """mesh.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mesh.yaml").write_text(MESH)
    return tmp_path / "mesh.yaml"


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "aixgo_services" in " ".join(child.cmdline())]


def test_one_call_is_made_through_the_fleet_and_its_reply_printed_alone(capsys: Output):
    assert execute(["up", "mesh.yaml", "-i", "hello there"]) == Exit.OK
    out, err = capsys.readouterr()
    assert out == "HELLO THERE\n"
    lines = err.splitlines()
    assert any(line.startswith("upper-2 ") and "| serving upper at 127.0.0.1:" in line for line in lines)
    assert any(line.startswith("ready: 7 processes serve upper, echo, never, fails, chain;") for line in lines)
    assert "2 LLM calls, 8 tokens" in err
    assert "try:" not in err
    assert not children()


def test_the_call_may_be_of_another_agent_and_its_text_come_from_stdin(capsys: Output, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert execute(["up", "mesh.yaml", "--input", "-", "--target", "echo"]) == Exit.OK
    assert capsys.readouterr().out == "hello\n"


def test_a_stream_is_shown_as_run_shows_it_over_the_fleet(capsys: Output):
    assert execute(["up", "mesh.yaml", "-i", "hello you", "--stream", "--json"]) == Exit.OK
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    told = [event["text"] for event in events if event["event"] == "Delta" and event["path"] == ["chain", "upper"]]
    assert "".join(told) == "HELLO YOU"
    assert [event["event"] for event in events].count("Result") == 1
    assert events[-1]["message"]["payload"] == "HELLO YOU"
    others = [json.loads(line) for line in err.splitlines()]
    assert [line["agents"] for line in others if line.get("ready")] == [["upper", "echo", "never", "fails", "chain"]]


def test_the_exit_code_is_that_of_the_call(capsys: Output):
    assert execute(["up", "mesh.yaml", "-i", "x", "--target", "fails"]) == Exit.FAILED
    out, err = capsys.readouterr()
    assert out == ""
    *_, failure, spent = err.splitlines()
    assert "(at fails)" in failure
    assert spent == "1 LLM calls, 0 tokens, $0"
    assert execute(["up", "mesh.yaml", "-i", "x", "--target", "never", "--timeout", "300ms"]) == Exit.DEADLINE
    assert not children()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--stream"], "--stream is for the call that --input makes"),
        (["--target", "echo"], "--target is for the call that --input makes"),
        (["--timeout", "3s"], "--timeout is for the call that --input makes"),
    ],
)
def test_options_of_the_call_need_a_call(arguments: list[str], told: str, capsys: Output):
    assert execute(["up", "mesh.yaml", *arguments]) == Exit.USAGE
    assert told in capsys.readouterr().err


def test_whom_to_call_is_settled_before_anything_starts(mesh: Path, capsys: Output):
    mesh.write_text(MESH.replace("orchestration: {name: chain, pattern: sequential, agents: [upper, echo]}\n", ""))
    assert execute(["up", "mesh.yaml", "-i", "x"]) == Exit.USAGE
    err = capsys.readouterr().err
    assert "several could be called; name one of them" in err
    assert "serving" not in err


@contextmanager
def up(*arguments: str) -> Generator[subprocess.Popen[str]]:
    """The command as a process of its own, killed at the end if it still runs."""
    command = [sys.executable, "-m", "aixgo_services.cli.main", "up", "mesh.yaml", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_during_the_call_cancels_it_and_stops_the_fleet(tmp_path: Path):
    with up("-i", "hello", "--target", "never", "--stream") as process:
        assert process.stdout is not None
        assert process.stdout.read(5) == "hello"
        fleet = psutil.Process(process.pid).children()
        assert len(fleet) == 7
        process.send_signal(signal.SIGINT)
        assert process.wait(BOUND) == Exit.INTERRUPTED
        log = tmp_path / "never.log"
        assert log.read_text().split() == ["started", "cancelled"]
        assert not [child for child in fleet if child.is_running()]


def test_with_certificates_the_fleet_registers_its_agents_by_the_one_identity_that_all_its_processes_have(
    tmp_path: Path, capsys: Output
):
    write_certificates(tmp_path / "certs", [Leaf.of("desk")])
    files = {"CA": "ca.pem", "CERT": "desk/cert.pem", "KEY": "desk/key.pem"}
    (tmp_path / ".env").write_text("".join(f"AIXGO_TLS_{key}_FILE=certs/{file}\n" for key, file in files.items()))
    assert execute(["up", "mesh.yaml", "-i", "hi"]) == Exit.OK
    assert capsys.readouterr().out == "HI\n"
