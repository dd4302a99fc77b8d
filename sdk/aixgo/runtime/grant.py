"""What a call to another process may spend, from the grant to what is known of the spending.

Owns the rule that a budget is never overspent by what cannot be known: an attempt that ends without saying what it has
spent counts as having spent all that it was granted. Its tokens and USD are in the ledger as unsettled. Below it lies
the budget (`aixgo.call`); above it `attempts.py` and the transports, which say how each attempt ended.
"""

from __future__ import annotations

from aixgo.call import Budget, CallState
from aixgo.usage import NO_USAGE, Usage


class Grant:
    """What the attempts of one call are granted of its budget, and the ledger that their usage goes to.

    Each attempt begins with `offer` and ends once, in `settle` or in `lose`; what is said of it after that is ignored.
    Where the call has no budget only the ledger is written.
    """

    # What a call without a budget never changes stands in the class: every call makes one.
    _granted: Budget | None = None
    _out = False
    instance_id = ""
    """The instance that the attempt goes to; another that is asked what it has spent cannot know."""

    def __init__(self, state: CallState) -> None:
        self._ledger = state.ledger
        self._budget = state.budget

    def offer(self, instance_id: str = "") -> Budget | None:
        """Begin an attempt at an instance: what it may spend; None when there is no limit."""
        self._out = True
        self.instance_id = instance_id
        if self._budget is not None:
            self._granted = self._budget.grant()
        return self._granted

    def settle(self, spent: Usage) -> None:
        """The attempt has ended, and has spent this. What it has left goes back to the budget."""
        if not self._out:
            return
        self._out = False
        if spent is not NO_USAGE:
            self._ledger.record(spent)
        if self._granted is not None and self._budget is not None:
            self._budget.repay(self._granted, spent)

    def lose(self) -> None:
        """The attempt has ended, as far as anybody knows, without saying what it has spent."""
        if self._out:
            self.settle(Usage(incomplete=True) if self._granted is None else self._granted.as_unsettled())
