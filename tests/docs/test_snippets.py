"""Every snippet of README and docs runs: files are written, programs and commands are run in order, page by page.

A block after `<!-- file: NAME -->` is a file. Other `python` blocks are programs; `print(...)  # text` says what they
print. In `sh` blocks `aixgo` commands are run as they stand, one ending in `&` stays up until the end of the page;
`make` and `pip install` lines are checked against the Makefile and pyproject.toml.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]+)")
PRINTED = re.compile(r"print\(.*\)  # (?P<text>.+)")
TIMEOUT = 120


@dataclass(frozen=True)
class Block:
    file: str | None
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(m["file"], m["language"], m["text"]) for m in BLOCK.finditer(page.read_text())]


class Reader:
    """Somebody who follows a page, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.control_plane = f"127.0.0.1:{probe.getsockname()[1]}"
        binaries = str(Path(sys.executable).parent)
        self.environment = os.environ | {
            "AIXGO_CONTROL_PLANE": self.control_plane,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "NO_COLOR": "1",
        }
        self.background: list[subprocess.Popen[str]] = []

    def follow(self, block: Block) -> None:
        if block.file is not None:
            (self.folder / block.file).write_text(block.text)
        elif block.language == "python":
            self.run_program(block.text)
        elif block.language == "sh":
            for line in block.text.splitlines():
                self.run_line(line.partition("  #")[0].strip())

    def run_program(self, text: str) -> None:
        program = self.folder / "snippet.py"
        program.write_text(text.replace("localhost:50050", self.control_plane))
        output = self.run([sys.executable, str(program)])
        for expected in PRINTED.finditer(text):
            assert expected["text"] in output

    def run_line(self, line: str) -> None:
        words = shlex.split(line)
        if not words or words[0] in ("make", "pip"):
            self.check_line(words)
        elif words[-1] == "&":
            self.start(words[:-1])
        else:
            self.run(words)

    def check_line(self, words: list[str]) -> None:
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), (
                f"no such target: {words}"
            )
        if words[:1] == ["pip"]:
            extras = re.findall(r"\[(.*?)\]", words[-1])
            known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert all(extra in known for extra in extras), f"no such extra: {words}"

    def run(self, words: list[str]) -> str:
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        if done.returncode and words[:3] == ["aixgo", "model", "pull"] and "CI" not in os.environ:
            pytest.skip(f"the embedded model cannot be fetched here: {done.stderr.strip()}")
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, words: list[str]) -> None:
        """Start a command that stays, and wait until it says that it is ready."""
        process = subprocess.Popen(
            words, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.background.append(process)
        heard: list[str] = []
        for line in process.stdout:
            heard.append(line)
            if "ready" in line:
                return
        raise AssertionError(f"{shlex.join(words)} ended:\n{''.join(heard)}")

    def leave(self) -> None:
        for process in self.background:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            process.wait(TIMEOUT)
            process.stdout.close()


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    yield reader
    reader.leave()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_snippet_of_a_page_runs(page, reader):
    for block in blocks(page):
        reader.follow(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_between_pages_leads_somewhere(page):
    for link in LINK.finditer(page.read_text()):
        assert (page.parent / link["path"]).exists(), link["path"]
