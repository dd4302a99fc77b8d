"""What a model's tokens cost.

Owns the record of a price and the order in which one is looked up: the user's prices (`pricing:` in YAML), models that
cost nothing because they run here, the library genai-prices (`known_prices.py`), then the table below. An unknown model
costs None, never zero: guessing would turn a bill into a lie.

The table has all 14 rows of the architecture document. With the library (0.2.3) at hand it decides about three names:

    grok-beta, deepseek-coder       withdrawn by their vendors, and not in the library: the table's prices
    deepseek-chat                   the library has what DeepSeek asks today, which depends on the time of day and is
                                    more than the table's 0.00014 and 0.00028; the library wins
    gemini-1.5-pro, -1.5-flash      the same up to 128,000 tokens of prompt; above, the library has the dearer rate
    claude-3-*                      the same; the library knows what cached tokens cost as well
    the others                      the same

The library knows prices for web searches, images and audio as well; they are not tokens of text, and not counted here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType

from aixgo.llm.known_prices import KnownPrices
from aixgo.llm.price import Price

log = logging.getLogger(__name__)

FREE_VENDORS = frozenset({"local", "test", "ollama"})
"""Vendors whose models run on the user's own machines."""
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


def utc_now() -> datetime:
    """The time that prices are looked up for where none is passed in."""
    return datetime.now(UTC)


class Prices:
    """The prices of one configuration. `own` are the user's, by `model` or `vendor/model`, and win.

    Prices change with the date and, at some vendors, with the time of day: `now` says what it is.
    """

    def __init__(self, own: Mapping[str, Price] | None = None, *, now: Callable[[], datetime] = utc_now) -> None:
        self._own = dict(own or {})
        self._known = KnownPrices(now)
        self._warned: set[str] = set()

    def find(self, vendor: str, model: str) -> Price | None:
        """The price of a model, or None with one warning for each model.

        The first look-up that comes to the library imports it, which takes most of a second: on an event loop, use
        `look_up`.
        """
        found = self._at_hand(vendor, model)
        if found is None:
            found = self._known.find(vendor, model) or DEFAULT_PRICES.get(model)
        if found is None:
            self._warn(f"{vendor}/{model}")
        return found

    async def look_up(self, vendor: str, model: str) -> Price | None:
        """The same without holding up the event loop."""
        found = self._at_hand(vendor, model)
        if found is None and self._known.covers(vendor):
            await self.load()
        return self.find(vendor, model) if found is None else found

    async def load(self) -> None:
        """Import the library off the event loop, so that `find` does not hold it up."""
        if self._known.must_load:
            await asyncio.to_thread(self._known.load)

    def _at_hand(self, vendor: str, model: str) -> Price | None:
        found = self._own.get(f"{vendor}/{model}") or self._own.get(model)
        return FREE if found is None and vendor in FREE_VENDORS else found

    def _warn(self, name: str) -> None:
        if name in self._warned:
            return
        self._warned.add(name)
        more = "" if self._known.available else ", or install aixgo[prices] with a list of known ones"
        log.warning("the price of %s is not known, so its cost is left out; add it under `pricing:`%s", name, more)
