"""Metering: every LLM call gets a span, is held to the budget, and is written into the ledger exactly once.

Owns Metered, which makes a Provider of any vendor's Client, and the Account that embeddings are counted by too
(`embeddings.py`). Usage is recorded for the call (`aixgo.call.current`) that was running when the LLM call began, also
when it fails or is cancelled, with what is then known:

    answered                    what the vendor reports; without a report an estimate, marked incomplete
    refused, rate limited       one call, no tokens
    broken off                  what came until then, estimated, marked incomplete; all that it may have taken beyond
                                that is unsettled, up to `max_tokens`, and its prompt where nothing came

Broken off is what was cancelled, what timed out, what lost its connection once the request was sent, what failed after
a part of the answer had come, and what failed with a usage that is itself incomplete: the vendor may charge for what it
did, and nobody hears of it. A sum is then a lower bound, and together with what is unsettled an upper one.

Before a call, its prompt (estimated) and `max_tokens` are reserved from the budget, and what is unsettled stays taken.
When less than `max_tokens` is left for the completion, but MIN_COMPLETION at least, `max_tokens` is lowered to what is
left; below that the call is refused with BudgetExceeded and nothing is sent. A budget in USD can only hold models whose
price is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from time import perf_counter
from typing import Any, cast

from aixgo.call import Budget, CallState, current
from aixgo.errors import InternalError, ProviderError, ProviderTimeout
from aixgo.llm.contract import Chunk, Client, Completion, CompletionRequest, SchemaT
from aixgo.llm.price import Price
from aixgo.llm.pricing import Prices
from aixgo.llm.provider_names import provider_name
from aixgo.llm.structured import complete_structured
from aixgo.message import to_json
from aixgo.telemetry.llm import answered, asked, operation
from aixgo.telemetry.spans import Span
from aixgo.usage import NO_USAGE, Usage

MIN_COMPLETION = 16
"""Tokens below which a completion is not worth asking for when the budget runs out."""
_BYTES_PER_TOKEN = 4
_TOKENS_PER_TURN = 4
_TOKENS_PER_IMAGE = 1600
"""Anthropic's figure for a picture of the largest size that it does not scale down; others count less, or the same."""
_HTTP = ("httpx", "httpx2")
"""The libraries under the vendors' SDKs. Their errors are told apart by name: they have no base in common, and neither
is imported here."""
_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol")
"""Their errors by which a request never left."""


class Metered:
    """A Provider around a vendor's Client."""

    def __init__(self, client: Client, prices: Prices) -> None:
        self.vendor = client.vendor
        self._client = client
        self._prices = prices

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion; its usage is counted and priced. Raises BudgetExceeded, ProviderError."""
        meter = await self._meter(request)
        with operation(f"chat {request.model}", self._attributes(meter.request)) as live:
            asked(live, request.messages)
            try:
                return meter.settle(await self._client.complete(meter.request), live)
            except BaseException as error:
                meter.fail(error, live)
                raise

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces; leaving the iteration early counts what came until then."""
        meter = await self._meter(request)
        with operation(f"chat {request.model}", self._attributes(meter.request), attach=False) as live:
            asked(live, request.messages)
            try:
                async with aclosing(cast("Any", self._client.stream(meter.request))) as chunks:
                    async for chunk in chunks:
                        yield meter.take(chunk, live)
                meter.check_settled(self.vendor)
            except BaseException as error:
                meter.fail(error, live)
                raise

    async def complete_structured(
        self, request: CompletionRequest, schema: type[SchemaT]
    ) -> tuple[SchemaT, Completion]:
        """A completion that validates as `schema`. Every repair is a metered LLM call of its own."""
        return await complete_structured(self.complete, request, schema)

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()

    async def _meter(self, request: CompletionRequest) -> _Meter:
        return _Meter.begin(request, Account(await self._prices.look_up(self.vendor, request.model)))

    def _attributes(self, request: CompletionRequest) -> Mapping[str, Any]:
        state = current()
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider_name(self.vendor),
            "gen_ai.request.model": request.model,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "gen_ai.agent.name": state.path[-1] if state and state.path else None,
            "gen_ai.conversation.id": (state.session_id or None) if state else None,
        }


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, before any vendor has counted them: one for each four bytes."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def estimate_prompt(request: CompletionRequest) -> int:
    """About how many tokens a request's prompt has, its pictures, tools and schema included."""
    turns = sum(
        estimate_tokens(turn.content) + _TOKENS_PER_TURN + _TOKENS_PER_IMAGE * len(turn.images)
        for turn in request.messages
    )
    offers = [dict(offer.parameters) | {"": offer.name + offer.description} for offer in request.tools]
    return turns + (estimate_tokens(to_json([offers, request.schema]).decode()) if offers or request.schema else 0)


