"""`aixgo doctor` on this machine, as a person and a script use it."""

from __future__ import annotations

import asyncio
import json
import socket
import sys

import pytest
from aixgo_controlplane.main import run_control_plane
from aixgo_services.cli.main import execute
from aixgo_services.doctor import examination
from aixgo_services.doctor.findings import Level, problem


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a good file, on a machine without docker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mesh.yaml").write_text("version: 2\nagents: [{name: a, role: llm, model: test/echo}]\n")
    return tmp_path


@pytest.fixture
def free():
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{probe.getsockname()[1]}"


def by_check(findings):
    return {finding.check: finding for finding in findings}


def test_a_machine_that_is_fine_passes_with_a_line_for_each_check(free, capsys):
    assert execute(["doctor", "mesh.yaml", "--control-plane", free]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "python", ".".join(map(str, sys.version_info[:3]))]
    told = "\n".join(lines)
    for check in ("wire contract", "packages", "extra local", "file", "embedded model", "control plane", "containers"):
        assert f"  {check}" in told


def test_scripts_get_json_and_exit_code_1_for_a_problem(here, free, capsys):
    (here / "mesh.yaml").write_text("version: 2\nagents: [{name: a, role: nobody}]\n")
    assert execute(["doctor", "mesh.yaml", "--control-plane", free, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    problems = [each for each in told if each["level"] == "problem"]
    assert [each["check"] for each in problems] == ["file"]
    assert set(problems[0]) == {"check", "level", "what", "fix"}


def test_people_are_told_the_fix_below_the_problem(free, capsys):
    assert execute(["doctor", "none.yaml", "--control-plane", free]) == 1
    lines = capsys.readouterr().out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("problem"))
    assert lines[place + 1].strip().startswith("fix: correct it")


async def test_the_key_of_a_vendor_is_never_shown(here, free, monkeypatch, capsys):
    (here / ".env").write_text("XAI_API_KEY=sk-from-file\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
    (here / "mesh.yaml").write_text(
        "version: 2\nagents: [{name: a, role: llm, model: [openai/gpt-4o, xai/grok-4, deepseek/deepseek-chat]}]\n"
    )
    findings = await examination.examine(here / "mesh.yaml", [free])
    keys = {finding.check: finding.level for finding in findings if finding.check.startswith("key")}
    assert keys == {"key of openai": Level.OK, "key of xai": Level.OK, "key of deepseek": Level.PROBLEM}
    assert "sk-from" not in str(findings)


@pytest.mark.parametrize(
    ("line", "extra", "by"),
    [
        ("agents: [{name: a, role: llm, model: anthropic/claude-haiku-4-5}]", "anthropic", "agent a uses anthropic/"),
        ("agents: [{name: a, role: llm, model: gemini/gemini-2.5-flash}]", "gemini", "agent a uses gemini/"),
        ("agents: [{name: a, role: llm, model: test/echo}]\nobservability: {console: true}", "otel", "observability"),
        (
            "agents: [{name: a, role: llm, model: test/echo}]\nobservability: {langfuse: true}",
            "langfuse",
            "observability",
        ),
    ],
)
async def test_an_extra_that_a_file_wants_and_is_not_here_is_told_with_who_wants_it(
    here, free, monkeypatch, line, extra, by
):
    (here / "mesh.yaml").write_text(f"version: 2\n{line}\n")
    monkeypatch.setattr(examination, "_version_of", lambda name: None)
    found = by_check(await examination.examine(here / "mesh.yaml", [free]))[f"extra {extra}"]
    assert found.level is not Level.OK
    assert f"'aixgo[{extra}]'" in found.fix
    assert by in found.what


async def test_a_key_in_a_file_that_cannot_be_read_is_a_problem(here, free, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY_FILE", "/no/such/file")
    found = by_check(await examination.examine(here / "mesh.yaml", [free]))["settings"]
    assert found.level is Level.PROBLEM
    assert "ANTHROPIC_API_KEY_FILE names /no/such/file" in found.what


async def test_a_control_plane_that_runs_is_found(here, free):
    stop, bound = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(run_control_plane("127.0.0.1:0", lease=10, ready=bound.set_result, stop=stop))
    try:
        findings = await examination.examine(None, [await bound])
    finally:
        stop.set()
        await running
    assert by_check(findings)["control plane"].what.endswith("answers, and lists 0 instances")


async def test_something_that_is_no_control_plane_is_told(here):
    async def hang_up(_reader, writer):
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        findings = await examination.examine(None, [f"127.0.0.1:{port}"])
    assert by_check(findings)["control plane"].level is Level.WARNING


async def test_a_distributed_file_needs_its_control_plane(here, free):
    (here / "mesh.yaml").write_text(
        f"version: 2\nagents: [{{name: a, role: llm, model: test/echo}}]\n"
        f"deployment: {{mode: distributed, control_plane: '{free}'}}\n"
    )
    findings = await examination.examine(here / "mesh.yaml")
    assert by_check(findings)["control plane"].level is Level.PROBLEM


async def test_a_setting_that_cannot_be_read_is_a_problem_and_the_rest_is_told(here, monkeypatch):
    monkeypatch.setenv("AIXGO_LISTEN", "nowhere")
    findings = by_check(await examination.examine(None))
    assert findings["settings"].level is Level.PROBLEM
    assert "AIXGO_LISTEN" in findings["settings"].what
    assert findings["packages"].level is Level.OK


async def test_where_the_generated_code_is_refused_only_the_installation_is_told(monkeypatch):
    refused = problem("wire contract", "refused", "pip install")
    monkeypatch.setattr(examination.installation, "check_generated", lambda load: refused)
    findings = await examination.examine(None)
    assert refused in findings
    assert {f.check.split()[0] for f in findings} == {"python", "wire", "packages", "extra"}


async def test_an_aixgo_that_is_not_installed_is_a_problem(free, monkeypatch):
    def unknown(name):
        raise examination.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(examination.metadata, "metadata", unknown)
    found = by_check(await examination.examine(None, [free]))["packages"]
    assert (found.level, found.what) == (Level.PROBLEM, "aixgo is imported, but not installed")


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ('case $1 in version) echo \'{"Version": "27"}\';; *) echo 2.30;; esac', "Docker 27, Compose 2.30"),
        ("exit 1", "the docker command is here, and no engine answers it"),
    ],
)
async def test_the_docker_command_is_asked(here, free, script, what):
    docker = here / "docker"
    docker.write_text(f"#!/bin/sh\n{script}\n")
    docker.chmod(0o755)
    assert by_check(await examination.examine(None, [free]))["containers"].what == what


async def test_a_docker_command_that_hangs_is_given_up(here, free, monkeypatch):
    docker = here / "docker"
    docker.write_text("#!/bin/sh\nread line < /dev/zero\n")
    docker.chmod(0o755)
    monkeypatch.setattr(examination, "_COMMAND_SECONDS", 0.05)
    assert by_check(await examination.examine(None, [free]))["containers"].what.startswith("no docker command")
