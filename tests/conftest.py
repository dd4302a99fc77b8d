"""What every test runs in: an environment without vendors' keys and without settings of aixgo."""

from __future__ import annotations

import os

import pytest

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
