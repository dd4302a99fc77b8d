"""What a call inherits from its caller, held in one context variable.

Owns the ambient call state (deadline, depth, path, session, ledger, budget) and the budget's arithmetic. Part of the
core: no I/O. The runtimes enter a call by making its state from the caller's (`CallState.child`) and running the agent
inside `entered`; agents read it through `current`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from typing import TypeVar

from aixgo.errors import BudgetExceeded, DepthExceeded
from aixgo.usage import Ledger, Usage

NumberT = TypeVar("NumberT", int, Decimal)

DEFAULT_TIMEOUT = 300.0
"""Seconds a call tree may take when nobody says otherwise."""
MAX_DEPTH = 10
"""Call entries from the root of a tree down."""
KEPT_SHARE = 4
"""Of what is left, one part in so many stays behind when a call to another process is granted the rest."""
KEPT_TOKENS, KEPT_USD = 4096, Decimal("0.01")
"""Parts below which nothing is kept: they would not pay for much, and a small budget would be smaller elsewhere."""
_USD_STEP = Decimal("1e-12")
"""USD that is divided is cut to this step, so that shares never add up to more than there is."""


class Budget:
    """The tokens and USD that a call tree may still spend. None means no limit.

    An LLM call reserves what it may need before it starts and settles for what it took after, so the calls under one
    budget cannot overspend together. `lend` splits off a share for a call that runs at the same time, `grant` a part
    for one that runs in another process; `reclaim` and `repay` take back what they left over.
    """

    __slots__ = ("above", "tokens", "usd")

    def __init__(self, tokens: int | None = None, usd: Decimal | None = None, above: Budget | None = None) -> None:
        self.tokens = tokens
        self.usd = usd
        self.above = above

    def left(self) -> tuple[int | None, Decimal | None]:
        """Tokens and USD that may still be reserved, the budgets above considered."""
        if self.above is None:
            return self.tokens, self.usd
        tokens, usd = self.above.left()
        return _least(self.tokens, tokens), _least(self.usd, usd)

    def reserve(self, tokens: int, usd: Decimal | None = None) -> Budget:
        """Take `tokens` and `usd` out until `repay`; raises BudgetExceeded, taking nothing, when less is left."""
        left_tokens, left_usd = self.left()
        if left_tokens is not None and tokens > left_tokens:
            raise BudgetExceeded(
                f"{tokens} tokens are needed and {left_tokens} are left of the budget;"
                " raise max_tokens, or ask for less",
                fields={"needed_tokens": tokens, "left_tokens": left_tokens},
            )
        if left_usd is not None and usd is not None and usd > left_usd:
            raise BudgetExceeded(
                f"{usd} USD may be needed and {left_usd} USD are left of the budget;"
                " raise max_cost_usd, or ask for less",
                fields={"needed_usd": str(usd), "left_usd": str(left_usd)},
            )
        self._take(tokens, usd or Decimal())
        return Budget(tokens, usd)

    def lend(self, share: int = 1) -> Budget:
        """Split off one of `share` equal parts of what is left, for a call whose spending is known when it ends."""
        tokens, usd = self.left()
        return self._split_off(
            None if tokens is None else tokens // share, None if usd is None else _divided(usd, share)
        )

    def grant(self) -> Budget:
        """Split off what a call to another process may spend: all that is left, but for a part in KEPT_SHARE.

        When that process dies, all that it was granted has to be counted as spent. What is kept lets the caller go on
        after that, and pays for calls that it makes at the same time.
        """
        tokens, usd = self.left()
        if tokens is not None and tokens // KEPT_SHARE >= KEPT_TOKENS:
            tokens -= tokens // KEPT_SHARE
        if usd is not None and usd / KEPT_SHARE >= KEPT_USD:
            usd -= _divided(usd, KEPT_SHARE)
        return self._split_off(tokens, usd)

    def repay(self, lent: Budget, spent: Usage) -> None:
        """Give back a reservation or a lent part, less what was spent or may have been."""
        self._take(spent.held_tokens - (lent.tokens or 0), spent.held_usd - (lent.usd or Decimal()))

    def reclaim(self, lent: Budget) -> None:
        """Take back what a lent part has left, and close it: who still holds it can reserve nothing more."""
        self._take(-(lent.tokens or 0), -(lent.usd or Decimal()))
        lent.close()

    def close(self) -> None:
        """Leave nothing to spend, where there is a limit."""
        self.tokens = None if self.tokens is None else 0
        self.usd = None if self.usd is None else Decimal()

    def less(self, spent: Usage) -> Budget:
        """What is left of this when `spent` is taken out, at least 0."""
        return Budget(
            None if self.tokens is None else max(0, self.tokens - spent.held_tokens),
            None if self.usd is None else max(Decimal(), self.usd - spent.held_usd),
        )

    def as_unsettled(self) -> Usage:
        """The usage of a call that may have spent all of this, and did not say what it spent."""
        return Usage(incomplete=True, unsettled_tokens=self.tokens or 0, unsettled_usd=self.usd or Decimal())

    def _split_off(self, tokens: int | None, usd: Decimal | None) -> Budget:
        self._take(tokens or 0, usd or Decimal())
        return Budget(tokens, usd)

    def _take(self, tokens: int, usd: Decimal) -> None:
        budget: Budget | None = self
        while budget is not None:
            if budget.tokens is not None:
                budget.tokens -= tokens
            if budget.usd is not None:
                budget.usd -= usd
            budget = budget.above


@dataclass(slots=True)
class CallState:
    """The state of one call entry. `deadline` is in seconds of the event loop's clock."""

    deadline: float
    depth: int
    path: tuple[str, ...]
    session_id: str
    ledger: Ledger
    budget: Budget | None = None
    instance_id: str = ""
    """The instance that the call went to, once it is known; empty for one in this process."""

    def child(self, name: str) -> CallState:
        """The state of a call to `name` made from here: same deadline, session and budget, one level deeper."""
        return CallState(
            self.deadline, self.depth + 1, (*self.path, name), self.session_id, Ledger(self.ledger, name), self.budget
        )

    def check_depth(self, limit: int) -> None:
        """Raise DepthExceeded when this entry is deeper than `limit`."""
        if self.depth > limit:
            error = DepthExceeded(
                f"{self.depth} calls inside one another, and {limit} are allowed: {' > '.join(self.path)};"
                " break the circle, or raise max_depth",
                fields={"limit": limit},
            )
            error.agent_path = self.path
            raise error


