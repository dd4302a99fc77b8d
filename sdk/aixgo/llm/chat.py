"""The models of one agent: the first that delivers answers.

Owns the fallback over a list of models. Below: metered providers; above: the agents.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar, cast

from aixgo.errors import ProviderError, ProviderRejected
from aixgo.llm.contract import ELSEWHERE, Chunk, Completion, CompletionRequest, Provider, SchemaT

AnswerT = TypeVar("AnswerT")


class Chat:
    """Models tried in order: after a ProviderError that is not ProviderRejected comes the next one.

    A request that one vendor rejects as it is would be rejected by the others too, unless the error says otherwise, as
    for images that a model cannot see. Requests need no `model`: it is filled in here. The error of the last model is
    the one that is raised.
    """

    def __init__(self, candidates: Sequence[tuple[Provider, str]]) -> None:
        self._candidates = tuple(candidates)

    async def complete(self, request: CompletionRequest) -> Completion:
        """One completion. Raises ProviderError, BudgetExceeded."""
        return await self._first(request, lambda provider, one: provider.complete(one))

    async def complete_structured(
        self, request: CompletionRequest, schema: type[SchemaT]
    ) -> tuple[SchemaT, Completion]:
        """A completion that validates as `schema`. Raises ProviderError, BudgetExceeded."""
        return await self._first(request, lambda provider, one: provider.complete_structured(one, schema))

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """A completion in pieces. Once a piece has come, no other model is tried. Close it with `aclosing`."""
        for at, (provider, model) in enumerate(self._candidates):
            begun = False
            try:
                async with aclosing(cast("Any", provider.stream(replace(request, model=model)))) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
            except ProviderError as error:
                if begun or not self._another(at, error):
                    raise
            else:
                return

    async def _first(
        self, request: CompletionRequest, ask: Callable[[Provider, CompletionRequest], Awaitable[AnswerT]]
    ) -> AnswerT:
        for at, (provider, model) in enumerate(self._candidates):
            try:
                return await ask(provider, replace(request, model=model))
            except ProviderError as error:
                if not self._another(at, error):
                    raise
        raise AssertionError("the last candidate returns or raises")

    def _another(self, at: int, error: ProviderError) -> bool:
        rejected = isinstance(error, ProviderRejected) and not error.fields.get(ELSEWHERE)
        return at + 1 < len(self._candidates) and not rejected
