"""Agents out of a configuration: roles that are found, and each way in which one is not."""

# ruff: noqa: E501  # messages are quoted whole

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from aixgo.agent import Agent
from aixgo.agents.llm import LLMAgent
from aixgo.config.build import build_agents
from aixgo.config.load import load
from aixgo.errors import ConfigError
from aixgo.llm.models import Models, ModelSettings
from aixgo.orchestration.base import Orchestrator
from aixgo.orchestration.router import Router
from aixgo.resources import Resources
from aixgo.runtime.local import LocalRuntime

ROLES = """
import aixgo
from aixgo.agents.llm import LLMAgent

@aixgo.agent
async def shout(message):
    return message.text.upper()

class Named(aixgo.Agent):
    def __init__(self, spec):
        self.name, self.prompt = spec.name, spec.prompt
    async def execute(self, message):
        return message.with_(payload=self.prompt + message.text)

class Nameless(Named):
    def __init__(self, spec): self.prompt = ""

class Stubborn(Named):
    def __init__(self, spec): self.name = "mine"

class Mine(LLMAgent): ...

class Raises(Named):
    def __init__(self, spec): raise RuntimeError("no luck")

class NoSpec(Named):
    def __init__(self): ...

class NoAgent: ...
text = "text"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules of users' roles, which no other test sees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "roles_of_test_build.py").write_text(ROLES)
    (tmp_path / "broken_of_test_build.py").write_text("1 / 0")
    return tmp_path


def build(here: Path, text: str, only: set[str] | None = None) -> list[Agent]:
    file = here / "mesh.yaml"
    file.write_text(text.replace("my.", "roles_of_test_build:"))
    return build_agents(load(file, {}), Resources(Models(ModelSettings())), only)


def refusal(here: Path, role: str) -> str:
    with pytest.raises(ConfigError) as caught:
        build(here, f"version: 2\nagents:\n  - name: a\n    {role}\n")
    return caught.value.message.replace(str(here), "").replace("roles_of_test_build", "my")


def test_functions_classes_and_ready_roles_become_agents(here: Path):
    agents = build(
        here,
        "version: 2\nagents:\n  - {name: f, role: my.shout}\n  - {name: c, role: my.Named, prompt: p}\n"
        "  - {name: n, role: my.Nameless}\n  - {name: l, role: llm, model: test/echo}\n"
        "  - {name: m, role: my.Mine, model: test/echo}\n",
    )
    assert [agent.name for agent in agents] == ["f", "c", "n", "l", "m"]
    assert isinstance(agents[4], LLMAgent)


def test_limits_of_an_entry_stand_in_place_of_those_of_its_class(here: Path):
    agents = build(
        here,
        "version: 2\nagents:\n  - {name: f, role: my.shout, max_concurrent_calls: 2}\n"
        "  - {name: c, role: my.Named, max_concurrent_calls: 3, max_queue: 0}\n  - {name: n, role: my.Named}\n"
        "orchestration: {name: o, pattern: sequential, agents: [f], max_concurrent_calls: 4, max_queue: 5}\n",
    )
    assert [(each.max_concurrent_calls, each.max_queue) for each in agents] == [(2, 100), (3, 0), (None, 100), (4, 5)]


def test_only_the_named_ones_are_made(here: Path):
    text = (
        "version: 2\nagents: [{name: a, role: no_such_module:X}, {name: b, role: my.shout}]\n"
        "orchestrations: [{name: o, pattern: sequential, agents: [a]}, {name: p, pattern: sequential, agents: [a]}]\n"
    )
    assert [agent.name for agent in build(here, text, {"b", "o"})] == ["b", "o"]
    with pytest.raises(ConfigError, match="no agent or orchestration is named 'oo'"):
        build(here, text, {"oo"})


async def test_patterns_nest_at_any_depth_and_in_routes(here: Path):
    agents = build(
        here,
        "version: 2\nagents: [{name: f, role: my.shout}, {name: g, role: my.Named, prompt: '>'}]\n"
        "orchestration:\n  name: desk\n  pattern: router\n  limits: {timeout: 3s, max_tokens: 5}\n  config:\n"
        "    classifier: f\n"
        "    routes: {HI: {pattern: parallel, agents: [g, {pattern: sequential, agents: [f, g]}]}, YO: g}\n",
    )
    desk = agents[-1]
    assert isinstance(desk, Router)
    assert (desk.limits.timeout, desk.limits.max_tokens, desk.limits.max_agents) == (3.0, 5, 100)
    runtime = LocalRuntime()
    for agent in agents:
        runtime.register(agent)
    async with runtime:
        reply = await runtime.call("desk", "hi")
        assert reply.metadata["routed_to"] == "desk/1"
        assert reply.payload == {"g": ">hi", "desk/1/1": ">HI"}
        assert "desk/1" not in runtime.list_agents()


def test_a_pattern_with_bad_config_is_refused_with_its_line(here: Path):
    with pytest.raises(ConfigError, match=r"mesh.yaml:3: .*concurency is not known; did you mean 'concurrency'"):
        build(
            here,
            "version: 2\nagents: [{name: f, role: my.shout}]\n"
            "orchestration: {pattern: parallel, agents: [f], config: {concurency: 2}}\n",
        )


@pytest.mark.parametrize(
    ("role", "told"),
    [
        ("role: lm", "/mesh.yaml:4: there is no role 'lm'; did you mean 'llm'?"),
        ("role: my_pkg.agents.Analyst", "/mesh.yaml:4: role 'my_pkg.agents.Analyst' is no import path; write my_pkg.agents:Analyst"),
        ("role: not_there_at_all:X", "/mesh.yaml:4: role 'not_there_at_all:X' cannot be imported: No module named 'not_there_at_all'"),
        ("role: my.Missing", "/mesh.yaml:4: role 'my:Missing' cannot be imported: module 'my' has no attribute 'Missing'"),
        ("role: broken_of_test_build:X", "/mesh.yaml:4: role 'broken_of_test_build:X' cannot be imported: ZeroDivisionError:"),
        ("role: my.NoAgent", "/mesh.yaml:4: role 'my:NoAgent' is neither a subclass of aixgo.Agent nor made by @agent"),
        ("role: my.text", "/mesh.yaml:4: role 'my:text' is neither"),
        ("role: my.Raises", "/mesh.yaml:3: my:Raises cannot be made: RuntimeError: no luck"),
        ("role: my.NoSpec", "/mesh.yaml:3: my:NoSpec cannot be made: TypeError"),
        ("role: my.Stubborn", "/mesh.yaml:3: my:Stubborn names itself 'mine'; set `self.name = spec.name` in it"),
        ("role: my.shout\n    prompt: p", "/mesh.yaml:5: my:shout is a function and takes no 'prompt'"),
        ("role: llm\n    model: nobody/x", "/mesh.yaml:5: agents.a.model: there is no model vendor 'nobody'"),
        ("role: llm\n    model: test/echo\n    config: {temprature: 1}", "/mesh.yaml:6: agents.a.config: unknown key 'temprature'"),
        ("role: llm", "/mesh.yaml:3: agents.a.model: no model is named"),
    ],
)  # fmt: skip
def test_a_role_that_cannot_be_used_is_told_with_line_and_reason(here: Path, role: str, told: str):
    assert refusal(here, role).startswith(told)


def test_the_working_directory_becomes_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    (tmp_path / "only_in_cwd_of_test_build.py").write_text(ROLES)
    (tmp_path / "mesh.yaml").write_text("version: 2\nagents: [{name: a, role: 'only_in_cwd_of_test_build:shout'}]\n")
    (agent,) = build_agents(load(tmp_path / "mesh.yaml", {}))
    assert agent.name == "a"
    assert not isinstance(agent, Orchestrator)


OWN = """
from typing import ClassVar

