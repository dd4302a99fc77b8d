"""What a model's tokens cost.

Owns the price table. Looked up in order: the user's prices (`pricing:` in YAML), models that cost nothing because they
run here, then the table below. An unknown model costs None, never zero: guessing would turn a bill into a lie.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from aixgo.usage import Usage

log = logging.getLogger(__name__)

FREE_VENDORS = frozenset({"local", "test", "ollama"})
"""Vendors whose models run on the user's own machines."""


@dataclass(frozen=True, slots=True)
class Price:
    """USD per 1,000 tokens."""

    prompt: Decimal
    completion: Decimal

    def of(self, usage: Usage) -> Decimal:
        """What these tokens cost, in USD."""
        return (usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion) / 1000


FREE = Price(Decimal(), Decimal())

DEFAULT_PRICES: Mapping[str, Price] = MappingProxyType(
    {
        name: Price(Decimal(prompt), Decimal(completion))
        for name, prompt, completion in (
            ("gpt-4-turbo", "0.01", "0.03"),
            ("gpt-4-turbo-preview", "0.01", "0.03"),
            ("gpt-4", "0.03", "0.06"),
            ("gpt-3.5-turbo", "0.0005", "0.0015"),
            ("gpt-3.5-turbo-16k", "0.003", "0.004"),
            ("claude-3-5-sonnet-20241022", "0.003", "0.015"),
            ("claude-3-opus-20240229", "0.015", "0.075"),
            ("claude-3-sonnet-20240229", "0.003", "0.015"),
            ("claude-3-haiku-20240307", "0.00025", "0.00125"),
            ("grok-beta", "0.005", "0.015"),
            ("gemini-1.5-pro", "0.00125", "0.005"),
            ("gemini-1.5-flash", "0.000075", "0.0003"),
            ("deepseek-chat", "0.00014", "0.00028"),
            ("deepseek-coder", "0.00014", "0.00028"),
        )
    }
)
"""USD per 1,000 tokens, as the architecture document lists them."""


class Prices:
    """The prices of one configuration. `own` are the user's, by `model` or `vendor/model`, and win."""

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self._own = dict(own or {})
        self._warned: set[str] = set()

    def find(self, vendor: str, model: str) -> Price | None:
        """The price of a model, or None with one warning for each model."""
        full = f"{vendor}/{model}"
        found = self._own.get(full) or self._own.get(model)
        if found is not None:
            return found
        if vendor in FREE_VENDORS:
            return FREE
        if model not in DEFAULT_PRICES and full not in self._warned:
            self._warned.add(full)
            log.warning("the price of %s is not known, so its cost is left out; add it under `pricing:`", full)
        return DEFAULT_PRICES.get(model)
