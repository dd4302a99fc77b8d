"""The price of a model: USD for tokens of each kind.

Pure arithmetic on decimals, nothing is rounded. Above: `pricing.py`, which finds the price of a model, and metering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from itertools import takewhile

from aixgo.usage import Usage


@dataclass(frozen=True, slots=True)
class Price:
    """USD per 1,000 tokens. A kind of cached token without a price of its own costs what others of the prompt do."""

    prompt: Decimal
    completion: Decimal
    cached: Decimal | None = None
    """Tokens of the prompt that were read from the vendor's cache."""
    cache_write: Decimal | None = None
    """Tokens of the prompt that were written into it."""
    above: Sequence[tuple[int, Price]] = ()
    """Calls whose prompt has more than so many tokens cost this instead, from the first token on. Fewest first."""

    def of(self, usage: Usage) -> Decimal:
        """What these tokens cost, in USD."""
        rates = self._rates(usage.prompt_tokens)
        read, written = usage.cached_tokens, usage.cache_write_tokens
        fresh = max(0, usage.prompt_tokens - read - written)
        cached = rates.prompt if rates.cached is None else rates.cached
        cache_write = rates.prompt if rates.cache_write is None else rates.cache_write
        total = fresh * rates.prompt + read * cached + written * cache_write
        return (total + usage.completion_tokens * rates.completion) / 1000

    def most(self, prompt: int, completion: int) -> Decimal:
        """What a call may cost at most, whatever the vendor does with its cache."""
        rates = self._rates(prompt)
        return (prompt * max(rates.prompt, rates.cache_write or Decimal()) + completion * rates.completion) / 1000

    def affordable(self, prompt: int, usd: Decimal) -> int | None:
        """How many tokens a completion may have when it and its prompt may cost `usd`; None when they cost nothing."""
        rate = self._rates(prompt).completion
        if not rate:
            return None
        return int(((usd - self.most(prompt, 0)) * 1000 / rate).to_integral_value(ROUND_FLOOR))

    def _rates(self, prompt: int) -> Price:
        passed = [price for _, price in takewhile(lambda step: prompt > step[0], self.above)]
        return passed[-1] if passed else self
