"""YAML text to a tree of plain values that remembers its lines.

Owns the syntax: safe parsing (PyYAML's events, no tags, no Python objects), bounds on size, nesting and aliases,
duplicate keys, `<<` merges and `${VAR}`. Scalars mean what YAML 1.2 says, so `no` and `on` are words and dates are
text. Knows nothing of what the values are for: `schema.py` and `load.py` lie above.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import yaml

from aixgo.config.problems import Problems
from aixgo.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MAX_BYTES = 1024 * 1024
"""Largest file."""
MAX_NESTING = 50
"""Deepest nesting of lists and mappings."""
MAX_VALUES = 100_000
"""Most values, each counted as often as aliases repeat it."""
MAX_MERGED = 100_000
"""Most entries that `<<` brings into all mappings of a file together."""
MAX_VARIABLES = 100
"""Most `${` in one text."""

Location: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys and indexes from the top of the document."""

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)\{|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*+))?\}|(?P<bad>\{))"
)
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAGS = (None, "!", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq")))


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its plain values, and the line of each."""

    path: Path
    data: Any
    lines: Mapping[Location, int]

    def line(self, location: Location) -> int:
        """The line of a value, or of the nearest one around it that is in the file."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


@dataclass(frozen=True, slots=True)
class _Scalar:
    line: int
    value: Any


@dataclass(frozen=True, slots=True)
class _List:
    line: int
    items: list[_Node]


@dataclass(frozen=True, slots=True)
class _Map:
    line: int
    entries: dict[str, _Node]
    key_lines: dict[str, int]


_Node: TypeAlias = "_Scalar | _List | _Map"


def read_document(path: Path, variables: Mapping[str, str]) -> Document:
    """Read and parse a file; `variables` fill `${VAR}`. Raises ConfigError, with every problem of the syntax."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_document(path, content, variables)


def parse_document(path: Path, content: bytes, variables: Mapping[str, str]) -> Document:
    """Parse the content of a file. Raises ConfigError, with every problem of the syntax."""
    problems = Problems(path)
    if len(content) > MAX_BYTES:
        problems.add(0, f"the file is larger than {MAX_BYTES // 1024} KiB; split what it holds")
        raise problems.error()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.add(content.count(b"\n", 0, error.start) + 1, "this is not UTF-8 text; save the file as UTF-8")
        raise problems.error() from error
    root = _Parser(problems, variables).parse(text)
    problems.check()
    lines: dict[Location, int] = {(): root.line}
    try:
        data = _expand(root, (), lines)
    except _TooMuchError:
        problems.add(0, f"with its aliases the file has more than {MAX_VALUES} values; use fewer aliases")
        raise problems.error() from None
    return Document(path, data, lines)


class _BrokenError(Exception):
    """Parsing cannot go on; the problem is noted."""


class _TooMuchError(Exception):
    """More values than MAX_VALUES."""


class _Parser:
    """Builds nodes from the parser's events. Nesting is bounded, so recursion is too."""

    def __init__(self, problems: Problems, variables: Mapping[str, str]) -> None:
        self._problems = problems
        self._variables = variables
        self._anchors: dict[str, _Node] = {}
        self._merges = 0
        self._events: Iterator[Any] = iter(())

    def parse(self, text: str) -> _Node:
        """The root of the only document in `text`."""
        self._events = cast("Any", yaml).parse(text, Loader=_loader())
        try:
            return self._document()
        except yaml.YAMLError as error:
            line, what = _syntax(error, text)
            self._problems.add(line, f"this is not YAML: {what}")
        except ValueError as error:  # PyYAML's own parser lets some broken escapes through to chr()
            self._problems.add(0, f"this is not YAML: {error}")
        except _BrokenError:
            pass
        raise self._problems.error()

    def _document(self) -> _Node:
        event = next(self._events)
        while isinstance(event, (yaml.StreamStartEvent, yaml.DocumentStartEvent)):
            event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            raise self._broken(0, "the file is empty; begin with `version: 2`")
        root = self._node(event, 0)
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise self._broken(_line(event), "a second document begins here; one file holds one")
        return root

    def _node(self, event: Any, depth: int) -> _Node:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise self._broken(line, f"the alias *{event.anchor} comes before the end of its anchor; move it down")
            return self._anchors[event.anchor]
        if depth >= MAX_NESTING:
            raise self._broken(line, f"nested deeper than {MAX_NESTING} levels; flatten it")
        if event.tag not in _TAGS:
            self._problems.add(line, f"the tag {event.tag} is not supported; remove it")
        if isinstance(event, yaml.ScalarEvent):
            node: _Node = _Scalar(line, self._scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            node = _List(line, [self._node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)])
        else:
            node = self._mapping(line, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _until(self, end: type[Any]) -> Iterator[Any]:
        while not isinstance(event := next(self._events), end):
            yield event

    def _mapping(self, line: int, depth: int) -> _Map:
        entries: dict[str, _Node] = {}
        key_lines: dict[str, int] = {}
        merged: list[_Map] = []
        for event in self._until(yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._broken(_line(event), "a key must be text; put list, mapping or alias after a colon")
            key = str(event.value)
            value = self._node(next(self._events), depth + 1)
            if key == "<<" and event.implicit[0]:
                merged += self._merged(value, _line(event))
            elif key in entries:
                self._problems.add(_line(event), f"{key!r} stands twice (first in line {key_lines[key]}); remove one")
            else:
                entries[key], key_lines[key] = value, _line(event)
        for node in merged:
            for key, value in node.entries.items():
                if key not in entries:
                    entries[key], key_lines[key] = value, node.key_lines[key]
        return _Map(line, entries, key_lines)

    def _merged(self, node: _Node, line: int) -> list[_Map]:
        nodes = node.items if isinstance(node, _List) else [node]
        mappings = [each for each in nodes if isinstance(each, _Map)]
        if len(mappings) < len(nodes):
            self._problems.add(line, "`<<` merges mappings; give it the alias of one (`<<: *name`)")
        self._merges += sum(len(each.entries) for each in mappings)
        if self._merges > MAX_MERGED:
            raise self._broken(line, f"`<<` merges more than {MAX_MERGED} entries in this file; repeat less")
        return mappings

    def _scalar(self, event: Any) -> Any:
        text = self._filled(str(event.value), _line(event))
        return _resolve(text) if event.implicit[0] else text

    def _filled(self, text: str, line: int) -> str:
        """`text` with its variables filled in; `$${` stands for a literal `${`."""

        def value(match: re.Match[str]) -> str:
            if match["escaped"]:
                return "${"
            if match["bad"]:
                self._problems.add(line, "write ${NAME} or ${NAME:-default}; a literal ${ is written $${")
                return ""
            name, default = match["name"], match["default"]
            found = self._variables.get(name)
            if found:
                return found
            if default is None and found is None:
                self._problems.add(
                    line, f"${{{name}}} is not set; set it, add it to .env, or write ${{{name}:-default}}"
                )
            return default or ""

        if text.count("${") > MAX_VARIABLES:
            raise self._broken(line, f"a text with more than {MAX_VARIABLES} ${{...}}; write fewer")
        return _VARIABLE.sub(value, text)

    def _broken(self, line: int, what: str) -> _BrokenError:
        self._problems.add(line, what)
        return _BrokenError()


def _expand(node: _Node, location: Location, lines: dict[Location, int]) -> Any:
    """Plain values of a node, and the line of each into `lines`; aliases become copies."""
    if len(lines) > MAX_VALUES:
        raise _TooMuchError
    if isinstance(node, _Scalar):
        return node.value
    if isinstance(node, _List):
        for index, item in enumerate(node.items):
            lines[*location, index] = item.line
        return [_expand(item, (*location, index), lines) for index, item in enumerate(node.items)]
    for key in node.entries:
        lines[*location, key] = node.key_lines[key]
    return {key: _expand(value, (*location, key), lines) for key, value in node.entries.items()}


def _resolve(text: str) -> Any:
    """What a plain scalar means in YAML 1.2's core schema, octal and hexadecimal numbers, inf and nan left out."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _syntax(error: yaml.YAMLError, text: str) -> tuple[int, str]:
    """Line and reason of a syntax error."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        return (mark.line + 1 if mark else 0), reason
    position = getattr(error, "position", 0)
    return text.count("\n", 0, position) + 1, getattr(error, "reason", str(error))


def _loader() -> Any:
    """The parser in C where PyYAML has it, which is twenty times as fast; both read the same language."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)
