"""What LLM calls cost: tokens and USD, and the ledger that sums them up a call tree.

Part of the core. Usage is recorded once, by the metering of the LLM call that spent it (or by the runtime, for a call
that another process answered), and counts for that call and every call above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and USD. Add two with `+`. `cost_usd` is None when no call had a known price."""

    prompt_tokens: int = 0
    """Tokens of the prompts, cached ones included."""
    completion_tokens: int = 0
    """Tokens of the completions, reasoning included."""
    cached_tokens: int = 0
    """Of `prompt_tokens`, those that the vendor read from its cache."""
    reasoning_tokens: int = 0
    """Of `completion_tokens`, those that the model spent on reasoning."""
    llm_calls: int = 0
    """How many LLM calls this sums up."""
    cost_usd: Decimal | None = None
    """USD of the calls whose price is known."""
    unpriced_calls: int = 0
    """How many of `llm_calls` used a model of unknown price; above zero, `cost_usd` is a lower bound."""
    incomplete: bool = False
    """True when some usage could not be learned; all numbers are then lower bounds."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def at_least(self) -> bool:
        """True when the cost is a lower bound."""
        return self.incomplete or self.unpriced_calls > 0

    def __add__(self, other: Usage) -> Usage:
        if other is NO_USAGE:
            return self
        if self is NO_USAGE:
            return other
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.llm_calls + other.llm_calls,
            sum(costs, Decimal()) if costs else None,
            self.unpriced_calls + other.unpriced_calls,
            self.incomplete or other.incomplete,
        )


NO_USAGE = Usage()


class Ledger:
    """What one call has spent so far, the calls below it included."""

    __slots__ = ("above", "usage")

    def __init__(self, above: Ledger | None = None) -> None:
        self.above = above
        self.usage = NO_USAGE

    def record(self, usage: Usage) -> None:
        """Count `usage` for this call and for every call above it in this process."""
        if usage is NO_USAGE or usage == NO_USAGE:
            return
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.usage += usage
            ledger = ledger.above
