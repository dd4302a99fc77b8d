"""A Config to agents: the ready roles, users' classes and functions, and orchestrators around them.

Owns how a role is found and what may go wrong while an agent is made; every failure is a ConfigError with its line.
Below: the catalogs of roles and patterns. Above: `launch.py` and the processes of a fleet.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aixgo.agent import Agent, FunctionAgent
from aixgo.agents.catalog import ROLES, find_role
from aixgo.config.members import with_config_members
from aixgo.config.schema import LimitsSpec, PatternSpec
from aixgo.errors import AixgoError, ConfigError
from aixgo.names import nearest
from aixgo.orchestration.base import Limits, Orchestrator
from aixgo.orchestration.catalog import build

if TYPE_CHECKING:
    from collections.abc import Collection

    from aixgo.config.document import Location
    from aixgo.config.schema import Config, OrchestrationSpec
    from aixgo.config.spec import AgentSpec
    from aixgo.resources import Resources

_UNUSED_BY_FUNCTIONS = ("model", "prompt", "tools", "mcp_servers", "inputs", "outputs", "config")


def build_agents(
    config: Config, resources: Resources | None = None, only: Collection[str] | None = None
) -> list[Agent]:
    """The agents and orchestrators of a configuration, or of it `only` those with these names.

    The working directory and the file's own folder become importable for roles like `my_pkg.agents:Analyst`.
    `resources` are the process's; without them each agent makes its own. Raises ConfigError, with file, line and
    reason.
    """
    _make_importable(config)
    wanted = set(config.names if only is None else only)
    for name in sorted(wanted - set(config.names)):
        raise ConfigError(
            f"{config.where()}: no agent or orchestration is named {name!r}; {nearest(name, config.names)}"
        )
    agents: list[Agent] = [
        _made(config, i, spec, resources) for i, spec in enumerate(config.agents) if spec.name in wanted
    ]
    for pattern in config.patterns:
        if pattern.name in wanted:
            orchestrator = _orchestrator(config, config.location(pattern.name), pattern, pattern.name)
            orchestrator.allow_callers = pattern.allow_callers
            _limit(orchestrator, pattern)
            agents.append(orchestrator)
    return agents


def _made(config: Config, index: int, spec: AgentSpec, resources: Resources | None) -> Agent:
    location = ("agents", index)
    role = _role(config, (*location, "role"), spec)
    if isinstance(role, FunctionAgent):
        for key in _UNUSED_BY_FUNCTIONS:
            if getattr(spec, key):
                where = config.where(*location, key)
                raise ConfigError(f"{where}: {spec.role} is a function and takes no {key!r}; remove it, or use a class")
        renamed = role.renamed(spec.name)
        renamed.allow_callers = role.allow_callers if spec.allow_callers is None else spec.allow_callers
        _limit(renamed, spec)
        return renamed
    agent = _constructed(config, location, spec, role, resources)
    if not isinstance(agent, Agent):
        where = config.where(*location, "role")
        raise ConfigError(f"{where}: {spec.role} makes a {type(agent).__name__}, no Agent; subclass aixgo.Agent")
    agent.name = agent.name or spec.name
    if agent.name != spec.name:
        where = config.where(*location, "name")
        raise ConfigError(f"{where}: {spec.role} names itself {agent.name!r}; set `self.name = spec.name` in it")
    if spec.allow_callers is not None:
        agent.allow_callers = spec.allow_callers
    _limit(agent, spec)
    return agent


def _limit(agent: Agent, spec: AgentSpec | OrchestrationSpec) -> None:
    """Give an agent the limits of its entry, in place of its class's."""
    if spec.max_concurrent_calls is not None:
        agent.max_concurrent_calls = spec.max_concurrent_calls
    if spec.max_queue is not None:
        agent.max_queue = spec.max_queue


def _constructed(config: Config, location: Location, spec: AgentSpec, role: Any, resources: Resources | None) -> Any:
    where = config.where(*location)
    try:
        return role(spec, **({} if resources is None else resources.wanted_by(role)))
    except AixgoError as error:
        raise ConfigError(f"{_nearer(config, location, error, where)}: {error.message}") from error
    except Exception as error:
        raise ConfigError(
            f"{where}: {spec.role} cannot be made: {type(error).__name__}: {error}; its constructor takes one AgentSpec"
        ) from error


def _nearer(config: Config, location: Location, error: AixgoError, where: str) -> str:
    """The line of the key that the message begins with (`agents.NAME.key: ...`), else that of the agent."""
    subject = error.message.partition(": ")[0].rpartition(".")[2]
    return config.where(*location, subject) if subject.isidentifier() else where


def _role(config: Config, location: Location, spec: AgentSpec) -> Any:
    """The class or FunctionAgent that a role names."""
    where = config.where(*location)
    path = spec.role
    if ":" not in path:
        if path not in ROLES and "." in path:
            module, _, name = path.rpartition(".")
            raise ConfigError(f"{where}: role {path!r} is no import path; write {module}:{name}")
        try:
            path = find_role(path)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}") from error
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ConfigError(f"{where}: role {path!r} cannot be imported: {error}") from error
    except Exception as error:
        reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{where}: role {path!r} cannot be imported: {reason}; check the path, and that {module} lies in"
            " the working directory, beside the file, or is installed"
        ) from error
    if not (isinstance(found, FunctionAgent) or (inspect.isclass(found) and issubclass(found, Agent))):
        raise ConfigError(f"{where}: role {path!r} is neither a subclass of aixgo.Agent nor made by @agent")
    return found


def _make_importable(config: Config) -> None:
    folders = [Path.cwd(), *(() if config.folder is None else (config.folder.resolve(),))]
    for folder in reversed(folders):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def _orchestrator(config: Config, location: Location, spec: PatternSpec, name: str) -> Orchestrator:
    """An orchestrator and the patterns written inside it, which get their names from it when it is registered."""

    def member(place: Location, value: Any) -> str | Agent:
        if isinstance(value, str):
            return value
        inner = value if isinstance(value, PatternSpec) else PatternSpec.model_validate(value)
        return _orchestrator(config, (*location, *place), inner, "")

    agents = [member(("agents", index), each) for index, each in enumerate(spec.agents)]
    try:
        return build(spec.pattern, name, agents, with_config_members(spec, member), _limits(spec.limits))
    except AixgoError as error:
        raise ConfigError(f"{config.where(*location)}: {error.message}") from error


def _limits(spec: LimitsSpec) -> Limits:
    return Limits(**{name: getattr(spec, name) for name in LimitsSpec.model_fields})
