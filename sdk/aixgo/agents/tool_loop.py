"""One model, asked again and again until it answers without asking for tools.

Owns the loop: which turns are added, when it stops, and the final answer by a schema. Below: `tool_calls.py`, which
runs the tools, and `turns.py`. Above: `react.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias, cast

from aixgo.agents.tool_calls import ToolRunner, Used
from aixgo.agents.turns import handed_over, structured
from aixgo.errors import InvalidCompletion
from aixgo.events import Delta, Event, ToolCall
from aixgo.llm.contract import ChatMessage, Chunk, Completion, CompletionRequest
from aixgo.llm.structured import MAX_REPAIRS
from aixgo.message import JSON

Ask: TypeAlias = Callable[[CompletionRequest], AsyncIterator[Chunk]]
"""How the model is asked: in one piece or streamed; the last chunk has the completion."""

_NO_MORE_TOOLS = "You have used tools as often as you may. Give your final answer now, from what you know."
_AS_OBJECT = "Now give your final answer as one JSON object."


class ToolLoop:
    """The conversation with a model about one request. `run` it once; then `final` is the completion that answers.

    `iterations` counts how often the model was asked; `tool_calls` has each use of a tool in the order of asking; and
    `stopped` is `max_iterations` when the model would have gone on. With a `schema`, a JSON schema, `answer` is the
    JSON object that the model gave at the end.
    """

    def __init__(
        self,
        request: CompletionRequest,
        runner: ToolRunner,
        *,
        max_iterations: int,
        schema: Mapping[str, Any] | None = None,
    ) -> None:
        self._request = request if request.tools else replace(request, schema=schema)
        self._runner = runner
        self._max_iterations = max_iterations
        self._schema = schema
        self._unusable = 0
        self._completion: Completion | None = None
        self.answer: JSON = None
        self.iterations = 0
        self.tool_calls: list[dict[str, Any]] = []
        self.stopped = ""

    async def run(self, ask: Ask) -> AsyncGenerator[Event]:
        """Deltas of what the model says, unless it answers by a schema, and the ToolCalls of each round: all as they
        begin, in order, then each as it ends. Raises ProviderError, BudgetExceeded.
        """
        async with aclosing(self._rounds(ask)) as events:
            async for event in events:
                yield event
        if self._schema is not None and not self._handed_over:
            await self._as_object(ask)

    async def _rounds(self, ask: Ask) -> AsyncGenerator[Event]:
        while self.iterations < self._max_iterations:
            async with aclosing(self._asked(ask, self._request)) as events:
                async for event in events:
                    yield event
            if self._completion is None:
                continue
            if not self._completion.tool_uses or self._handed_over:
                return
            async with aclosing(self._used(self._completion)) as events:
                async for event in events:
                    yield event
        self.stopped = "max_iterations"
        last = self._with(ChatMessage("user", _NO_MORE_TOOLS))
        async with aclosing(self._asked(ask, replace(last, tools=(), schema=self._schema))) as events:
            async for event in events:
                yield event

    async def _asked(self, ask: Ask, request: CompletionRequest) -> AsyncGenerator[Event]:
        """The model's next turn; `completion` is None afterwards when it asked for a tool in a way nobody can read."""
        self.iterations += 1
        self._completion = None
        try:
            async with aclosing(cast("Any", ask(request))) as chunks:
                async for chunk in chunks:
                    if chunk.text and self._schema is None:
                        yield Delta(chunk.text)
                    self._completion = chunk.completion or self._completion
        except InvalidCompletion as error:
            self._unusable += 1
            if self._unusable > MAX_REPAIRS or not request.tools:
                raise
            self._request = self._with(ChatMessage("user", f"That cannot be used: {error.message}. Try again."))

    async def _used(self, asked: Completion) -> AsyncGenerator[Event]:
        """Run the tools of one round and tell the model, in the order in which it asked."""
        uses = asked.tool_uses
        for use in uses:
            yield ToolCall(use.id, use.name, use.arguments)
        ended: dict[int, Used] = {}
        async with aclosing(self._runner.run(uses)) as running:
            async for at, used in running:
                ended[at] = used
                yield ToolCall(used.use.id, used.use.name, used.use.arguments, used.output, used.error, done=True)
        told = [ChatMessage("tool", ended[at].told, tool_call_id=use.id) for at, use in enumerate(uses)]
        self._request = self._with(ChatMessage("assistant", asked.text, tool_uses=uses), *told)
        self.tool_calls += [{"name": use.name, "ok": ended[at].ok} for at, use in enumerate(uses)]

    async def _as_object(self, ask: Ask) -> None:
        """Read the final answer as a JSON object; the model is asked for one where it answered in words."""
        said = self.final
        try:
            self.answer = structured(said)
        except InvalidCompletion:
            turns = (ChatMessage("assistant", said.text), ChatMessage("user", _AS_OBJECT))
            async with aclosing(self._asked(ask, replace(self._with(*turns), tools=(), schema=self._schema))) as events:
                async for _ in events:
                    pass
            self.answer = structured(self.final)

    @property
    def _handed_over(self) -> bool:
        return self._completion is not None and bool(handed_over(self._completion))

    @property
    def final(self) -> Completion:
        """The completion that is the answer, after `run`."""
        if self._completion is None:
            raise AssertionError("a request without tools has a completion or raises")
        return self._completion

    def _with(self, *turns: ChatMessage) -> CompletionRequest:
        return replace(self._request, messages=(*self._request.messages, *turns))
