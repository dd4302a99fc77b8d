"""A fleet: which processes it has, and real ones that come up, are replaced, and are gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aixgo.config.load import load, loads
from aixgo.config.settings import Settings
from aixgo.errors import ConfigError, Unavailable
from aixgo.runtime.distributed import DistributedRuntime
from aixgo_services.cli.up import usual_control_plane
from aixgo_services.supervisor import Fleet, free_port, needs_model_server, plan

MESH = """\
version: 2
agents:
  - {name: upper, role: llm, model: test/upper}
  - {name: echo, role: llm, model: test/echo}
orchestration: {name: chain, pattern: sequential, agents: [upper, echo]}
deployment: {agents: {echo: {replicas: 2}}}
"""
BOUND = 60
"""Seconds for what a busy machine may need; nothing here takes so long."""


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mesh.yaml"
    file.write_text(MESH)
    return file


def test_the_plan_has_a_process_for_each_agent_replica_and_orchestration():
    text = MESH.replace("{echo: {replicas: 2}}", "{echo: {replicas: 2, port: 7000}}")
    specs = plan(loads(text), Path("m.yaml"), control_plane="127.0.0.1:1", model=None, environment={"A": "b"})
    served = {spec.name: spec.expects for spec in specs}
    assert served == {
        "control-plane": (), "upper": ("upper",), "echo-1": ("echo",), "echo-2": ("echo",), "chain": ("chain",),
    }  # fmt: skip
    assert specs[3].arguments == (
        "serve", "m.yaml", "--agent=echo", "--listen=127.0.0.1:7001", "--control-plane=127.0.0.1:1", "--with-parent",
    )  # fmt: skip
    assert "--listen=127.0.0.1:0" in specs[1].arguments
    assert all(spec.environment == {"A": "b"} for spec in specs)


def test_orchestrations_stop_first_and_the_control_plane_last():
    specs = plan(loads(MESH), Path("m.yaml"), control_plane="127.0.0.1:1", model="127.0.0.1:2", environment={})
    order = [spec.name for spec in sorted(specs, key=lambda spec: spec.stage)]
    assert order == ["chain", "upper", "echo-1", "echo-2", "control-plane", "model-server"]


def test_a_model_server_is_told_to_the_agents():
    specs = {s.name: s for s in plan(loads(MESH), Path("m"), control_plane="h:1", model="127.0.0.1:2", environment={})}
    assert specs["upper"].environment == {"AIXGO_LOCAL_MODEL_URL": "http://127.0.0.1:2/v1"}
    assert specs["model-server"].arguments == ("model", "serve", "--listen=127.0.0.1:2", "--with-parent")


@pytest.mark.parametrize(
    ("models", "replicas", "url", "needed"),
    [
        (("local/a", "local/a"), 1, "", True),
        (("local/a", "test/b"), 1, "", False),
        (("local/a", "test/b"), 2, "", True),
        (("local/a", "local/a"), 1, "http://elsewhere/v1", False),
    ],
)
def test_a_model_server_is_needed_when_several_processes_would_load_the_model(
    models: tuple[str, str], replicas: int, url: str, needed: bool
):
    first, second = models
    config = loads(
        f"version: 2\nagents: [{{name: a, role: llm, model: {first}}}, {{name: b, role: llm, model: {second}}}]\n"
        f"deployment: {{agents: {{a: {{replicas: {replicas}}}}}}}\n"
    )
    assert needs_model_server(config, Settings(local_model_url=url)) is needed


def test_the_control_plane_goes_where_others_look_for_it():
    named = loads(MESH.replace("deployment: {", "deployment: {control_plane: ['localhost:50999'], "))
    assert usual_control_plane(named, Settings()) == "127.0.0.1:50999"
    assert usual_control_plane(named, Settings(control_plane=("localhost:50998",))) == "127.0.0.1:50998"
    far = loads(MESH.replace("deployment: {", "deployment: {control_plane: ['far:50999'], "))
    assert usual_control_plane(far, Settings()) is None


async def test_a_fleet_comes_up_replaces_what_dies_and_leaves_nothing_behind(mesh: Path):
    serving: asyncio.Queue[str] = asyncio.Queue()

    def on_line(name: str, line: str) -> None:
        if name == "upper" and line.startswith("serving"):
            serving.put_nowait(line)

    async with asyncio.timeout(BOUND):
        async with Fleet(load(mesh), mesh, on_line=on_line) as fleet:
            assert [info.name for info in fleet.processes] == ["control-plane", "upper", "echo-1", "echo-2", "chain"]
            pids = [info.pid for info in fleet.processes]
            async with DistributedRuntime(control_plane=[fleet.control_plane]) as runtime:
                assert (await runtime.call("chain", "hi")).payload == "HI"
                first = await serving.get()
                fleet.kill("upper")
                assert await serving.get() != first
                assert fleet.processes[1].restarts == 1
                pids.append(fleet.processes[1].pid)
            with pytest.raises(ConfigError, match="no process is named 'nobody'"):
                fleet.kill("nobody")
    assert not [pid for pid in pids if pid is not None and psutil.pid_exists(pid)]


async def test_a_fleet_whose_process_refuses_its_configuration_fails_with_the_reason(mesh: Path):
    config = load(mesh)
    mesh.write_text(MESH.replace("test/upper", "nobody/upper"))  # noqa: ASYNC240  # a few bytes
    with pytest.raises(ConfigError, match=r"process upper cannot run: .*there is no model vendor 'nobody'"):
        async with asyncio.timeout(BOUND), Fleet(config, mesh, on_line=lambda _name, _line: None):
            pass


async def test_a_fleet_whose_control_plane_cannot_listen_fails_with_the_reason(mesh: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening, so that nobody accepts there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=r"process control-plane cannot run: .*the port is in use"):
            async with asyncio.timeout(BOUND), Fleet(load(mesh), mesh, control_plane=address, on_line=lambda *_: None):
                pass


async def test_a_fleet_that_does_not_come_up_in_time_says_so(mesh: Path):
    with pytest.raises(Unavailable, match=r"the fleet was not up after 0.01 s"):
        async with Fleet(load(mesh), mesh, ready_timeout=0.01, on_line=lambda *_: None):
            pass


@asynccontextmanager
async def aixgo(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    """A command as a process of its own, killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "aixgo_services.cli.main", *arguments,
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={**os.environ, **environment},
    )  # fmt: skip
    try:
        async with asyncio.timeout(BOUND):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def test_run_with_reload_runs_again_when_a_file_changes(mesh: Path):
    async with aixgo("run", "mesh.yaml", "-i", "Hello", "--reload") as process:
        assert await line_of(process) == "HELLO\n"
        mesh.write_text(MESH.replace("test/upper", "test/echo"))  # noqa: ASYNC240  # a few bytes
        assert await line_of(process) == "Hello\n"
        process.send_signal(signal.SIGINT)
        await process.communicate()
        assert process.returncode == 130


