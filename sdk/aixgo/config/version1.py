"""Files of aixgo v1: refused by `load.py`, and rewritten as v2 by `aixgo config migrate`.

Owns what a v1 file looks like and what becomes of each part of it. What cannot be decided from the file alone stands as
a comment at the place that needs a hand. Below: `document.py` for the syntax.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from aixgo.agents.catalog import ROLES
from aixgo.config.document import MAX_BYTES, parse_document
from aixgo.config.schema import DEFAULT_NAME, Config, LimitsSpec
from aixgo.config.spec import AgentSpec
from aixgo.errors import ConfigError

if TYPE_CHECKING:
    from aixgo.config.document import Document
    from aixgo.config.problems import Problems

_FAMILIES: Mapping[str, str] = {
    "gpt-": "openai",
    "chatgpt-": "openai",
    "o1": "openai",
    "o3": "openai",
    "o4": "openai",
    "claude-": "anthropic",
    "gemini-": "gemini",
    "grok-": "xai",
    "deepseek-": "deepseek",
}
"""The vendor by how a model's name begins. v1 had the names alone; v2 wants `vendor/model`."""
_BREAKS = frozenset("\x85\u2028\u2029")
"""Line breaks to YAML 1.1 that PyYAML writes as they are and reads back as something else, unless it escapes them."""
_MAX_ITERATIONS = LimitsSpec().max_iterations
_ENTRY = "  "
_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Migration:
    """The v2 text of a v1 file, and what a person has to look at. Each of `notes` is a comment of the text, too."""

    text: str
    notes: tuple[str, ...]


def refuse_version1(document: Document, problems: Problems) -> None:
    """Raise ConfigError, with the v2 text to write, when the file has a `supervisor:` section or says `version: 1`."""
    sign = _sign(document.data)
    if sign is None:
        return
    key, found = sign
    # What filled ${VAR} may be a secret, and errors are shown and logged: the file is read again without filling it.
    path = document.path
    data = _unfilled(path, path.read_bytes()) if path.is_file() else document.data
    problems.add(document.line((key,)), f"{found}; write it as v2:\n\n{_Writer().write(_mapping(data)).text}")
    problems.check()


