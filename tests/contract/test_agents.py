"""Which agents there are: names, proxies, registration, and fixed addresses."""

from __future__ import annotations

from typing import Any

import pytest
from aixgo import Agent, LocalRuntime, Message, agent
from aixgo.agent import FunctionAgent
from aixgo.errors import AgentNotFound, AlreadyRegistered, ConfigError, InvalidInput, NotSupported, WrongState

from tests.contract.agents import PLACES
from tests.contract.conftest import BOUND, Mesh
from tests.contract.requirements import promise


def greeter(name: str) -> FunctionAgent:
    """An agent of the test's own."""

    @agent(name=name)
    async def greet(message: Message) -> str:
        return f"hello {message.text}"

    return greet


@promise("agents.names")
async def test_every_agent_is_listed_once_and_sorted(mesh: Mesh) -> None:
    names = mesh.runtime.list_agents()
    assert names == sorted(set(names))
    assert {name for place in PLACES.values() for name in place} <= set(names)


@promise("agents.names")
async def test_unnamed_members_of_patterns_are_not_listed(mesh: Mesh) -> None:
    assert not any("/" in name for name in mesh.runtime.list_agents())


@promise("agents.proxy")
async def test_an_agent_can_be_held_and_asked(mesh: Mesh) -> None:
    upper = mesh.runtime.get_agent("upper")
    assert (upper.name, upper.idempotent, upper.ready()) == ("upper", True, True)
    assert (await upper.execute(Message("x"))).payload == "X"


@promise("agents.proxy")
async def test_what_is_known_of_an_agent_is_the_same_everywhere(mesh: Mesh) -> None:
    assert mesh.runtime.get_agent("writer").role == "llm"
    assert mesh.runtime.get_agent("writer").idempotent
    assert not mesh.runtime.get_agent("boom").idempotent
    panel: Any = mesh.runtime.get_agent("half-panel")
    assert (panel.role, panel.pattern, tuple(panel.agents)) == ("orchestrator", "parallel", ("upper", "boom"))


@promise("agents.proxy")
async def test_an_agent_can_be_held_and_streamed(mesh: Mesh) -> None:
    names = [type(event).__name__ async for event in mesh.runtime.get_agent("words").stream(Message("a b"))]
    assert names == ["Delta", "Delta", "Result"]


@promise("agents.proxy")
async def test_an_unknown_agent_cannot_be_held(mesh: Mesh) -> None:
    with pytest.raises(AgentNotFound):
        mesh.runtime.get_agent("nobody")


@promise("agents.register")
async def test_an_agent_of_this_process_can_be_called_by_name(mesh: Mesh) -> None:
    mesh.runtime.register(greeter("greeter"))
    assert (await mesh.runtime.call("greeter", "you")).payload == "hello you"
    assert "greeter" in mesh.runtime.list_agents()


@promise("agents.register")
async def test_an_agent_of_this_process_calls_the_others(mesh: Mesh) -> None:
    class Caller(Agent):
        name = "caller"

        async def execute(self, message: Message) -> Message:
            return await self.runtime.call("via-one", {"route": ["observer"]})

    mesh.runtime.register(Caller())
    reply: Any = (await mesh.runtime.call("caller", "x", timeout=BOUND)).payload
    assert reply["path"] == ["caller", "via-one", "observer"]


@promise("agents.register")
async def test_an_unregistered_agent_is_gone(mesh: Mesh) -> None:
    agent = greeter("greeter")
    mesh.runtime.register(agent)
    await mesh.runtime.unregister("greeter")
    with pytest.raises(AgentNotFound):
        await mesh.runtime.call("greeter", "x", timeout=BOUND)
    with pytest.raises(WrongState):
        _ = agent.runtime
    mesh.runtime.register(agent)
    assert (await mesh.runtime.call("greeter", "again")).payload == "hello again"


@promise("agents.register")
async def test_stop_is_called_when_an_agent_is_unregistered(mesh: Mesh) -> None:
    class Stoppable(Agent):
        name = "stoppable"
        stopped = 0

        async def execute(self, message: Message) -> Message:
            return message

        async def stop(self) -> None:
            self.stopped += 1

    agent = Stoppable()
    mesh.runtime.register(agent)
    await mesh.runtime.unregister("stoppable")
    assert agent.stopped == 1


@promise("agents.invalid")
async def test_a_name_can_be_taken_once(mesh: Mesh) -> None:
    mesh.runtime.register(greeter("greeter"))
    with pytest.raises(AlreadyRegistered, match="greeter"):
        mesh.runtime.register(greeter("greeter"))


@promise("agents.invalid")
@pytest.mark.parametrize("name", ["", " ", "a b", "/x", "ü", "-x", "x" * 129, "a\nb", "../up"])
async def test_a_name_that_cannot_be_used_is_refused(mesh: Mesh, name: str) -> None:
    bad = greeter("good")
    bad.name = name
    with pytest.raises(InvalidInput, match="name"):
        mesh.runtime.register(bad)


@promise("agents.invalid")
async def test_what_is_no_agent_is_refused(mesh: Mesh) -> None:
    not_an_agent: Any = object()
    with pytest.raises(InvalidInput, match="object is no Agent"):
        mesh.runtime.register(not_an_agent)


@promise("agents.invalid")
async def test_only_own_agents_can_be_unregistered(mesh: Mesh) -> None:
    with pytest.raises(AgentNotFound):
        await mesh.runtime.unregister("nobody")


@promise("agents.connect")
async def test_a_fixed_address_is_used_or_refused_with_its_type(mesh: Mesh) -> None:
    if isinstance(mesh.runtime, LocalRuntime):
        with pytest.raises(NotSupported):
            await mesh.runtime.connect("elsewhere", "127.0.0.1:1")
        with pytest.raises(NotSupported):
            await mesh.runtime.disconnect("elsewhere")
        return
    await mesh.runtime.connect("elsewhere", "127.0.0.1:1")
    assert "elsewhere" in mesh.runtime.list_agents()
    await mesh.runtime.disconnect("elsewhere")
    assert "elsewhere" not in mesh.runtime.list_agents()
    with pytest.raises(AgentNotFound):
        await mesh.runtime.disconnect("elsewhere")


@promise("agents.connect")
@pytest.mark.parametrize("address", ["", "host", "host:", ":50051", "host:0", "host:70000", "host:x"])
async def test_an_address_that_cannot_be_used_is_refused(mesh: Mesh, address: str) -> None:
    with pytest.raises((ConfigError, NotSupported)):
        await mesh.runtime.connect("elsewhere", address)