@dataclass(slots=True, eq=False)
class Account:
    """The accounting of one call of a vendor, from its reservation to its one entry in the ledger.

    It belongs to the call (`aixgo.call.current`) that ran when it was opened. `price` None is an unknown one.
    """

    price: Price | None
    state: CallState | None = field(default_factory=current)
    reserved: Budget | None = None
    settled: bool = False
    written_off: Usage = NO_USAGE

    @property
    def budget(self) -> Budget | None:
        """What the call may still spend; None when nothing bounds it."""
        return self.state.budget if self.state else None

    def reserve(self, most: Usage) -> None:
        """Take what the call may need out of the budget; raises BudgetExceeded."""
        if self.budget is not None:
            usd = self.price.most(most.prompt_tokens, most.completion_tokens) if self.price else None
            self.reserved = self.budget.reserve(most.total_tokens, usd)
            if self.state is not None:
                self.state.ledger.begun(self)

    def write_off(self) -> None:
        """See Spending. Should the call end after all, `record` takes back what this counts."""
        if self.state is not None and self.reserved is not None:
            self.written_off = self.reserved.as_unsettled()
            self.state.ledger.ended(self)
            self.state.ledger.record(self.written_off)

    def at_most(self, known: Usage, prompt: int, completion: int, *, cached: int = 0) -> Usage:
        """`known` of a call that was broken off, priced at the least; what it may have taken beyond is unsettled.

        `prompt` and `completion` are the most that it can have taken; a prompt that is known is not estimated. `cached`
        are the tokens of a known prompt that the vendor may have had in its cache, without having said so.
        """
        most = Usage(known.prompt_tokens or prompt, max(completion, known.completion_tokens))
        least = dearest = None
        if self.price is not None:
            least = self.price.of(replace(known, cached_tokens=max(known.cached_tokens, cached)))
            dearest = self.price.most(most.prompt_tokens, most.completion_tokens)
        return replace(
            known,
            incomplete=True,
            cost_usd=least,
            unsettled_tokens=most.total_tokens - known.total_tokens,
            unsettled_usd=max((dearest or Decimal()) - (least or Decimal()), Decimal()),
        )

    def record(self, usage: Usage, live: Span, *, priced: bool = False) -> Usage:
        """Price the tokens of one call, write them into the ledger and onto the span, and settle the reservation.

        `priced` says that `usage` has its price, as that of `at_most` does.
        """
        cost = usage.cost_usd
        if not priced:
            cost = Decimal() if usage == NO_USAGE else self.price.of(usage) if self.price else None
        usage = replace(usage, llm_calls=1, cost_usd=cost, unpriced_calls=int(cost is None))
        self.settled = True
        if self.state is not None:
            self.state.ledger.ended(self)
            self.state.ledger.record(_instead_of(self.written_off, usage))
            if self.reserved is not None and self.state.budget is not None:
                self.state.budget.repay(self.reserved, usage)
        _describe(usage, live)
        return usage


