"""The `config:` of a pattern as a pydantic model, so that unknown keys and wrong types are refused by name.

Below: pydantic. Above: each pattern's file, and `catalog.py`, which reads configurations through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from aixgo.agent import Agent
from aixgo.errors import ConfigError
from aixgo.names import nearest

MemberField: TypeAlias = str | Agent
"""A member in a pattern's configuration: a name, or an agent (what a pattern written in its place became)."""
ConfigT = TypeVar("ConfigT", bound="PatternConfig")


class PatternConfig(BaseModel):
    """The `config:` of a pattern; one subclass for each."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


def read_config(cls: type[ConfigT], name: str, config: Mapping[str, Any]) -> ConfigT:
    """`config` as `cls`; raises ConfigError, naming each key and the nearest right one."""
    try:
        return cls.model_validate(dict(config))
    except ValidationError as error:
        raise ConfigError(f"orchestration {name!r}: {'; '.join(_problem(cls, e) for e in error.errors())}") from error


def required(name: str, agents: Sequence[MemberField]) -> Sequence[MemberField]:
    """The members under `agents:`; raises ConfigError when there are none."""
    if not agents:
        raise ConfigError(f"orchestration {name!r} has no `agents`; name at least one")
    return agents


def only_named(name: str, agents: Sequence[MemberField], members: Sequence[MemberField | None], where: str) -> None:
    """For patterns whose members stand in `config`: raises ConfigError for `agents:` that are none of `members`."""
    unused = [agent for agent in agents if agent not in members]
    if unused:
        raise ConfigError(
            f"orchestration {name!r} lists agents that it does not use: {', '.join(map(str, unused))};"
            f" its members stand in `config` ({where}), so it needs no `agents`"
        )


def _problem(cls: type[PatternConfig], error: Mapping[str, Any]) -> str:
    where = ".".join(map(str, cast("tuple[Any, ...]", error["loc"])))
    if error["type"] == "extra_forbidden":
        keys = [field.alias or name for name, field in cls.model_fields.items()]
        return f"config.{where} is not known; {nearest(where, keys)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"config.{where}: {message}" if where else f"config: {message}"
