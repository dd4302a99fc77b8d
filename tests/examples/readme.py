"""An example as its README tells it: the commands to type, and what they print. Shared by the tests of this folder."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
_FILE_CONTENT = re.compile(r"\$\(cat (\S+)\)")


@dataclass(frozen=True)
class Example:
    """One folder below `examples/`."""

    name: str

    @property
    def folder(self) -> Path:
        return ROOT / "examples" / self.name

    @property
    def config(self) -> Path:
        """Its YAML, relative to the repository, as commands name it."""
        return (self.folder / "config.yaml").relative_to(ROOT)

    @cached_property
    def text(self) -> str:
        """Its README."""
        return (self.folder / "README.md").read_text()

    @cached_property
    def commands(self) -> list[list[str]]:
        """The lines of its shell blocks as words, settings in front of a command left out."""
        lines = [line for block in _SHELL.findall(self.text) for line in block.splitlines() if line.strip()]
        split = [shlex.split(line, comments=True) for line in lines]
        return [[word for word in words if not re.match(r"[A-Z_]+=", word)] for words in split]

    def inputs(self, command: str) -> list[str]:
        """What its lines `aixgo COMMAND ... -i TEXT` say, with the contents of files filled in."""
        given = [words for words in self.commands if words[:2] == ["aixgo", command] and "-i" in words]
        return [_FILE_CONTENT.sub(_content, words[words.index("-i") + 1]) for words in given]

    @property
    def paths(self) -> set[str]:
        """The files and folders of the repository that its commands name."""
        named = [re.findall(r"(?:examples|tests)/[\w./-]+", word) for words in self.commands for word in words]
        return {path for found in named for path in found}


def _content(match: re.Match[str]) -> str:
    # As a shell does it: line ends at the end are cut off.
    return (ROOT / match[1]).read_text().rstrip("\n")