def migrate(path: Path) -> Migration:
    """The same file as v2. `${VAR}` stays as it is written; the comments of the old file are not kept.

    A file without `version:` counts as v1. Raises ConfigError when the file cannot be read, is not YAML, holds no keys
    and values, or is of v2 already.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    data = _unfilled(path, content)
    if not _mapping(data):
        raise ConfigError(f"{path}: there is nothing to migrate: a file of v1 holds keys and values")
    if _sign(data) is None and "version" in data:
        raise ConfigError(f"{path}: this file says `version: {data['version']}`; only files of v1 can be migrated")
    return _Writer().write(_mapping(data))


def _sign(data: Any) -> tuple[str, str] | None:
    """The key that shows that a file is of v1, and what is said about it; None for any other file."""
    given = _mapping(data)
    if "supervisor" in given:
        return "supervisor", "this file is of aixgo v1 (it has a `supervisor:` section)"
    if given.get("version") in (1, "1") and not isinstance(given["version"], bool):
        return "version", "this file is of aixgo v1"
    return None


def _unfilled(path: Path, content: bytes) -> Any:
    """The plain values of a file whose `${VAR}` are left as they stand."""
    return parse_document(path, content.replace(b"${", b"$${"), {}).data


@dataclass(slots=True)
class _Writer:
    """Writes one file, part by part; the comments about a part stand above it."""

    lines: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    tools: frozenset[str] = frozenset()
    """The names of the file's own `tools:`."""
    lead: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The agent that does what the supervisor's model did; empty without one."""

    def write(self, data: Mapping[str, Any]) -> Migration:
        """The whole file."""
        self.tools = frozenset(str(_mapping(tool).get("name")) for tool in _list(data.get("tools")))
        self._add({"version": 2})
        if "supervisor" in data:
            self._orchestration(data)
        if "agents" not in data and self.lead:
            self._agents([])
        for key, value in data.items():
            if key == "agents":
                self._agents(value)
            elif key not in ("version", "supervisor"):
                if key not in Config.model_fields:
                    self._note(f"v2 knows no section `{key}`; move what it says, or remove it.")
                self._add({key: value})
        return Migration("\n".join(self.lines) + "\n", tuple(self.notes))

    def _orchestration(self, data: Mapping[str, Any]) -> None:
        """A supervisor becomes an orchestration of all agents of the file, and an agent that supervises them."""
        if "orchestration" in data:
            self._note("the section `supervisor` is left out: the file has an `orchestration` already.")
            return
        settings = dict(_mapping(data["supervisor"]))
        name = settings.pop("name", DEFAULT_NAME)
        names = [each["name"] for each in map(_mapping, _list(data.get("agents"))) if "name" in each]
        rounds = settings.pop("max_rounds", None)
        if settings.get("model"):
            free = _free(f"{name if isinstance(name, str) else DEFAULT_NAME}-supervisor", names)
            self.lead = {"name": free, "role": "llm", **settings}
            config, turns = {"supervisor": free}, 0
        else:
            config, turns = self._round_robin(settings), len(names)
        new: dict[str, Any] = {"name": name, "pattern": "supervisor", "agents": names, "config": config}
        if rounds is not None:
            config["max_rounds"] = turns = rounds
        if isinstance(turns, int) and turns > _MAX_ITERATIONS:
            new["limits"] = {"max_iterations": turns}
        self._add({"orchestration": new})

    def _round_robin(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The `config:` of a supervisor that had no model to choose with."""
        self._note("the supervisor has no model to choose workers with, so they take turns, in order.")
        if settings:
            told = f"{', '.join(map(str, settings))} of the supervisor stands in `config`, which knows no such key."
            self._note(told)
        return {"select": "round_robin", **settings}

    def _agents(self, value: Any) -> None:
        entries = [*_list(value), *([self.lead] if self.lead else [])]
        if not entries:
            self._add({"agents": value})
            return
        self.lines.append("agents:")
        for entry in entries:
            given = _mapping(entry)
            self._add([self._agent(given) if given else entry], _ENTRY)

    def _agent(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """An agent; keys that v2 does not know become its role's own configuration."""
        name = f"agent {old.get('name', '?')}"
        new = {key: value for key, value in old.items() if key in AgentSpec.model_fields and key != "config"}
        if "model" in new:
            new["model"] = self._model(new["model"], name, _ENTRY)
        config = {key: value for key, value in old.items() if key not in AgentSpec.model_fields}
        if config:
            self._note(f"{name}: {', '.join(config)} went to `config`; see whether its role knows them.", _ENTRY)
        if config or "config" in old:
            new["config"] = {**_mapping(old.get("config")), **config}
        self._role(name, str(new.get("role")))
        self._servers(name, new)
        return new

    def _servers(self, name: str, new: Mapping[str, Any]) -> None:
        """v1 knew MCP servers by name alone; v2 wants to know how each is reached."""
        servers, role = [str(server) for server in _list(new.get("mcp_servers"))], str(new.get("role"))
        missing = [server for server in servers if server not in self.tools]
        if missing:
            told = f"{name}: add to `tools:` how to reach {', '.join(missing)}: {{name: ..., mcp: {{command: [...]}}}}."
            self._note(told, _ENTRY)
        if servers and role in ROLES and role != "react":
            self._note(f"{name}: role {role} uses no tools; role react does.", _ENTRY)

    def _role(self, name: str, role: str) -> None:
        if role not in ROLES and ":" not in role:
            told = f"{name}: role {role} was Go code; write it as a Python class and name it my_pkg.agents:Class."
            self._note(told, _ENTRY)

    def _model(self, model: Any, whose: str, indent: str = "") -> Any:
        """`vendor/model` of a bare name, where the name says which vendor."""
        if not isinstance(model, str) or "/" in model:
            return model
        vendor = next((vendor for begin, vendor in _FAMILIES.items() if model.startswith(begin)), None)
        if vendor is None:
            self._note(f"{whose}: write the model {model} with its vendor, for example ollama/{model}.", indent)
            return model
        return f"{vendor}/{model}"

    def _note(self, text: str, indent: str = "") -> None:
        printable = "".join(letter if letter.isprintable() else "?" for letter in text)
        self.notes.append(printable)
        comment = textwrap.wrap(f"# By hand: {printable}", _WIDTH, break_long_words=False, break_on_hyphens=False)
        self.lines += [f"{indent}{'#   ' if number else ''}{line}" for number, line in enumerate(comment)]

    def _add(self, value: Any, indent: str = "") -> None:
        text = _dumped(value, allow_unicode=True)
        if not _BREAKS.isdisjoint(text):
            text = _dumped(value, allow_unicode=False)
        self.lines += [indent + line if line else line for line in text.split("\n")]


class _Dumper(yaml.SafeDumper):
    """Quotes text that v2 would read as a number: PyYAML, which writes YAML 1.1, leaves 1e5 as it is."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A scalar that is read back as text."""
        style = "'" if _is_number(text) else None
        return cast("Any", self).represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _dumped(value: Any, *, allow_unicode: bool) -> str:
    options = {"sort_keys": False, "allow_unicode": allow_unicode, "width": _WIDTH}
    text: str = cast("Any", yaml).dump(value, Dumper=_Dumper, **options)
    return text.rstrip("\n")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _free(name: str, taken: Collection[Any]) -> str:
    """A name for an agent that no other has."""
    number = 1
    free = name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
