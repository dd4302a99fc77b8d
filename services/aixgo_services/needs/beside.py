"""What lies beside the YAML and is named in it: modules, scripts of models, folders of documents.

Owns which of it is read, and that whatever a module beside the file imports comes along. It reads, and imports
nothing. Below: `models.py`. Above: `aixgo render`, which mounts it, and the doctor, which tells what is missing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from aixgo.errors import ConfigError

from aixgo_services.needs.keeping import is_inside
from aixgo_services.needs.models import named_modules, scripts

if TYPE_CHECKING:
    from aixgo.config.schema import Config

MAX_TEXT = 1024 * 1024
"""Bytes of text that are read of one file or folder: more does not fit into a ConfigMap."""
MAX_FILES = 1000
"""Files of a folder that are read."""
_CODE = ".py"


@dataclass(frozen=True, slots=True)
class Beside:
    """What is there, by its path from the folder of the YAML, with '/' between names.

    `files` are texts; `folders` have their texts by the path below them, or None when they are no small texts: a file
    that is none, a PDF for example, is among them. `imported` are the modules that the code among them imports.
    `missing` and `outside` say what is named and is not there, or not below the folder, each with who names it.
    """

    files: Mapping[str, str] = field(default_factory=dict[str, str])
    folders: Mapping[str, Mapping[str, str] | None] = field(default_factory=dict[str, "Mapping[str, str] | None"])
    imported: frozenset[str] = frozenset()
    missing: tuple[tuple[str, str], ...] = ()
    outside: tuple[tuple[str, str], ...] = ()


def read_beside(config: Config, folder: Path) -> Beside:
    """Read what a configuration names in `folder`. Raises ConfigError for a module that is no text, and for what
    cannot be read.
    """
    reader = _Reader(folder)
    for module in named_modules(config):
        reader.module(module)
    for path, by in (*scripts(config), *_documents(config), *_of_commands(config, folder)):
        reader.path(PurePosixPath(path).as_posix(), by)
    return reader.found()


def command_paths(command: tuple[str, ...]) -> list[str]:
    """The words of a command as paths below the folder of the YAML, for what may be one: a server's own script, a file
    that it is given.
    """
    return [PurePosixPath(word).as_posix() for word in command if is_inside(word)]


def _documents(config: Config) -> Iterator[tuple[str, str]]:
    for agent in config.agents:
        if agent.role == "retriever" and agent.config.get("documents"):
            yield str(agent.config["documents"]), f"agent {agent.name}"


def _of_commands(config: Config, folder: Path) -> Iterator[tuple[str, str]]:
    for tool in config.tools:
        for path in command_paths(tool.mcp.command) if tool.mcp else ():
            if (folder / path).is_file():
                yield path, f"MCP server {tool.name}"


class _Reader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, str] = {}
        self._folders: dict[str, Mapping[str, str] | None] = {}
        self._imported: set[str] = set()
        self._missing: dict[str, str] = {}
        self._outside: dict[str, str] = {}

    def found(self) -> Beside:
        """All that was read, sorted."""
        files, folders = dict(sorted(self._files.items())), dict(sorted(self._folders.items()))
        missing, outside = tuple(self._missing.items()), tuple(self._outside.items())
        return Beside(files, folders, frozenset(self._imported), missing, outside)

    def module(self, name: str) -> None:
        """A module or package beside the file, and those that it imports. One that is not there is installed."""
        if (self._folder / f"{name}{_CODE}").is_file():
            new = f"{name}{_CODE}" not in self._files
            self._file(f"{name}{_CODE}")
            code = [self._files[f"{name}{_CODE}"]] if new else []
        elif name.isidentifier() and any((self._folder / name).rglob(f"*{_CODE}")):
            new = name not in self._folders
            texts = self._folder_of(name)
            code = [text for path, text in texts.items() if path.endswith(_CODE)] if new and texts else []
        else:
            return
        for text in code:
            imported = set(_imports(text))
            self._imported |= imported
            for each in sorted({one.partition(".")[0] for one in imported}):
                self.module(each)

    def path(self, path: str, by: str) -> None:
        """A file or folder that somebody names."""
        if not is_inside(path) or path == ".":  # the folder itself has more in it than documents: keys, for one
            self._outside[path] = by
        elif (self._folder / path).is_dir():
            self._folder_of(path)
        elif (self._folder / path).is_file():
            text = _text(self._folder / path)
            if text is None:
                self._folders[path] = None
            else:
                self._files[path] = text
        else:
            self._missing[path] = by

    def _file(self, path: str) -> None:
        text = _text(self._folder / path)
        if text is None:
            raise ConfigError(f"{self._folder / path} is no text in UTF-8 of at most {MAX_TEXT} bytes")
        self._files[path] = text

    def _folder_of(self, path: str) -> Mapping[str, str] | None:
        self._folders[path] = texts = _texts_below(self._folder / path)
        return texts


def _texts_below(folder: Path) -> dict[str, str] | None:
    """The texts of a folder; None when it holds too much, or something that is no text."""
    texts: dict[str, str] = {}
    size = 0
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") or part == "__pycache__" for part in below.parts):
            continue
        text = _text(path)
        if text is None or len(texts) == MAX_FILES:
            return None
        size += len(text.encode())
        if size > MAX_TEXT:
            return None
        texts[below.as_posix()] = text
    return texts


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_TEXT else None
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _imports(code: str) -> Iterator[str]:
    """The modules that code imports, wherever in it. Code that cannot be parsed is told when it is used."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
