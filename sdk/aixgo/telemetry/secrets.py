"""Taking secrets out of texts that leave the process: statuses of spans, and lines of the log.

A last line of defence: errors of aixgo's own quote no secrets, but they may quote those of a library, a vendor or a
tool. Pure; above it lie spans and logs.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_PASSWORD_IN_URL = re.compile(r"(?<=://)[^\s/@:'\"]*:[^\s/@'\"]+(?=@)")
_KEYS = re.compile(
    r"\b(?:sk|pk|rk|xai|gsk|ghp|gho|ghs|xoxb|xoxp|AIza)[-_][A-Za-z0-9_-]{8,}"  # OpenAI, Anthropic, Langfuse, xAI, ...
    r"|\bAIza[A-Za-z0-9_-]{20,}"  # Google
    r"|\bAKIA[A-Z0-9]{16}\b"  # AWS
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"  # JSON web tokens
)
_CREDENTIALS = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
_NAMED = re.compile(
    r"""(?ix) \b( [a-z0-9_-]* (?: api[_-]?key | password | passwd | secret | token | authorization ) )
    ( ["']? \s* [:=] \s* ["']? ) (?! \d+\b ) ( [^\s"',;&}\]]{4,} )"""
)


def scrub(text: str) -> str:
    """`text` with what looks like a key, a password or a credential replaced by `***`."""
    text = _PASSWORD_IN_URL.sub(HIDDEN, text)
    text = _CREDENTIALS.sub(rf"\1 {HIDDEN}", text)
    text = _KEYS.sub(HIDDEN, text)
    return _NAMED.sub(rf"\1\2{HIDDEN}", text)
