"""Scripts in files: what `test/script:PATH` answers, the same in every process that reads the file.

A script is a YAML list of rules, tried in order; the first whose `when` holds answers. It keeps no state, so replicas
and repeated runs answer alike.

    - when: {system: critic, user: second draft}
      json: {score: 0.9, feedback: Good.}
    - when: {system: critic}
      json: {score: 0.4, feedback: Name the figures.}
    - when: {offers: hand_over, user: invoice}
      tool: {name: hand_over, arguments: {to: billing, reason: It is about money.}}
    - text: "You said: {user}"

`system`, `user` and `any` are texts that must occur (in any case) in the system messages, in the last user message, or
in any message; a list of texts must all occur. `asks` is a field of the schema that is asked for, `offers` a tool that
is offered. A text may contain {user}, the last user message. Above: `scripted.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from aixgo.errors import ConfigError, ProviderRejected
from aixgo.llm.contract import CompletionRequest, ToolUse

MAX_BYTES = 1_000_000


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class When(_Part):
    """What a request must be like."""

    system: Texts = ()
    user: Texts = ()
    any: Texts = ()
    asks: str = ""
    offers: str = ""

    def holds(self, request: CompletionRequest) -> bool:
        """Whether it is."""
        system = "\n".join(turn.content for turn in request.messages if turn.role == "system")
        everything = "\n".join(turn.content for turn in request.messages)
        schema = request.schema or {}
        return (
            _has(system, self.system)
            and _has(last_user(request), self.user)
            and _has(everything, self.any)
            and (not self.asks or self.asks in cast("Any", schema).get("properties", {}))
            and (not self.offers or any(tool.name == self.offers for tool in request.tools))
        )


class ScriptedTool(_Part):
    """A tool that is asked for."""

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class Rule(_Part):
    """One rule: when it answers, and one of `text`, `json` and `tool`."""

    when: When = When()
    text: str | None = None
    json_: Any = Field(default=None, alias="json")
    tool: ScriptedTool | None = None

    @model_validator(mode="after")
    def _one_answer(self) -> Rule:
        if len({"text", "json_", "tool"} & self.model_fields_set) != 1:
            raise ValueError("a rule has one of text, json and tool")
        return self


_RULES: TypeAdapter[Sequence[Rule]] = TypeAdapter(tuple[Rule, ...])


def read_script(path: Path) -> Sequence[Rule]:
    """The rules of a file. Raises ConfigError, naming the file, the rule and the field."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES} bytes; a script is a short file")
        return _RULES.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the script {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the script {path} is no YAML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()[:5])
        raise ConfigError(f"the script {path}: {faults}") from error


def find_rule(rules: Sequence[Rule], request: CompletionRequest, path: Path) -> Rule:
    """The first rule that holds; raises ProviderRejected when there is none."""
    for rule in rules:
        if rule.when.holds(request):
            return rule
    raise ProviderRejected(f"no rule of {path} holds for {last_user(request)[:200]!r}; add one without `when`")


def tool_use(rule: Rule, request: CompletionRequest) -> Sequence[ToolUse]:
    """The use of a tool that a rule asks for."""
    if rule.tool is None:
        return ()
    return (ToolUse(f"call_{len(request.messages)}", rule.tool.name, rule.tool.arguments),)


def last_user(request: CompletionRequest) -> str:
    """The last thing that was said to the model."""
    return next((turn.content for turn in reversed(request.messages) if turn.role == "user"), "")


def _has(text: str, wanted: Sequence[str]) -> bool:
    folded = text.casefold()
    return all(each.casefold() in folded for each in wanted)
