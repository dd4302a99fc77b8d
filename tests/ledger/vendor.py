"""A vendor of language models that writes down what it bills: the other side of every ledger under test.

Owns the form of the bill, a file that each process of a fleet appends to, one line for each LLM call: what it cost, and
what its caller can know of that. What a request does stands in its `extra`, so a tree says beforehand what each of its
calls will take. Above: `cast.py`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from aixgo import Usage
from aixgo.errors import ProviderUnavailable, RateLimited
from aixgo.llm.contract import Chunk, Completion, CompletionRequest
from aixgo.llm.metering import estimate_prompt, estimate_tokens
from aixgo.llm.price import Price

PRICES = {
    "shop/cheap": Price(Decimal("0.001"), Decimal("0.002")),
    "shop/dear": Price(Decimal("0.03"), Decimal("0.06"), Decimal("0.0037"), Decimal("0.0375")),
}
"""The third model, `shop/secret`, has no price."""
PIECE = "abcd"
"""A streamed piece, estimated at one token."""


class Vendor:
    """Answers, refuses, fails or hangs as the request says, and bills for it.

    A call that is broken off is billed for something between what has come of it and all that it asked for.
    """

    vendor = "shop"

    async def complete(self, request: CompletionRequest) -> Completion:
        try:
            return await self._answer(request)
        except asyncio.CancelledError:
            self._bill(request, broken_off(request, told=0), seen(request, told=0))
            raise

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        told = 0
        try:
            for _ in range(pieces(request)):
                await asyncio.sleep(0)
                told += 1
                yield Chunk(PIECE)
            completion = await self._answer(request)
        except (asyncio.CancelledError, GeneratorExit):
            self._bill(request, broken_off(request, told), seen(request, told))
            raise
        yield Chunk(completion=completion)

    async def close(self) -> None: ...

    async def _answer(self, request: CompletionRequest) -> Completion:
        does = request.extra["does"]
        if does == "hang":
            await asyncio.Event().wait()
        spent = taken(request)
        if does == "refuse":
            self._bill(request, Usage())
            raise RateLimited("later")
        self._bill(request, spent)
        if does == "fail":
            failed = ProviderUnavailable("gone")
            failed.usage = spent
            raise failed
        return Completion(PIECE, request.model, spent)

    def _bill(self, request: CompletionRequest, spent: Usage, known: Usage | None = None) -> None:
        line = json.dumps([request.extra["tree"], request.model, asdict(spent), asdict(known or spent)], default=str)
        with Path(request.extra["bill"]).open("a") as file:
            file.write(f"{line}\n")


def pieces(request: CompletionRequest) -> int:
    """How many pieces a stream has; no more than tokens were asked for, and none when the call is refused."""
    return 0 if request.extra["does"] == "refuse" else min(request.extra["pieces"], request.max_tokens)


def taken(request: CompletionRequest) -> Usage:
    """What a call takes that comes to its end: never more than was asked for."""
    asked: dict[str, int] = request.extra["takes"]
    prompt = estimate_prompt(request)
    read = prompt * asked["cached"] // 100
    completion = min(asked["completion"], request.max_tokens)
    return Usage(
        prompt,
        completion,
        cached_tokens=read,
        cache_write_tokens=(prompt - read) * asked["written"] // 100,
        reasoning_tokens=completion // 2,
    )


def broken_off(request: CompletionRequest, told: int) -> Usage:
    """What is billed for a call that is broken off after so many pieces: sometimes nothing, sometimes all of it."""
    if not told and not request.extra["takes"]["completion"] % 3:
        return Usage()
    all_of_it = taken(request)
    return replace(all_of_it, completion_tokens=max(all_of_it.completion_tokens, told), reasoning_tokens=0)


def seen(request: CompletionRequest, told: int) -> Usage:
    """What the caller of such a call can know: what has come, and what may have been taken beyond it."""
    prompt, price = estimate_prompt(request), PRICES.get(f"shop/{request.model}")
    known = Usage(prompt, estimate_tokens(PIECE * told)) if told else Usage()
    least = price.of(replace(known, cached_tokens=known.prompt_tokens)) if price else None
    return replace(
        known,
        incomplete=True,
        cost_usd=least,
        unsettled_tokens=prompt + request.max_tokens - known.total_tokens,
        unsettled_usd=price.most(prompt, request.max_tokens) - least if price and least is not None else Decimal(),
    )


def billed(bill: Path, tree: str) -> tuple[Usage, Usage]:
    """All that was billed for a tree, and what of that its caller can know."""
    total, known = Usage(), Usage()
    for line in bill.read_text().splitlines() if bill.exists() else ():
        whose, model, spent, told = json.loads(line)
        if whose == tree:
            total += _priced(model, spent)
            known += _priced(model, told)
    return total, known


def _priced(model: str, spent: dict[str, Any]) -> Usage:
    usage = Usage(**{name: count for name, count in spent.items() if name.endswith("_tokens")})
    usage = replace(usage, incomplete=spent["incomplete"], unsettled_usd=Decimal(spent["unsettled_usd"]))
    price, said = PRICES.get(f"shop/{model}"), spent["cost_usd"]
    cost = Decimal() if usage == Usage() else None if price is None else Decimal(said) if said else price.of(usage)
    return replace(usage, llm_calls=1, cost_usd=cost, unpriced_calls=int(cost is None))
