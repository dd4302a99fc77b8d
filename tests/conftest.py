"""What every test runs in: an environment without vendors' keys and settings of aixgo, and logging as it was.

Commands set up logging for their process; here the process goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from aixgo_services.logs import PACKAGES
from hypothesis import settings

settings.register_profile("aixgo", deadline=None)  # no test depends on how busy the machine is
settings.load_profile("aixgo")

_PREFIXES = (
    "OPENAI_",
    "ANTHROPIC_",
    "GEMINI_",
    "GOOGLE_",
    "XAI_",
    "DEEPSEEK_",
    "OLLAMA_",
    "LANGFUSE_",
    "OTEL_",
    "AIXGO_",
)
_KEPT = ("AIXGO_MODEL_DIR",)  # where the weights of the embedded model are, which tests must not fetch again


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(_PREFIXES) and name not in _KEPT]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def first_levels() -> dict[logging.Logger, int]:
    """The levels before any fixture ran a command: those of longer-lived fixtures run before `logging_as_before`."""
    return {logger: logger.level for logger in _loggers()}


@pytest.fixture(autouse=True)
def logging_as_before(first_levels: dict[logging.Logger, int]) -> Iterator[None]:
    for logger, level in first_levels.items():
        logger.setLevel(level)
    handlers = [(logger, list(logger.handlers)) for logger in _loggers()]
    yield
    for logger, before in handlers:
        logger.setLevel(first_levels[logger])
        logger.handlers[:] = before


def _loggers() -> list[logging.Logger]:
    return [logging.getLogger(), *(logging.getLogger(name) for name in PACKAGES)]
