"""What a framework reports of its own LLM calls, written into the ledger of the aixgo call that they belong to.

Models that a framework calls by itself are not metered, so each adapter records what the framework says, once for each
LLM call. Above: one file for each framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from aixgo.call import Budget, current
from aixgo.errors import (
    BudgetExceeded,
    ProviderDenied,
    ProviderError,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
)
from aixgo.llm.metering import MIN_COMPLETION
from aixgo.llm.pricing import Prices
from aixgo.usage import Usage

_OUR_VENDORS: Mapping[str, str] = {
    "google": "gemini",
    "google-cloud": "gemini",
    "google-gla": "gemini",
    "google-vertex": "gemini",
    "google_genai": "gemini",
    "x-ai": "xai",
    "grok": "xai",
}
"""Names of vendors elsewhere -> the name before the slash here."""
_CUT = 500
_BY_STATUS: Mapping[int, type[ProviderError]] = {
    401: ProviderDenied,
    403: ProviderDenied,
    408: ProviderTimeout,
    429: RateLimited,
    504: ProviderTimeout,
}


@dataclass(frozen=True, slots=True)
class Model:
    """Who answered an LLM call, as the framework calls vendor and model."""

    vendor: str
    name: str


class Account:
    """The ledger and the budget of the call that this is made in. Outside of any call nothing is counted."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._state = current()

    def check(self) -> None:
        """Raise BudgetExceeded when too little is left for any completion."""
        tokens, usd = (None, None) if self._state is None or self._state.budget is None else self._state.budget.left()
        if tokens is not None and tokens < MIN_COMPLETION:
            raise BudgetExceeded(f"{tokens} tokens are left of the budget; raise max_tokens, or ask for less")
        if usd is not None and usd <= 0:
            raise BudgetExceeded(f"{usd} USD are left of the budget; raise max_cost_usd, or ask for less")

    @property
    def tokens_left(self) -> int | None:
        """Tokens that the call may still spend; None without a limit."""
        return None if self._state is None or self._state.budget is None else self._state.budget.left()[0]

    def record(self, model: Model | None, tokens: Usage) -> None:
        """Count what LLM calls took: one call, unless `tokens` says otherwise. Without a model the price is unknown."""
        if self._state is None:
            return
        calls = tokens.llm_calls or 1
        price = None if model is None else self._prices.find(_OUR_VENDORS.get(model.vendor, model.vendor), model.name)
        nothing = not tokens.total_tokens and not tokens.incomplete
        cost = Decimal() if nothing else None if price is None else price.of(tokens)
        usage = replace(tokens, llm_calls=calls, cost_usd=cost, unpriced_calls=calls if cost is None else 0)
        self._state.ledger.record(usage)
        if self._state.budget is not None:
            self._state.budget.repay(Budget(0, Decimal()), usage)  # nothing was reserved


def vendor_error(status: int | None, text: str, retry_after: float | None = None) -> ProviderError:
    """The typed error of a vendor's HTTP status; without one, of a vendor that was not reached."""
    text = text[:_CUT]
    if status in (401, 403):  # the vendor's text may show a part of the key
        text = f"the model's vendor answered {status}: its key is missing, wrong, or lacks the right"
    if status is None or (status >= 500 and status not in _BY_STATUS):
        return ProviderUnavailable(text, retry_after=retry_after)
    return _BY_STATUS.get(status, ProviderRejected)(text, retry_after=retry_after)
