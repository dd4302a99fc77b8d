"""The role `react`: a model that uses tools until it can answer (ReAct, Yao et al. 2022).

Owns ReActAgent and its configuration. Below: `tool_loop.py`, `turns.py`, `aixgo.tools` and `aixgo.llm`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from pydantic import Field

from aixgo.agents.base import ReadyAgent, completion_metadata, read_config, reply_to
from aixgo.agents.memory import Memory, MemoryConfig, Recollection
from aixgo.agents.tool_calls import ToolRunner
from aixgo.agents.tool_loop import Ask, ToolLoop
from aixgo.agents.turns import HAND_OVER, handed_over, handoff_offer, history, schema_of
from aixgo.config.duration import Duration
from aixgo.config.spec import AgentSpec
from aixgo.errors import ConfigError
from aixgo.events import Event, Result
from aixgo.llm.contract import DEFAULT_MAX_TOKENS, ChatMessage, Chunk, CompletionRequest
from aixgo.llm.images import images_of
from aixgo.llm.models import Models
from aixgo.message import Message
from aixgo.sessions.contract import SessionStore
from aixgo.tools.toolbox import Offered, Toolbox


class ReActConfig(MemoryConfig):
    """`config:` of the role `react`."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is the most repeatable.")
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0, description="Bounds each answer of the model.")
    max_iterations: int = Field(default=10, ge=1, le=100, description="How often the model may ask for tools.")
    tool_timeout: Duration = Field(default=60.0, description="For one use of a tool: seconds, or text like 30s or 5m.")
    parallel_tools: int = Field(default=8, ge=1, le=64, description="Tools that run at the same time.")
    max_tool_output: int = Field(
        default=20_000, ge=100, le=1_000_000, description="Characters of a tool's output that the model is shown."
    )
    idempotent: bool = Field(
        default=False, description="Whether all its tools only read, so that a call that broke off may be made again."
    )


class ReActAgent(ReadyAgent):
    """Answers a message with a model that may use tools: those that `tools` names, and all of `mcp_servers`.

    The model is asked, the tools that it asks for run at the same time, it is told what they gave, and so on until it
    answers without them. A tool that is unknown, is called with wrong arguments, fails or takes too long does not fail
    the agent: the model is told in words. After `max_iterations` rounds it is asked once more, without tools, for its
    final answer.

    It streams Deltas (also of what the model says between its uses of tools) and ToolCalls: all of one round as they
    begin, in order, then each as it ends. The reply's payload is the final text, or a JSON object where the request
    has a `response_schema`. Metadata: `model`, `stop_reason`; `iterations`, how often the model was asked;
    `tool_calls`, a list of {name, ok}; `stopped: max_iterations` when it would have gone on; `handoff_to` and
    `handoff_reason` when the model hands over (`turns.py`), and then the other tools of that round are not run.

    A message may bring images to look at (`llm/images.py` says how); the model sees them in every round.

    With a `session_id` it remembers messages and final answers (`memory.py` says when), not the uses of tools.

    It counts as idempotent only with `idempotent: true`, because tools may have effects. Raises ProviderError,
    BudgetExceeded, InvalidInput; ToolError when an MCP server was never reached; MessageTooLarge, SessionLost and
    SessionStoreUnavailable with a session; the constructor ConfigError.
    """

    role = "react"
    uses_tools = True

    def __init__(
        self,
        spec: AgentSpec,
        *,
        models: Models | None = None,
        tools: Toolbox | None = None,
        sessions: SessionStore | None = None,
    ) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, ReActConfig)
        self._memory = Memory(spec.name, self.config, sessions)
        self.idempotent = self.config.idempotent
        self._chat = self.chat()
        self._toolbox = Toolbox() if tools is None else tools
        try:
            self._toolbox.check(spec.tools, spec.mcp_servers)
        except ConfigError as error:
            raise ConfigError(f"agents.{spec.name}.{error.message}") from error

    async def execute(self, message: Message) -> Message:
        """The model's final answer to `message`."""
        async with aclosing(self._remembered(message, self._whole)) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event.message
        raise AssertionError("the events end with a Result")

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """What the model says and which tools it uses, as it happens; then the Result."""
        async with aclosing(self._remembered(message, self._chat.stream)) as events:
            async for event in events:
                yield event

    async def stop(self) -> None:
        """Close what the agent made itself: models, and a session store in memory."""
        await super().stop()
        await self._memory.close()

    async def _remembered(self, message: Message, ask: Ask) -> AsyncGenerator[Event]:
        recalled = self._memory.recalled(message)
        async with recalled as recollection, aclosing(self._events(message, recollection, ask)) as events:
            async for event in events:
                if isinstance(event, Result):
                    await recollection.keep(event.message.text)
                yield event

    async def _events(self, message: Message, recollection: Recollection, ask: Ask) -> AsyncGenerator[Event]:
        offered = await self._toolbox.offered(self.spec.tools, self.spec.mcp_servers)
        request = self._request(message, recollection, offered)
        # Handing over is no answer by a schema.
        schema = None if HAND_OVER in (one.name for one in request.tools) else schema_of(message)
        config = self.config
        runner = ToolRunner(offered, config.tool_timeout, config.parallel_tools, config.max_tool_output)
        loop = ToolLoop(request, runner, max_iterations=config.max_iterations, schema=schema)
        async with aclosing(loop.run(ask)) as events:
            async for event in events:
                yield event
        yield Result(_reply(message, loop))

    async def _whole(self, request: CompletionRequest) -> AsyncIterator[Chunk]:
        """The model's answer in one piece: vendors' clients try again what fails, which a stream cannot."""
        yield Chunk(completion=await self._chat.complete(request))

    def _request(self, message: Message, recollection: Recollection, offered: Offered) -> CompletionRequest:
        turns = [ChatMessage("system", self.spec.prompt)] if self.spec.prompt else []
        offer = handoff_offer(message)
        if offer is not None and offer.name in offered:
            raise ConfigError(f"agents.{self.name}.tools: the name {offer.name!r} is kept for handing over; rename it")
        return CompletionRequest(
            (
                *turns,
                *history(self.name, message),
                *recollection.turns,
                ChatMessage("user", message.text, images=images_of(message)),
            ),
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            tools=offered.offers if offer is None else (*offered.offers, offer),
        )


def _reply(message: Message, loop: ToolLoop) -> Message:
    completion = loop.final
    metadata: dict[str, Any] = completion_metadata(completion)
    metadata |= {"iterations": loop.iterations, "tool_calls": loop.tool_calls, **handed_over(completion)}
    if loop.stopped:
        metadata["stopped"] = loop.stopped
    return reply_to(message, completion.text if loop.answer is None else loop.answer, metadata)
