"""Whom the agents of a process call is asked for before they do: at their first call no control plane need be there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from aixgo import Agent, AgentSpec, DistributedRuntime, Message, Sequential
from aixgo.agents.llm import LLMAgent
from aixgo.runtime.instance import AgentInfo, Instance
from aixgo.server.registrar import Registrar
from aixgo.testing import scripted_models
from aixgo_controlplane.main import run_control_plane


class Concierge(Agent):
    """Calls somebody by name, and says so."""

    name = "concierge"

    def callees(self) -> Sequence[str]:
        return ("upper",)

    async def execute(self, message: Message) -> Message:
        return await self.runtime.call("upper", message)


@pytest.fixture
async def control_plane() -> AsyncIterator[str]:
    """A control plane that lists one instance of `upper`, and another one of `echo`."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    running = asyncio.create_task(
        run_control_plane("127.0.0.1:0", lease=60, probe_interval=60, ready=ready.set_result, stop=stop)
    )
    address = await ready
    others = [
        Registrar([address], lambda name=name: Instance(name, "127.0.0.1:7", 0, (AgentInfo(name),)))
        for name in ("upper", "echo")
    ]
    for other in others:
        await other.open()
        assert await other.registered(10)
    yield address
    for other in others:
        await other.close()
    stop.set()
    await running


def relay() -> Agent:
    spec = AgentSpec.model_validate(
        {"name": "relay", "role": "llm", "model": "test/upper", "outputs": [{"target": "upper"}]}
    )
    return LLMAgent(spec, models=scripted_models())


def caller(kind: str) -> Agent:
    if kind == "member":
        return Sequential("shout", ["upper"])
    if kind == "nested member":
        return Sequential("shout", [Sequential("", ["upper"])])
    return relay() if kind == "output" else Concierge()


@pytest.mark.parametrize("later", [False, True], ids=["at the start", "registered later"])
@pytest.mark.parametrize("kind", ["member", "nested member", "output", "callee"])
async def test_the_instances_of_whom_an_agent_calls_are_heard_before_it_does(
    control_plane: str, kind: str, later: bool
) -> None:
    runtime = DistributedRuntime(control_plane=[control_plane])
    if not later:
        runtime.register(caller(kind))
    async with runtime, asyncio.timeout(10):
        if later:
            runtime.register(caller(kind))
        while not runtime.instances():  # noqa: ASYNC110  # the runtime announces it to its own calls only
            await asyncio.sleep(0.01)
        assert [instance.instance_id for instance in runtime.instances()] == ["upper"]
