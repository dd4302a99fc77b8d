"""Bearer tokens: who is known by which, and that no message gives one away."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from aixgo.errors import ConfigError, Unauthenticated
from aixgo.security.files import LOOK_INTERVAL
from aixgo.security.tokens import KnownTokens, OwnToken, digest_of
from pydantic import SecretStr

ALICE, BOB = "alice-has-this-very-long-token", "bob-has-another-very-long-one"


class Clock:
    """Seconds that the test moves on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(path: Path, text: str) -> Path:
    """Write a file that differs from the one before by more than its text: clocks of file systems are coarse."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)
    return path


def test_a_token_or_its_digest_says_who_calls(tmp_path: Path):
    known = KnownTokens(write(tmp_path / "t", f"# who\nspiffe://a.b/alice: {ALICE}\n\nbob: {digest_of(BOB)}\n"))
    assert known.identity(f"Bearer {ALICE}") == "spiffe://a.b/alice"
    assert known.identity(f"bearer {BOB}") == "bob"


@pytest.mark.parametrize(
    "said", ["", "Bearer", "Bearer ", f"Basic {ALICE}", ALICE, f"Bearer {ALICE}x", "Bearer é" * 9000]
)
def test_anything_else_is_nobody(said: str, tmp_path: Path):
    known = KnownTokens(write(tmp_path / "t", f"alice: {ALICE}"))
    with pytest.raises(Unauthenticated) as refused:
        known.identity(said)
    assert ALICE not in str(refused.value)


def test_a_changed_file_counts_without_a_restart(tmp_path: Path, clock: Clock):
    path = write(tmp_path / "t", f"alice: {ALICE}")
    known = KnownTokens(path, clock=clock)
    write(path, f"bob: {BOB}")
    assert known.identity(f"Bearer {ALICE}") == "alice"
    clock.now += LOOK_INTERVAL
    assert known.identity(f"Bearer {BOB}") == "bob"
    with pytest.raises(Unauthenticated):
        known.identity(f"Bearer {ALICE}")


@pytest.mark.parametrize("broken", ["alice", None])
def test_a_file_that_breaks_is_one_warning_and_what_was_read_stays(
    broken: str | None, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
):
    path = write(tmp_path / "t", f"alice: {ALICE}")
    known = KnownTokens(path, clock=clock)
    write(path, broken) if broken else path.unlink()
    for _ in range(3):
        clock.now += LOOK_INTERVAL
        assert known.identity(f"Bearer {ALICE}") == "alice"
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


@pytest.mark.parametrize(
    "line",
    ["alice", f"alice:{ALICE}", "alice: short", f"*: {ALICE}", f"a b: {ALICE}", "alice: with some spaces in it, no",
     f"alice: {ALICE}\nbob: {ALICE}", "alice: sha256:12", b"\xff\xfe\x00"],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_named_and_no_token_quoted(line: str | bytes, tmp_path: Path):
    (tmp_path / "t").write_bytes(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(ConfigError, match=str(tmp_path / "t")) as refused:
        KnownTokens(tmp_path / "t")
    assert ALICE not in str(refused.value)


def test_the_own_token_comes_from_a_setting_or_a_file_that_may_change(tmp_path: Path, clock: Clock):
    assert OwnToken(SecretStr(ALICE), None).header() == ("authorization", f"Bearer {ALICE}")
    path = write(tmp_path / "t", f"{ALICE}\n")
    own = OwnToken(None, path, clock=clock)
    write(path, BOB)
    clock.now += LOOK_INTERVAL
    assert own.header() == ("authorization", f"Bearer {BOB}")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path):
    (tmp_path / "t").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        KnownTokens(tmp_path / "t")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        KnownTokens(tmp_path / "nowhere" / os.pathsep)
