"""Secrets are taken out of texts, and texts without any stay as they are."""

from __future__ import annotations

import pytest
from aixgo.telemetry.secrets import scrub


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("postgresql://app:hunter2@db/x is down", "postgresql://***@db/x is down"),
        ("Incorrect API key provided: sk-proj-abc123DEF456", "Incorrect API key provided: ***"),
        ("authorization: Bearer abc.def-123456", "authorization: ***"),
        ('{"api_key": "0123456789abcdef"}', '{"api_key": "***"}'),
        ("OPENAI_API_KEY=abcdefgh", "OPENAI_API_KEY=***"),
        ("password='letmein'", "password='***'"),
    ],
)
def test_secrets_are_hidden(text: str, kept: str):
    hidden = scrub(text)
    for part in ("hunter2", "abc123DEF456", "def-123456", "0123456789abcdef", "abcdefgh", "letmein"):
        assert part not in hidden
    assert hidden.startswith(kept.partition("***")[0][:10])


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 1000 is too low",
        "http://localhost:4317/v1 did not answer",
        "the agent 'risk-analyst' raised ValueError",
        "at 12:30:45 token budget 500",
    ],
)
def test_what_is_no_secret_stays(text: str):
    assert scrub(text) == text
