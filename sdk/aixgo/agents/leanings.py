"""How much a model leaned to each category when it named one: from the log probabilities of its answer.

Pure arithmetic. Above: `classifier.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from aixgo.llm.contract import Completion, TokenChoice


def leanings(completion: Completion, categories: Sequence[str]) -> Mapping[str, float] | None:
    """The log probability with which the model began to name each category; None when it told none.

    They are read at the one token with which the category's name begins, so categories that begin with the same token
    cannot be told apart. A category that the vendor did not list gets what the least likely listed token has.
    """
    place = _where_named(completion, categories)
    if place is None:
        return None
    token, lead = place
    head = token.text[:lead]
    floor = min(token.likeliest.values())
    found = dict.fromkeys(categories, -math.inf)
    for text, logprob in token.likeliest.items():
        begun = text[lead:].rstrip('"}')
        if begun and text.startswith(head):
            for category in categories:
                if category.startswith(begun):
                    found[category] = _log_add(found[category], logprob)
    return {category: max(value, floor) for category, value in found.items()}


def softmax(values: Mapping[str, float]) -> Mapping[str, float]:
    """Log weights as shares of one."""
    most = max(values.values())
    weights = {name: math.exp(value - most) for name, value in values.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _where_named(completion: Completion, categories: Sequence[str]) -> tuple[TokenChoice, int] | None:
    """The token that begins the category's name, and how many of its characters stand before the name."""
    quoted = [completion.text.rfind(f'"{category}"') for category in categories]
    start = max(quoted) + 1
    at = 0
    for token in completion.tokens:
        if at <= start < at + len(token.text):
            return (token, start - at) if start > 0 and token.likeliest else None
        at += len(token.text)
    return None


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
