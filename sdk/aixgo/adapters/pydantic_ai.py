"""A Pydantic AI agent as an agent of aixgo. Needs the extra `pydantic-ai`.

    PydanticAIAgent.wrap(my_agent, "helper")                                 # from Python

    - {name: helper, role: "aixgo.adapters.pydantic_ai:PydanticAIAgent", config: {agent: "my_pkg.agents:helper"}}

Owns the mapping of messages, events, usage and errors. What the framework itself traces (`Agent.instrument_all()`)
hangs below the span of the aixgo call. Below: `accounting.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

from pydantic import Field
from pydantic_core import to_jsonable_python

from aixgo.adapters.accounting import Account, Model, vendor_error
from aixgo.agents.base import ReadyAgent, read_config, reply_to
from aixgo.agents.memory import Memory, MemoryConfig
from aixgo.agents.turns import history, schema_of
from aixgo.config.spec import AgentSpec
from aixgo.errors import AixgoError, BudgetExceeded, ConfigError, InvalidCompletion, LimitExceeded, ProviderTimeout
from aixgo.events import Delta, Event, Result, ToolCall
from aixgo.imports import find_object
from aixgo.llm.contract import ChatMessage
from aixgo.llm.metering import estimate_tokens
from aixgo.llm.pricing import Prices
from aixgo.message import Message
from aixgo.sessions.contract import SessionStore
from aixgo.usage import Usage

try:
    from pydantic_ai import (
        AgentStreamEvent,
        FunctionToolCallEvent,
        FunctionToolResultEvent,
        ModelMessage,
        ModelRequest,
        ModelResponse,
        PartDeltaEvent,
        PartStartEvent,
        StructuredDict,
        TextPart,
        TextPartDelta,
        UserPromptPart,
        capture_run_messages,
    )
    from pydantic_ai import exceptions as failures
    from pydantic_ai.agent import AbstractAgent
    from pydantic_ai.capabilities import ReinjectSystemPrompt
    from pydantic_ai.messages import ToolCallPart
    from pydantic_ai.usage import RunUsage, UsageLimits
except ImportError as error:
    raise ImportError("it needs pydantic-ai; install it with: pip install 'aixgo[pydantic-ai]'") from error

Emit = Callable[[Event], Awaitable[None]]
_FAILED = ("failed", "retried")
_BUFFER = 64
"""Events that may wait for the caller before the agent has to wait for it."""


class PydanticAIConfig(MemoryConfig):
    """`config:` of an agent that wraps one of Pydantic AI."""

    agent: str = Field(default="", description="The Pydantic AI agent: my_pkg.agents:helper.")
    deps: str = Field(default="", description="A function of the Message that makes the agent's dependencies.")
    idempotent: bool = Field(default=False, description="Whether a call that broke off may be tried again elsewhere.")


class PydanticAIAgent(ReadyAgent):
    """Runs a Pydantic AI agent with the message's text as the prompt.

    The reply's payload is the output: text, or the JSON of any other output type. A `conversation` that comes with the
    message is the message history, a `response_schema` the output type; with a `session_id` the agent remembers what
    was said, as the role `llm` does. It streams the text as Deltas and every use of a tool as ToolCalls. Metadata:
    `model`. A grant of tokens becomes the run's `total_tokens_limit`; one of USD is looked at before the run.

    Raises ProviderError and its subclasses, LimitExceeded for limits of the framework, BudgetExceeded, and whatever
    tools raise; the constructor ConfigError.
    """

    role = "pydantic-ai"

    def __init__(
        self,
        spec: AgentSpec,
        *,
        wrapped: AbstractAgent[Any, Any] | None = None,
        deps: Callable[[Message], Any] | None = None,
        prices: Prices | None = None,
        sessions: SessionStore | None = None,
    ) -> None:
        super().__init__(spec)
        self.config = read_config(spec, PydanticAIConfig)
        self.idempotent = self.config.idempotent
        self._agent = _named_agent(spec, self.config) if wrapped is None else wrapped
        self._deps = _named_deps(spec, self.config) if deps is None else deps
        self._prices = prices or Prices()
        self._memory = Memory(spec.name, self.config, sessions)
        for key in ("model", "prompt"):
            if getattr(spec, key):
                raise ConfigError(f"agents.{spec.name}.{key}: the Pydantic AI agent has its own; remove the key")

    @classmethod
    def wrap(
        cls,
        agent: AbstractAgent[Any, Any],
        name: str = "",
        *,
        deps: Callable[[Message], Any] | None = None,
        prices: Prices | None = None,
        sessions: SessionStore | None = None,
        **config: Any,
    ) -> PydanticAIAgent:
        """An aixgo agent around `agent`, named like it where no `name` is given. `config` as in YAML."""
        spec = AgentSpec(name=name or agent.name or "", role=cls.role, config=config)
        return cls(spec, wrapped=agent, deps=deps, prices=prices, sessions=sessions)

    async def execute(self, message: Message) -> Message:
        """The agent's output."""
        return await self._run(message, None)

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """The text in Deltas, the uses of tools, then the Result."""
        events: asyncio.Queue[Event] = asyncio.Queue(_BUFFER)
        run = asyncio.create_task(self._run(message, events.put))
        try:
            while not (run.done() and events.empty()):
                coming = asyncio.ensure_future(events.get())
                try:
                    await asyncio.wait({coming, run}, return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        yield coming.result()
                finally:
                    coming.cancel()
            yield Result(run.result())
        finally:
            run.cancel()
            await asyncio.wait({run})

    async def stop(self) -> None:
        """Close what the agent made itself."""
        await super().stop()
        await self._memory.close()

    async def _run(self, message: Message, emit: Emit | None) -> Message:
        schema = schema_of(message)
        await self._prices.load()
        async with self._memory.recalled(message) as recollection:
            before = _as_history([*history(self.name, message), *recollection.turns])
            run = _Run(Account(self._prices), before)
            output_type: Any = None if schema is None else StructuredDict(dict(schema), name="answer")
            deps = None if self._deps is None else self._deps(message)
            output = await run.output(self._agent, message.text, output_type=output_type, deps=deps, emit=emit)
            reply = reply_to(message, to_jsonable_python(output, fallback=str), {"model": run.model})
            await recollection.keep(reply.text)
        return reply


class _Run:
    """One run of the framework, and the accounting of its LLM calls."""

    def __init__(self, account: Account, before: Sequence[ModelMessage]) -> None:
        self._account = account
        self._before = before
        self._usage = RunUsage()
        self.model = ""

    async def output(
        self, agent: AbstractAgent[Any, Any], prompt: str, *, output_type: Any, deps: Any, emit: Emit | None
    ) -> Any:
        """What the agent answers; usage is recorded however it ends."""
        self._account.check()
        with capture_run_messages() as messages:
            try:
                result: Any = await cast("Any", agent).run(
                    prompt,
                    output_type=output_type,
                    message_history=self._before or None,
                    deps=deps,
                    usage=self._usage,
                    usage_limits=UsageLimits(total_tokens_limit=self._account.tokens_left),
                    event_stream_handler=None if emit is None else _forwarded(emit),
                    # Without it a history from outside would take the place of the agent's own system prompt.
                    capabilities=[ReinjectSystemPrompt()],
                )
            except failures.AgentRunError as error:
                self._record(messages, in_flight=False)
                if isinstance(error, failures.ModelAPIError):
                    self._account.record(None, Usage())  # the call that failed: it took no tokens
                raise self._translated(error) from error
            except BaseException as error:
                self._record(messages, in_flight=isinstance(error, (asyncio.CancelledError, GeneratorExit)))
                raise
            self._record(messages, in_flight=False)
        return result.output

    def _record(self, messages: Sequence[ModelMessage], *, in_flight: bool) -> None:
        """One entry for each response, and one for what else the run has spent: calls that it was broken off in, and
        those of agents that its tools ran.
        """
        new = messages[len(self._before) :]
        responses = [one for one in new if isinstance(one, ModelResponse)]
        known = Usage()
        for response in responses:
            tokens = _tokens(response.usage)
            cut = getattr(response, "state", "complete") == "interrupted"
            model = Model(response.provider_name or "", response.model_name or "")
            self.model = model.name
            self._account.record(model, tokens + Usage(incomplete=cut and in_flight))
            known += tokens + Usage(llm_calls=1)
        rest = _tokens(self._usage)
        calls = self._usage.requests - known.llm_calls
        tokens = Usage(
            max(0, rest.prompt_tokens - known.prompt_tokens), max(0, rest.completion_tokens - known.completion_tokens)
        )
        if calls > 0 or tokens.total_tokens:
            self._account.record(None, tokens + Usage(llm_calls=max(1, calls)))
        if in_flight and new and isinstance(new[-1], ModelRequest):
            prompt = sum(estimate_tokens(str(part)) for part in new[-1].parts)
            self._account.record(None, Usage(prompt_tokens=prompt, incomplete=True))

    def _translated(self, error: failures.AgentRunError) -> AixgoError:
        text = str(error)
        if isinstance(error, failures.UsageLimitExceeded):
            ours = self._account.tokens_left
            return BudgetExceeded(text) if ours is not None and ours <= 0 else LimitExceeded(text)
        if isinstance(error, failures.ModelTimeoutError):
            return ProviderTimeout(text)
        if isinstance(error, failures.ModelAPIError):
            return vendor_error(getattr(error, "status_code", None), text, error.retry_after)
        return InvalidCompletion(text)


def _forwarded(emit: Emit) -> Callable[[Any, Any], Awaitable[None]]:
    """The framework's event handler that hands its events on as ours."""

    async def handle(_: Any, events: AsyncGenerator[AgentStreamEvent]) -> None:
        async for event in events:
            ours = _event(event)
            if ours is not None:
                await emit(ours)

    return handle


def _event(event: AgentStreamEvent) -> Event | None:
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return Delta(event.part.content) if event.part.content else None
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return Delta(event.delta.content_delta)
    if isinstance(event, FunctionToolCallEvent):
        return ToolCall(event.part.tool_call_id, event.part.tool_name, _arguments(event.part))
    if isinstance(event, FunctionToolResultEvent):
        part = event.part
        if part.outcome in _FAILED:
            return ToolCall(part.tool_call_id, part.tool_name, error=str(part.content), done=True)
        output = to_jsonable_python(part.content, fallback=str)
        return ToolCall(part.tool_call_id, part.tool_name, output=output, done=True)
    return None


def _arguments(part: ToolCallPart) -> dict[str, Any]:
    try:
        return part.args_as_dict()
    except ValueError:  # the model wrote no JSON; the framework tells it so
        return {"arguments": part.args}


def _as_history(turns: Sequence[ChatMessage]) -> list[ModelMessage]:
    return [
        ModelRequest([UserPromptPart(turn.content)]) if turn.role == "user" else ModelResponse([TextPart(turn.content)])
        for turn in turns
    ]


def _tokens(usage: Any) -> Usage:
    reasoning = usage.details.get("reasoning_tokens", 0)
    return Usage(usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, reasoning)


def _named_agent(spec: AgentSpec, config: PydanticAIConfig) -> AbstractAgent[Any, Any]:
    where = f"agents.{spec.name}.config.agent"
    found = find_object(config.agent, where, "a Pydantic AI agent")
    if not isinstance(found, AbstractAgent):
        raise ConfigError(f"{where}: {config.agent} is a {type(found).__name__}, no Pydantic AI agent")
    return cast("AbstractAgent[Any, Any]", found)


def _named_deps(spec: AgentSpec, config: PydanticAIConfig) -> Callable[[Message], Any] | None:
    if not config.deps:
        return None
    where = f"agents.{spec.name}.config.deps"
    found = find_object(config.deps, where, "a function of the Message")
    if not callable(found):
        raise ConfigError(f"{where}: {config.deps} is a {type(found).__name__}, no function")
    return found
