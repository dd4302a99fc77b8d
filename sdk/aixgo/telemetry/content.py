"""What messages say, in spans: only when it is switched on, redacted, and cut.

Owns the one policy of the process, as OpenTelemetry has one tracer provider for each: `setup.py` (above) sets it and
takes it back. The shape is that of the GenAI conventions: a JSON list of messages, each a role and its parts. Below it
lie the span that it is written onto, and the messages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aixgo.message import to_json
from aixgo.telemetry.settings import MAX_CONTENT, Redact

_log = logging.getLogger(__name__)

MAX_MESSAGES = 64
"""Messages of one attribute; of more the newest are kept."""
REFUSED = "[redaction failed]"
"""Stands for a text that `redact` could not be asked about."""


@dataclass(frozen=True, slots=True)
class ContentPolicy:
    """Whether texts are kept at all, what may be kept of each, and how many characters."""

    capture: bool = False
    redact: Redact | None = None
    limit: int = MAX_CONTENT

    def kept(self, text: str) -> str:
        """What may be kept of a text. It is redacted whole, before it is cut."""
        if self.redact is not None:
            try:
                text = str(self.redact(text))
            except Exception as error:  # noqa: BLE001  # the user's function; the text, and an error that quotes it, stay here
                _log.warning("observability.redact raised %s; the text is left out", type(error).__name__)
                return REFUSED
        over = len(text) - self.limit
        return text if over <= 0 else f"{text[: self.limit]}[{over} characters cut]"


class _Holder:
    policy = ContentPolicy()


def captured() -> ContentPolicy | None:
    """The policy, if content is captured; None otherwise: nothing then needs to be written down."""
    policy = _Holder.policy
    return policy if policy.capture else None


def use(policy: ContentPolicy) -> ContentPolicy:
    """Make `policy` that of the process; returns the one before."""
    before, _Holder.policy = _Holder.policy, policy
    return before


def messages(policy: ContentPolicy, said: Iterable[tuple[str, str]]) -> str:
    """Roles and texts as the conventions write `gen_ai.input.messages` and `gen_ai.output.messages`."""
    newest = list(said)[-MAX_MESSAGES:]
    told = [{"role": role, "parts": [{"type": "text", "content": policy.kept(text)}]} for role, text in newest]
    return to_json(told).decode()


def json_text(value: Any) -> str:
    """A JSON value as compact text."""
    return to_json(value).decode()