async def test_serve_drains_on_sigterm_and_exits_0(mesh: Path):
    async with aixgo("serve", "mesh.yaml", "--agent", "echo", "--json") as server:
        told = json.loads(await line_of(server))
        assert told["serving"] == ["echo"]
        async with aixgo("call", "echo", "hello", "--address", told["address"]) as call:
            out, _ = await call.communicate()
        assert (out, call.returncode) == (b"hello\n", 0)
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0


async def test_serve_stopped_by_ctrl_c_drains_and_says_so_in_its_exit_code(mesh: Path):
    async with aixgo("serve", "mesh.yaml", "--agent", "echo") as server:
        assert (await line_of(server)).startswith("serving echo at 127.0.0.1:")
        server.send_signal(signal.SIGINT)
        assert await server.wait() == 130


async def test_a_child_drains_when_its_parent_is_gone(mesh: Path):
    async with aixgo("serve", "mesh.yaml", "--agent", "echo", "--with-parent") as server:
        await line_of(server)
        assert server.stdin is not None
        server.stdin.close()
        assert await server.wait() == 0


async def test_a_port_in_use_is_one_message(mesh: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for arguments in (("serve", "mesh.yaml", "--agent", "echo"), ("controlplane",)):
            async with aixgo(*arguments, "--listen", address) as process:
                _, err = await process.communicate()
            assert process.returncode == 2
            assert len(err.decode().splitlines()) == 1
            assert f"cannot listen on {address}" in err.decode()


async def test_a_control_plane_that_is_not_there_is_one_message(mesh: Path):
    nowhere = f"127.0.0.1:{free_port()}"
    for arguments in (("call", "echo", "x"), ("agents", "--timeout", "1s")):
        async with aixgo(*arguments, "--control-plane", nowhere) as process:
            _, err = await process.communicate()
        assert process.returncode == 3
        assert len(err.decode().splitlines()) == 1
        assert "no control plane" in err.decode()


async def test_listening_for_everybody_is_a_warning(mesh: Path):
    async with aixgo(
        "serve", "mesh.yaml", "--agent", "echo", "--listen", "0.0.0.0:0", AIXGO_ALLOW_INSECURE="1"
    ) as server:
        await line_of(server)
        server.terminate()
        _, err = await server.communicate()
    assert b"WARNING" in err
    assert b"0.0.0.0" in err


@contextlib.contextmanager
def nothing_left(pids: Callable[[], list[int]]):
    """Whatever happens, end the processes that the test learned of."""
    try:
        yield
    finally:
        for pid in pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def test_up_is_ready_answers_and_drains_on_ctrl_c(mesh: Path):
    address = f"127.0.0.1:{free_port()}"
    async with aixgo("up", "mesh.yaml", "--control-plane", address, "--json") as up:
        while not (told := json.loads(await line_of(up))).get("ready"):
            assert told["process"]
        assert told["control_plane"] == address
        children = [child.pid for child in psutil.Process(up.pid).children()]
        assert len(children) == 5
        async with aixgo("agents", "--json", AIXGO_CONTROL_PLANE=address) as agents:
            rows = json.loads((await agents.communicate())[0])
        assert [row["name"] for row in rows] == ["chain", "echo", "echo", "upper"]
        async with aixgo("agents", AIXGO_CONTROL_PLANE=address) as agents:
            table = (await agents.communicate())[0].decode()
        assert "sequential: upper, echo" in table
        async with aixgo("call", "chain", "-", "--stream", "--json", AIXGO_CONTROL_PLANE=address) as call:
            out, _ = await call.communicate(b"hello\n")
        assert json.loads(out.splitlines()[-1])["message"]["payload"] == "HELLO"
        up.send_signal(signal.SIGINT)
        await up.communicate()
        assert up.returncode == 130
    assert not [pid for pid in children if psutil.pid_exists(pid)]


async def test_the_children_of_a_killed_fleet_end_by_themselves(mesh: Path):
    async with aixgo("up", "mesh.yaml", "--control-plane", f"127.0.0.1:{free_port()}", "--json") as up:
        while not json.loads(await line_of(up)).get("ready"):
            pass
        children = psutil.Process(up.pid).children()
        with nothing_left(lambda: [child.pid for child in children if child.is_running()]):
            up.kill()
            _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=BOUND / 2)
            assert not alive