@dataclass(slots=True)
class _Meter:
    """One LLM call: what was asked and received of it, and its account."""

    request: CompletionRequest
    account: Account
    received: list[str] = field(default_factory=list[str])
    begun: float = field(default_factory=perf_counter)
    speaks: bool = False

    @classmethod
    def begin(cls, request: CompletionRequest, account: Account) -> _Meter:
        budget = account.budget
        if budget is None:
            return cls(request, account)
        prompt = estimate_prompt(request)
        request = replace(request, max_tokens=_affordable(request.max_tokens, prompt, budget, account.price))
        account.reserve(Usage(prompt_tokens=prompt, completion_tokens=request.max_tokens))
        return cls(request, account)

    def take(self, chunk: Chunk, live: Span) -> Chunk:
        if chunk.text and not self.speaks:
            self.speaks = True
            live.set("gen_ai.response.time_to_first_chunk", perf_counter() - self.begun)
        self.received.append(chunk.text)
        return chunk if chunk.completion is None else replace(chunk, completion=self.settle(chunk.completion, live))

    def check_settled(self, vendor: str) -> None:
        if not self.account.settled:
            raise InternalError(f"the client of {vendor!r} ended a stream without its completion")

    def settle(self, completion: Completion, live: Span) -> Completion:
        usage = completion.usage
        if usage == NO_USAGE:
            usage = self._estimated(completion.text)
        usage = self.account.record(usage, live)
        live.set("gen_ai.response.model", completion.model)
        live.set("gen_ai.response.finish_reasons", [completion.stop_reason])
        answered(live, completion.text, completion.tool_uses)
        return replace(completion, usage=usage)

    def fail(self, error: BaseException, live: Span) -> None:
        if self.account.settled:
            return
        known = error.usage if isinstance(error, ProviderError) else NO_USAGE
        told = known != NO_USAGE and not known.incomplete
        if told or not (known.incomplete or broken_off(error) or self.received):
            self.account.record(known, live)
        else:
            self.account.record(self._at_most(known), live, priced=True)

    def _at_most(self, known: Usage) -> Usage:
        """What a call has taken that was broken off, of which this is known."""
        cached = 0
        if known.total_tokens == 0 and self.received:
            known = self._estimated("".join(self.received))
            cached = known.prompt_tokens
        return self.account.at_most(known, estimate_prompt(self.request), self.request.max_tokens, cached=cached)

    def _estimated(self, text: str) -> Usage:
        return Usage(
            prompt_tokens=estimate_prompt(self.request), completion_tokens=estimate_tokens(text), incomplete=True
        )


def broken_off(error: BaseException) -> bool:
    """Whether a call ended while the vendor was at work on it, which may then charge for it."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return True
    lost = _connection_error(error)
    return lost not in _UNSENT if lost else isinstance(error, ProviderTimeout)


def _instead_of(written_off: Usage, usage: Usage) -> Usage:
    """`usage` as an entry of a ledger that already counts `written_off` for the same call."""
    return replace(
        usage,
        unsettled_tokens=usage.unsettled_tokens - written_off.unsettled_tokens,
        unsettled_usd=usage.unsettled_usd - written_off.unsettled_usd,
    )


def _connection_error(error: BaseException) -> str:
    """The class of the HTTP library's error that a ProviderError was raised for; "" when there was none."""
    cause = error.__cause__
    while cause is not None:
        if type(cause).__module__.partition(".")[0] in _HTTP:
            return type(cause).__name__
        cause = cause.__cause__
    return ""


def _affordable(wanted: int, prompt: int, budget: Budget, price: Price | None) -> int:
    """How long the completion may be: `wanted`, or what the budget leaves when that is still of use."""
    tokens, usd = budget.left()
    bounds = [wanted] if tokens is None else [wanted, tokens - prompt]
    paid = None if usd is None or price is None else price.affordable(prompt, usd)
    most = min(bounds if paid is None else [*bounds, paid])
    return most if most >= min(wanted, MIN_COMPLETION) else wanted


def _describe(usage: Usage, live: Span) -> None:
    live.set("gen_ai.usage.input_tokens", usage.prompt_tokens)
    live.set("gen_ai.usage.output_tokens", usage.completion_tokens)
    live.set("gen_ai.usage.cache_read.input_tokens", usage.cached_tokens or None)
    live.set("gen_ai.usage.cache_creation.input_tokens", usage.cache_write_tokens or None)
    live.set("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens or None)
    live.set("tokens.prompt", usage.prompt_tokens)
    live.set("tokens.completion", usage.completion_tokens)
    live.set("tokens.total", usage.total_tokens)
    live.set("tokens.unsettled", usage.unsettled_tokens or None)
    live.set("cost.usd", None if usage.cost_usd is None else float(usage.cost_usd))
    live.set("cost.unsettled_usd", float(usage.unsettled_usd) or None)