from aixgo import Orchestrator
from aixgo.orchestration.reading import PatternConfig


class TwiceConfig(PatternConfig):
    times: int = 2


class Twice(Orchestrator):
    pattern: ClassVar[str] = "twice"
    Config = TwiceConfig

    def __init__(self, name, members, times, limits):
        super().__init__(name, members, limits=limits)
        self._times = times

    @classmethod
    def from_config(cls, name, agents, config, limits):
        return cls(name, agents, config.times, limits)

    async def run(self, message, calls):
        for _ in range(self._times):
            message = await calls.call(self._members[0], message)
        return message


class Bare(Orchestrator):
    async def run(self, message, calls):
        return message
"""


def own(tmp_path: Path, pattern: str, config: str = "{}") -> list[Agent]:
    (tmp_path / "own_patterns.py").write_text(OWN)
    (tmp_path / "mesh.yaml").write_text(
        "version: 2\nagents: [{name: a, role: llm, model: test/upper}]\n"
        f"orchestration: {{pattern: '{pattern}', agents: [a], config: {config}}}\n"
    )
    return build_agents(load(tmp_path / "mesh.yaml", {}))


async def test_a_pattern_of_the_users_own_is_named_by_its_import_path(tmp_path: Path) -> None:
    runtime = LocalRuntime()
    for agent in own(tmp_path, "own_patterns:Twice", "{times: 3}"):
        runtime.register(agent)
    assert (await runtime.call("main", "x")).payload == "X"
    assert runtime.metrics().calls_succeeded == 4


@pytest.mark.parametrize(
    ("pattern", "config", "told"),
    [
        ("own_patterns:Bare", "{}", "cannot be made from YAML; give it a `Config` and a `from_config`"),
        ("own_patterns:TwiceConfig", "{}", "is no subclass of aixgo.Orchestrator"),
        ("own_patterns:Thrice", "{}", "cannot be imported"),
        ("own_patterns:Twice", "{tims: 3}", "config.tims is not known; did you mean 'times'?"),
    ],
)
def test_a_pattern_of_the_users_own_that_cannot_be_used_is_told(
    tmp_path: Path, pattern: str, config: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        own(tmp_path, pattern, config)
