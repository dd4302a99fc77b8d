"""What LLM calls cost: tokens and USD, and the ledger that sums them up a call tree.

Amounts of USD are decimals from the price to the sum: nothing here is rounded, and no float takes part.

Part of the core. Usage is recorded once, by the metering of the LLM call that spent it (or by the runtime, for a call
that another process answered), and counts for that call and every call above it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Protocol


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
    cache_write_tokens: int = 0
    """Of `prompt_tokens`, those that the vendor wrote into its cache; none of them is among `cached_tokens`."""
    unsettled_tokens: int = 0
    """Tokens of LLM calls that were broken off, and of grants whose callee did not say what it spent: at most so many
    were spent on top."""
    unsettled_usd: Decimal = Decimal()
    """The same in USD. `incomplete` is True wherever a call did not say what it spent, without a budget too."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def held_tokens(self) -> int:
        """What counts against a budget of tokens: what was spent, and what may have been."""
        return self.total_tokens + self.unsettled_tokens

    @property
    def held_usd(self) -> Decimal:
        """What counts against a budget in USD. Calls of unknown price count nothing."""
        return (self.cost_usd or Decimal()) + self.unsettled_usd

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
            self.cache_write_tokens + other.cache_write_tokens,
            self.unsettled_tokens + other.unsettled_tokens,
            self.unsettled_usd + other.unsettled_usd,
        )


NO_USAGE = Usage()
_NOBODY: Mapping[str, Usage] = MappingProxyType({})


class Spending(Protocol):
    """An LLM call that is out, whose usage is not known yet."""

    def write_off(self) -> None:
        """Record what it may take as unsettled: the work that it is for was left behind."""
        ...


_NOTHING: frozenset[Spending] = frozenset()


class Ledger:
    """What one call has spent so far, the calls below it included. `name` is the agent that was called.

    `by_agent` is `usage` by who spent it: agents of this process by what their own LLM calls took, those of other
    processes by what they and all below them took. `out` are the LLM calls, those below it included, whose usage is not
    known yet.
    """

    __slots__ = ("above", "by_agent", "name", "out", "usage")

    def __init__(self, above: Ledger | None = None, name: str = "") -> None:
        self.above = above
        self.name = name
        self.usage = NO_USAGE
        self.by_agent: Mapping[str, Usage] = _NOBODY  # shared, for every call has a ledger and most spend nothing
        self.out: frozenset[Spending] = _NOTHING

    def record(self, usage: Usage) -> None:
        """Count `usage` for this call and for every call above it in this process."""
        if usage is NO_USAGE or usage == NO_USAGE:
            return
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.usage += usage
            ledger.by_agent = {**ledger.by_agent, self.name: ledger.by_agent.get(self.name, NO_USAGE) + usage}
            ledger = ledger.above

    def begun(self, spending: Spending) -> None:
        """An LLM call of this call begins."""
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.out |= {spending}
            ledger = ledger.above

    def ended(self, spending: Spending) -> None:
        """It has ended, or was written off."""
        ledger: Ledger | None = self
        while ledger is not None:
            ledger.out -= {spending}
            ledger = ledger.above

    def write_off(self) -> None:
        """Nobody waits for this call any longer, and it goes on: what it spends from now on is not known."""
        self.record(Usage(incomplete=True))
        for spending in self.out:
            spending.write_off()
