"""Patterns by name, as YAML names them, made from their `config`.

Above it lies `aixgo.config.build`; each pattern's configuration is a pydantic model here, so that unknown keys and
wrong types are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aixgo.agent import Agent
from aixgo.config.members import LATER_PATTERNS
from aixgo.errors import ConfigError
from aixgo.names import nearest
from aixgo.orchestration.base import Limits, Member, Orchestrator
from aixgo.orchestration.parallel import Parallel
from aixgo.orchestration.router import Router
from aixgo.orchestration.sequential import Sequential

ConfigT = TypeVar("ConfigT", bound="_Config")


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class SequentialConfig(_Config):
    """`config:` of a sequential orchestration: nothing so far."""


class ParallelConfig(_Config):
    """`config:` of a parallel orchestration. `aggregator` is an agent, or `merge`: the JSON object of all results."""

    aggregator: str | Agent = "merge"
    concurrency: int | None = Field(default=None, ge=1)


class RouterConfig(_Config):
    """`config:` of a router. Routes map a category to an agent."""

    classifier: str | Agent
    routes: dict[str, str | Agent] = Field(min_length=1)
    fallback: str | Agent | None = None
    threshold: float = Field(default=0.0, ge=0.0, le=1.0)


def build(pattern: str, name: str, agents: Sequence[Member], config: Mapping[str, Any], limits: Limits) -> Orchestrator:
    """An orchestrator from its description; raises ConfigError naming the key and the fix."""
    if pattern not in _BUILDERS:
        raise ConfigError(_unknown(pattern))
    return _BUILDERS[pattern](name, agents, config, limits)


def _sequential(name: str, agents: Sequence[Member], config: Mapping[str, Any], limits: Limits) -> Orchestrator:
    _read(SequentialConfig, name, config)
    return Sequential(name, _required(name, agents), limits=limits)


def _parallel(name: str, agents: Sequence[Member], config: Mapping[str, Any], limits: Limits) -> Orchestrator:
    read = _read(ParallelConfig, name, config)
    aggregator = None if read.aggregator == "merge" else read.aggregator
    members = _required(name, agents)
    return Parallel(name, members, aggregator=aggregator, concurrency=read.concurrency, limits=limits)


def _router(name: str, agents: Sequence[Member], config: Mapping[str, Any], limits: Limits) -> Orchestrator:
    read = _read(RouterConfig, name, config)
    named = {member for member in (read.classifier, read.fallback, *read.routes.values()) if isinstance(member, str)}
    unused = [member for member in agents if member not in named]
    if unused:
        raise ConfigError(
            f"agents of router {name!r} that no route, classifier or fallback names: {', '.join(map(str, unused))};"
            " a router needs no `agents`, its members stand in `config`"
        )
    return Router(name, read.classifier, read.routes, fallback=read.fallback, threshold=read.threshold, limits=limits)


_BUILDERS: Mapping[str, Callable[[str, Sequence[Member], Mapping[str, Any], Limits], Orchestrator]] = {
    Sequential.pattern: _sequential,
    Parallel.pattern: _parallel,
    Router.pattern: _router,
}
PATTERNS = tuple(_BUILDERS)
"""The names of the patterns that can be built."""


def _required(name: str, agents: Sequence[Member]) -> Sequence[Member]:
    if not agents:
        raise ConfigError(f"orchestration {name!r} has no `agents`; name at least one")
    return agents


def _read(cls: type[ConfigT], name: str, config: Mapping[str, Any]) -> ConfigT:
    try:
        return cls.model_validate(dict(config))
    except ValidationError as error:
        raise ConfigError(f"orchestration {name!r}: {'; '.join(_problem(cls, e) for e in error.errors())}") from error


def _problem(cls: type[_Config], error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, cast("tuple[Any, ...]", error["loc"])))
    if error["type"] == "extra_forbidden":
        return f"config.{where} is not known; {nearest(where, cls.model_fields)}"
    return f"config.{where}: {error['msg']}"


def _unknown(pattern: str) -> str:
    if pattern in LATER_PATTERNS:
        return f"pattern {pattern!r}: not yet; this version has {', '.join(_BUILDERS)}"
    return f"pattern {pattern!r} is not known; {nearest(pattern, [*_BUILDERS, *LATER_PATTERNS])}"
