"""`aixgo.run`, the synchronous door, and the runtime that a deployment asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aixgo
import pytest
from aixgo.agent import agent
from aixgo.config.load import loads
from aixgo.config.settings import Settings
from aixgo.errors import ConfigError, DeadlineExceeded, InvalidInput, WrongState
from aixgo.launch import default_target, make_runtime, opened
from aixgo.message import Message
from aixgo.runtime.distributed import DistributedRuntime
from aixgo.runtime.local import LocalRuntime

ECHO = "version: 2\nagents: [{name: a, role: llm, model: test/echo}, {name: b, role: llm, model: test/echo}]\n"


@agent
async def shout(message: Message) -> str:
    return message.text.upper()


@agent
async def never(_message: Message) -> str:
    await asyncio.Event().wait()
    return ""


def test_an_agent_is_run():
    assert aixgo.run(shout, "hi").payload == "HI"


def test_a_file_is_run(tmp_path: Path):
    file = tmp_path / "mesh.yaml"
    file.write_text(ECHO + "orchestration: {pattern: sequential, agents: [a, b]}\n")
    assert aixgo.run(file, "hi").metadata["pattern"] == "sequential"
    assert aixgo.run(str(file), Message("hi")).metadata["pattern"] == "sequential"


def test_a_configuration_is_run():
    assert (
        aixgo.run(loads(ECHO + "orchestration: {pattern: parallel, agents: [a, b]}\n"), "x").metadata["agent_count"]
        == 2
    )


def test_the_timeout_is_the_calls():
    with pytest.raises(DeadlineExceeded):
        aixgo.run(never, "x", timeout=0.05)


def test_something_else_is_refused():
    with pytest.raises(InvalidInput, match="a int cannot be run"):
        aixgo.run(5, "x")  # type: ignore[arg-type]


async def test_inside_an_event_loop_it_is_refused_with_what_to_write():
    with pytest.raises(WrongState, match=r"await runtime.call"):
        aixgo.run(shout, "x")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("version: 2\nagents: [{name: only, role: llm}]\n", "only"),
        (ECHO + "orchestration: {pattern: sequential, agents: [a]}\n", "main"),
        (ECHO + "orchestrations: [{name: in, pattern: sequential, agents: [a]}, {name: out, pattern: router,"
         " config: {classifier: a, routes: {x: {pattern: parallel, agents: [in]}}}}]\n", "out"),
    ],
)  # fmt: skip
def test_the_default_target_is_the_one_that_nobody_else_calls(text: str, name: str):
    assert default_target(loads(text)) == name


def test_without_one_clear_target_the_names_are_told():
    with pytest.raises(ConfigError, match="several could be called; name one of them: a, b"):
        default_target(loads(ECHO))


def test_the_mode_chooses_the_runtime_and_the_setting_wins():
    local = loads(ECHO)
    far = loads(ECHO + "deployment: {mode: distributed}\n")
    assert type(make_runtime(local, Settings())) is LocalRuntime
    assert type(make_runtime(far, Settings())) is DistributedRuntime
    assert type(make_runtime(local, Settings(deployment_mode="distributed"))) is DistributedRuntime
    assert type(make_runtime(far, Settings(deployment_mode="local"))) is LocalRuntime


async def test_opened_registers_all_or_only_the_named():
    config = loads(ECHO)
    async with opened(config, variables={}) as runtime:
        assert runtime.list_agents() == ["a", "b"]
    async with opened(config, only=["b"], variables={}) as runtime:
        assert runtime.list_agents() == ["b"]
