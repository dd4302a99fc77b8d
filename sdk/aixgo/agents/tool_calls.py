"""Running the tools that a model asked for: at the same time, bounded, and never failing the agent.

Owns what becomes of a use of a tool: its output or its error as text for the model, its span, its time. Below:
`aixgo.tools`. Above: `react.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aixgo.errors import AixgoError, ToolError
from aixgo.llm.contract import ToolUse
from aixgo.message import JSON
from aixgo.names import nearest
from aixgo.telemetry.llm import tool_answered, tool_asked
from aixgo.telemetry.secrets import scrub
from aixgo.telemetry.spans import span
from aixgo.tools.contract import Tool, as_text

log = logging.getLogger(__name__)

MAX_USES = 64
"""Uses of tools that one answer of a model may ask for; those above it are refused."""
_CUT = 500
_NAME = 64
"""Characters of a name in spans: a model may ask for what there is not."""


@dataclass(frozen=True, slots=True)
class Used:
    """How one use of a tool ended: with an `error`, or with an `output` and what the model is shown of it."""

    use: ToolUse
    output: JSON = None
    shown: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether the tool delivered."""
        return not self.error

    @property
    def told(self) -> str:
        """What the model is told."""
        return self.shown if self.ok else f"Error: {self.error}"


@dataclass(frozen=True, slots=True)
class ToolRunner:
    """Runs tools. `timeout` is in seconds and for each use; `max_output` is in characters of what the model is shown,
    not counting the note that something was cut.
    """

    tools: Mapping[str, Tool]
    timeout: float
    concurrency: int
    max_output: int

    async def run(self, uses: Sequence[ToolUse]) -> AsyncGenerator[tuple[int, Used]]:
        """Each use with its place, as it ends, at most `concurrency` at once. Closing the iteration ends the rest."""
        slots = asyncio.Semaphore(self.concurrency)
        tasks = [asyncio.ensure_future(self._one(at, use, slots)) for at, use in enumerate(uses[:MAX_USES])]
        try:
            for at, use in enumerate(uses[MAX_USES:], start=MAX_USES):
                yield at, Used(use, error=f"at most {MAX_USES} tools can be used at once; ask again")
            for ended in asyncio.as_completed(tasks):
                yield await ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, at: int, use: ToolUse, slots: asyncio.Semaphore) -> tuple[int, Used]:
        async with slots:
            with span(f"execute_tool {use.name[:_NAME]}", _attributes(use)) as live:
                tool_asked(live, use.arguments)
                try:
                    output = await self._called(use)
                    shown = as_text(output, self.max_output)
                    tool_answered(live, shown)
                except AixgoError as error:
                    failure = error
                except Exception as error:  # the tool is the user's; what it raises is told to the model
                    log.warning("tool %s raised an exception", use.name, exc_info=True)
                    failure = ToolError(f"{type(error).__name__}: {scrub(str(error))}")
                else:
                    return at, Used(use, output if len(shown) <= self.max_output else shown, shown)
                # The failure's own text may quote arguments.
                live.fail(ToolError(f"tool {use.name!r} failed"))
                return at, Used(use, error=failure.message[:_CUT] or type(failure).__name__)

    async def _called(self, use: ToolUse) -> JSON:
        if use.name not in self.tools:
            raise ToolError(f"there is no tool {use.name!r}; {nearest(use.name, self.tools)}")
        timer = asyncio.timeout(self.timeout)
        try:
            async with timer:
                return await self.tools[use.name].call(use.arguments)
        except TimeoutError as late:
            if not timer.expired():
                raise
            raise ToolError(f"tool {use.name!r} took longer than {self.timeout:g} s and was stopped") from late
        except asyncio.CancelledError as stopped:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise ToolError(f"tool {use.name!r} was cancelled from inside") from stopped


def _attributes(use: ToolUse) -> Mapping[str, Any]:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": use.name[:_NAME],
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": use.id,
    }
