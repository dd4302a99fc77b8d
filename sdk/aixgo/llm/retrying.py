"""Trying again when a vendor does not deliver: the one place where it is done.

Owns the backoff, and the Provider that tries again; `embeddings.py` uses the same. Retries stand above the metering, so
that every try is an LLM call of its own: with its span, its reservation from the budget and its one entry in the
ledger, and what a failed try has cost is counted beside what the next one costs. Below: `metering.py`, `limits.py`;
above: `embeddings.py`, `models.py`.

    tried again                 429, 5xx, 408, no connection, an answer that broke off
    not tried again             what the vendor rejects or denies, the deadline, an answer nobody can use
    a stream                    tried again only before its first chunk
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from aixgo.call import remaining
from aixgo.errors import ProviderError, ProviderTimeout, ProviderUnavailable, RateLimited
from aixgo.llm.contract import Chunk, Completion, CompletionRequest, Provider, SchemaT
from aixgo.llm.limits import DEFAULT_TRIES, Gate
from aixgo.llm.structured import complete_structured

log = logging.getLogger(__name__)

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each new try: "full jitter" (Brooker, Exponential Backoff and Jitter, AWS 2015), or what
    the vendor asks for (Retry-After) and a little jitter on top, so that callers do not come back together.

    `first` and `most` are seconds; a vendor that wants to be left alone for longer than `longest` seconds is not waited
    for. `chance` gives numbers from 0 to 1.
    """

    tries: int = DEFAULT_TRIES
    first: float = 0.5
    most: float = 8.0
    longest: float = 60.0
    chance: Callable[[], float] = random.random

    def wait(self, tried: int, error: ProviderError, left: float | None) -> float | None:
        """Seconds to wait after the try number `tried` ended in `error`; None: do not try again.

        `left` are the seconds until the deadline of the call.
        """
        if tried >= self.tries or not _passes(error):
            return None
        jitter = self.chance()
        if error.retry_after is None:
            wait = jitter * min(self.most, self.first * 2 ** (tried - 1))
        else:
            wait = error.retry_after + jitter * self.first
        return None if wait > self.longest or (left is not None and wait >= left) else wait


Sleep = Callable[[float], Awaitable[object]]


class Tries:
    """Asks one vendor, through its gate, until it delivers or is not worth trying again."""

    def __init__(self, gate: Gate, *, backoff: Backoff | None = None, sleep: Sleep = asyncio.sleep) -> None:
        self.gate = gate
        self._backoff = backoff or Backoff(tries=gate.limits.max_tries)
        self._sleep = sleep

    async def run(self, ask: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """What `ask` gives, in the end. Raises what its last try raised."""
        tried = 0
        while True:
            tried += 1
            try:
                async with self.gate.passed():
                    return await ask()
            except ProviderError as error:
                wait = self.wait(tried, error)
                if wait is None:
                    raise
            await self._sleep(wait)

    async def stream(self, ask: Callable[[], AsyncIterator[Chunk]]) -> AsyncIterator[Chunk]:
        """The chunks of the first stream that begins. The gate is left before the last chunk is given out, so that
        whoever takes its time with it keeps nobody waiting.
        """
        tried, begun = 0, False
        while True:
            tried += 1
            last = None
            try:
                async with self.gate.passed(), aclosing(cast("Any", ask())) as chunks:
                    async for chunk in chunks:
                        begun = True
                        if chunk.completion is not None:
                            last = chunk
                        else:
                            yield chunk
            except ProviderError as error:
                wait = None if begun else self.wait(tried, error)
                if wait is None:
                    raise
            else:
                if last is not None:
                    yield last
                return
            await self._sleep(wait)

    def wait(self, tried: int, error: ProviderError) -> float | None:
        """Seconds to wait before the next try; None when there is to be none."""
        wait = self._backoff.wait(tried, error, remaining())
        if wait is not None:
            log.info("%s; trying again in %.1f s (try %d failed)", error.message, wait, tried)
        return wait


class Retrying:
    """A Provider that tries again."""

    def __init__(self, provider: Provider, tries: Tries) -> None:
        self.vendor = provider.vendor
        self._provider = provider
        self._tries = tries

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion. Raises what the last try raised: ProviderError, BudgetExceeded."""
        return await self._tries.run(lambda: self._provider.complete(request))

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces. Once the first has come, nothing is tried again."""
        async with aclosing(cast("Any", self._tries.stream(lambda: self._provider.stream(request)))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def complete_structured(
        self, request: CompletionRequest, schema: type[SchemaT]
    ) -> tuple[SchemaT, Completion]:
        """A completion that validates as `schema`; the first request and every repair may be tried again."""
        return await complete_structured(self.complete, request, schema)

    async def close(self) -> None:
        """Close the provider."""
        await self._provider.close()


def _passes(error: ProviderError) -> bool:
    """Whether an error is of the kind that passes. A timeout is, if the vendor said so rather than the deadline."""
    if error.fields.get("final"):
        return False
    if isinstance(error, ProviderTimeout):
        return "status" in error.fields
    return isinstance(error, (RateLimited, ProviderUnavailable))