_STATE: ContextVar[CallState | None] = ContextVar("aixgo_call", default=None)
_REACTIVE: ContextVar[str] = ContextVar("aixgo_reactive", default="")


current = _STATE.get
"""The call that this code runs in, a CallState; None outside of any. The variable's own: each call asks for it."""


def root(timeout: float = DEFAULT_TIMEOUT, session_id: str = "") -> CallState:
    """The state above a new call tree, which may take `timeout` seconds from now."""
    deadline = asyncio.get_running_loop().time() + timeout
    return CallState(deadline, 0, (), session_id, Ledger())


def root_entry(name: str, timeout: float, session_id: str) -> CallState:
    """The state of a call to `name` that begins a tree: `root(...).child(name)`, made at once."""
    return first_entry(name, asyncio.get_running_loop().time() + timeout, session_id)


def first_entry(name: str, deadline: float, session_id: str) -> CallState:
    """`root_entry` for who knows the time: `deadline` is in seconds of the event loop's clock."""
    return CallState(deadline, 1, (name,), session_id, Ledger(None, name))


def remaining() -> float | None:
    """Seconds until the deadline of the current call, at least 0; None outside of any call."""
    state = _STATE.get()
    return None if state is None else max(0.0, state.deadline - asyncio.get_running_loop().time())


@contextmanager
def entered(state: CallState | None) -> Generator[None]:
    """Make `state` the current call inside the `with` block."""
    token = _STATE.set(state)
    try:
        yield
    finally:
        _STATE.reset(token)


enter = _STATE.set
"""Make a CallState the current call until `leave`: what `entered` does, without a context manager's cost."""
leave = _STATE.reset
"""Undo `enter`, whose result it takes."""


def set_state(state: CallState | None) -> None:
    """Make `state` the current call of this task, for good: for tasks that serve exactly one call."""
    _STATE.set(state)


def reactive_agent() -> str:
    """The agent whose `start` this code runs in; "" outside of any."""
    return _REACTIVE.get()


def current_path() -> tuple[str, ...]:
    """The agents from the root of the call tree down to this code; of a `start`, its agent; else empty."""
    state = _STATE.get()
    if state is not None:
        return state.path
    name = _REACTIVE.get()
    return (name,) if name else ()


def set_reactive_agent(name: str) -> None:
    """Say whose `start` this task runs, for good."""
    _REACTIVE.set(name)


def _least(a: NumberT | None, b: NumberT | None) -> NumberT | None:
    return a if b is None else b if a is None else min(a, b)


def _divided(usd: Decimal, parts: int) -> Decimal:
    return usd if parts == 1 else (usd / parts).quantize(_USD_STEP, ROUND_FLOOR)
