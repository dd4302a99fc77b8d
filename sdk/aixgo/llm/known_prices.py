"""Prices as the library genai-prices lists them: bundled with it, so nothing is fetched.

Owns the way from a vendor and a model to its record there, and from that to a Price. The library is in the extra
`prices`; without it nothing is known here. Above: `pricing.py`.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from aixgo.llm.price import Price

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice

log = logging.getLogger(__name__)

_PROVIDERS: Mapping[str, str] = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "xai": "x-ai",
    "deepseek": "deepseek",
}
"""Our vendors -> the library's providers."""


class KnownPrices:
    """The library, imported when it is first needed. `now` says for what time prices are wanted."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._models: dict[tuple[str, str], ModelInfo | None] = {}
        self._prices: dict[int, tuple[ModelPrice, Price | None]] = {}
        self._loaded = False

    @property
    def available(self) -> bool:
        """Whether the library is installed."""
        return importlib.util.find_spec("genai_prices") is not None

    @property
    def must_load(self) -> bool:
        """Whether the library is there and has yet to be imported."""
        return not self._loaded and self.available

    def covers(self, vendor: str) -> bool:
        """Whether the library is asked for models of this vendor."""
        return vendor in _PROVIDERS

    def load(self) -> None:
        """Import the library and its data, which takes most of a second."""
        from genai_prices.data_snapshot import get_snapshot

        get_snapshot()
        self._loaded = True

    def find(self, vendor: str, model: str) -> Price | None:
        """The price of a model at this time; None when the library does not know it, or does not count in tokens."""
        key = vendor, model
        if key not in self._models:
            self._models[key] = self._look_up(vendor, model)
        found = self._models[key]
        return None if found is None else self._price(found.get_prices(self._now()))

    def _look_up(self, vendor: str, model: str) -> ModelInfo | None:
        provider = _PROVIDERS.get(vendor)
        if provider is None or not self.available:
            return None
        from genai_prices.data_snapshot import get_snapshot

        try:
            return get_snapshot().find_provider_model(model, None, provider, None)[1]
        except LookupError:
            log.debug("genai-prices does not know %s/%s", vendor, model)
            return None

    def _price(self, listed: ModelPrice) -> Price | None:
        if id(listed) not in self._prices:  # with the record itself, which keeps its id from being used again
            self._prices[id(listed)] = listed, from_listed(listed)
        return self._prices[id(listed)][1]


def from_listed(listed: ModelPrice) -> Price | None:
    """A record of the library (USD per million tokens) as a Price; None for what is not sold by the token.

    A model without a price of completions, such as one of embeddings, makes none.
    """
    if listed.input_mtok is None:
        return None
    starts = sorted({tier.start for kind in _KINDS for tier in getattr(getattr(listed, kind), "tiers", ())})
    above = tuple((start, _at(listed, start)) for start in starts)
    base = _at(listed, None)
    return Price(base.prompt, base.completion, base.cached, base.cache_write, above)


_KINDS = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")


def _at(listed: ModelPrice, start: int | None) -> Price:
    """The rates of prompts that have more than `start` tokens; None: of those that no tier begins below."""
    prompt, completion, cached, cache_write = (_rate(getattr(listed, kind), start) for kind in _KINDS)
    return Price(prompt or Decimal(), completion or Decimal(), cached, cache_write)


def _rate(price: object, start: int | None) -> Decimal | None:
    """USD per 1,000 tokens."""
    if price is None or isinstance(price, Decimal):
        return None if price is None else price / 1000
    from genai_prices.types import TieredPrices

    assert isinstance(price, TieredPrices)
    reached = [tier.price for tier in price.tiers if start is not None and tier.start <= start]
    return (reached[-1] if reached else price.base) / 1000
