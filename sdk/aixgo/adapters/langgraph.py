"""A compiled LangGraph graph as an agent of aixgo. Needs the extra `langgraph`.

    LangGraphAgent.wrap(builder.compile(), "helper")                         # from Python

    - {name: helper, role: "aixgo.adapters.langgraph:LangGraphAgent", config: {graph: "my_pkg.graphs:helper"}}

Owns the mapping of messages, state, events and errors; `langgraph_usage.py` watches the LLM calls. Code of a graph that
blocks (nodes that are no `async def`) runs in the framework's threads, which no cancellation reaches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from pydantic import Field
from pydantic_core import to_jsonable_python

from aixgo.adapters.accounting import Account, vendor_error
from aixgo.agents.base import ReadyAgent, read_config, reply_to
from aixgo.agents.memory import Memory, MemoryConfig
from aixgo.agents.turns import history
from aixgo.config.spec import AgentSpec
from aixgo.errors import (
    AixgoError,
    ConfigError,
    InvalidCompletion,
    InvalidInput,
    InvalidReply,
    LimitExceeded,
    NotSupported,
    ProviderTimeout,
)
from aixgo.events import Delta, Event, Result, ToolCall
from aixgo.imports import find_object
from aixgo.llm.contract import ChatMessage
from aixgo.llm.pricing import Prices
from aixgo.message import Message
from aixgo.sessions.contract import SessionStore

try:
    from langchain_core.exceptions import OutputParserException
    from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
    from langchain_core.runnables.config import var_child_runnable_config
    from langgraph.errors import GraphRecursionError
    from langgraph.pregel import Pregel  # pyright: ignore[reportMissingTypeStubs]  # a namespace package: its marker is not found

    from aixgo.adapters.langgraph_usage import LLMCalls
except ImportError as error:
    raise ImportError("it needs langgraph; install it with: pip install 'aixgo[langgraph]'") from error

MESSAGES, WHOLE = "messages", "*"
_VENDORS_SDKS = ("openai", "anthropic")


class LangGraphConfig(MemoryConfig):
    """`config:` of an agent that wraps a graph of LangGraph."""

    graph: str = Field(default="", description="The compiled graph: my_pkg.graphs:helper.")
    input: str = Field(
        default=MESSAGES,
        min_length=1,
        description="The key of the graph's state that the payload goes to; messages: a list of messages with it last;"
        " *: the payload, a JSON object, is the state.",
    )
    output: str = Field(
        default=MESSAGES,
        min_length=1,
        description="The key of the final state that is the reply; messages: the text of the last one of the model;"
        " *: the whole state.",
    )
    recursion_limit: int = Field(default=25, ge=1, le=1000, description="Steps that the graph may take.")
    configurable: dict[str, Any] = Field(default_factory=dict, description="What the graph's `configurable` gets.")
    idempotent: bool = Field(default=False, description="Whether a call that broke off may be tried again elsewhere.")


class LangGraphAgent(ReadyAgent):
    """Runs a compiled graph with the message as its input.

    A `conversation` that comes with the message goes before it. With a `session_id` a graph that has a checkpointer
    gets it as its `thread_id` and remembers by itself; for any other whose input is `messages` the agent remembers what
    was said, as the role `llm` does. It streams the text of models as Deltas and their uses of tools as ToolCalls.
    Metadata: `model`, the last one that answered. Before each LLM call the budget is looked at.

    Raises ProviderError and its subclasses, LimitExceeded for the recursion limit, BudgetExceeded, NotSupported when
    the graph interrupts itself to ask a person, InvalidInput, InvalidReply, and whatever nodes raise; the constructor
    ConfigError.
    """

    role = "langgraph"

    def __init__(
        self,
        spec: AgentSpec,
        *,
        wrapped: Pregel[Any, Any, Any, Any] | None = None,
        prices: Prices | None = None,
        sessions: SessionStore | None = None,
    ) -> None:
        super().__init__(spec)
        self.config = read_config(spec, LangGraphConfig)
        self.idempotent = self.config.idempotent
        self._graph = _named_graph(spec, self.config) if wrapped is None else wrapped
        self._prices = prices or Prices()
        self._threads = bool(cast("Any", self._graph).checkpointer)
        remembers = self.config.memory and not self._threads and self.config.input == MESSAGES
        self._memory = Memory(spec.name, self.config.model_copy(update={"memory": remembers}), sessions)
        for key in ("model", "prompt"):
            if getattr(spec, key):
                raise ConfigError(f"agents.{spec.name}.{key}: the graph has its own; remove the key")

    @classmethod
    def wrap(
        cls,
        graph: Pregel[Any, Any, Any, Any],
        name: str = "",
        *,
        prices: Prices | None = None,
        sessions: SessionStore | None = None,
        **config: Any,
    ) -> LangGraphAgent:
        """An aixgo agent around `graph`, named like it where no `name` is given. `config` as in YAML."""
        spec = AgentSpec(name=name or graph.name, role=cls.role, config=config)
        return cls(spec, wrapped=graph, prices=prices, sessions=sessions)

    async def execute(self, message: Message) -> Message:
        """The final state's output."""
        # In a task of its own: what the framework keeps in context variables stays there.
        return await asyncio.create_task(self._executed(message))

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """The text of models in Deltas, the uses of tools, then the Result."""
        async with aclosing(self._run(message, ["messages", "updates", "values"])) as events:
            async for event in events:
                yield event

    async def stop(self) -> None:
        """Close what the agent made itself."""
        await super().stop()
        await self._memory.close()

    async def _executed(self, message: Message) -> Message:
        async with aclosing(self._run(message, ["updates", "values"])) as events:
            async for event in events:
                if isinstance(event, Result):
                    return event.message
        raise InvalidReply(f"the graph of agent {self.name!r} ended without a state")

    async def _run(self, message: Message, modes: Sequence[str]) -> AsyncGenerator[Event]:
        # A graph that a node of another one calls through aixgo is a call of its own, not a part of that graph:
        # else the outer one would count its LLM calls too.
        var_child_runnable_config.set(None)
        await self._prices.load()
        async with self._memory.recalled(message) as recollection:
            calls = LLMCalls(Account(self._prices))
            state: Any = None
            async with aclosing(self._steps(message, recollection.turns, calls, modes)) as steps:
                async for mode, part in steps:
                    state = part if mode == "values" else state
                    for event in _events(mode, part):
                        yield event
            reply = reply_to(message, self._output(state), {"model": calls.model})
            await recollection.keep(reply.text)
        yield Result(reply)

    async def _steps(
        self, message: Message, turns: Sequence[ChatMessage], calls: LLMCalls, modes: Sequence[str]
    ) -> AsyncGenerator[tuple[str, Any]]:
        given = self._input(message, turns)
        options = {
            "callbacks": [calls],
            "recursion_limit": self.config.recursion_limit,
            "configurable": {**self._thread(message), **self.config.configurable},
        }
        try:
            steps: Any = cast("Any", self._graph).astream(given, options, stream_mode=list(modes))
            async with aclosing(steps):
                async for mode, part in steps:
                    calls.settle()
                    yield mode, part
        except Exception as error:
            typed = _translated(error)
            if typed is None:
                raise
            raise typed from error
        finally:
            calls.settle(ended=True)

    def _thread(self, message: Message) -> Mapping[str, str]:
        return {"thread_id": message.session_id or message.id} if self._threads else {}

    def _input(self, message: Message, turns: Sequence[ChatMessage]) -> Any:
        if self.config.input == MESSAGES:
            said = [_as_message(turn) for turn in (*history(self.name, message), *turns)]
            return {MESSAGES: [*said, HumanMessage(message.text)]}
        if self.config.input != WHOLE:
            return {self.config.input: message.payload}
        if not isinstance(message.payload, dict):
            raise InvalidInput(f"agent {self.name!r} takes a JSON object, the state of its graph, as the payload")
        return message.payload

    def _output(self, state: Any) -> Any:
        if self.config.output == WHOLE:
            return to_jsonable_python(state, fallback=str)
        if not isinstance(state, Mapping) or self.config.output not in state:
            keys = sorted(map(str, cast("Mapping[Any, Any]", state))) if isinstance(state, Mapping) else []
            raise InvalidReply(f"the final state of agent {self.name!r} has no {self.config.output!r}, but {keys}")
        value = cast("Mapping[str, Any]", state)[self.config.output]
        if self.config.output == MESSAGES:
            said = [one for one in value if isinstance(one, AIMessage)]
            return _text(said[-1]) if said else ""
        return to_jsonable_python(value, fallback=str)


def _events(mode: str, part: Any) -> list[Event]:
    """What one part of the framework's stream says. Raises NotSupported for an interrupt."""
    if mode == "messages":
        message = part[0]
        return [Delta(text)] if isinstance(message, AIMessage) and (text := _text(message)) else []
    if mode != "updates":
        return []
    if "__interrupt__" in part:
        asked = [to_jsonable_python(one.value, fallback=str) for one in part["__interrupt__"]]
        raise NotSupported(
            "the graph interrupted itself to ask a person, which a call cannot wait for", fields={"interrupts": asked}
        )
    return [event for update in part.values() for message in _messages_of(update) for event in _tool_events(message)]


def _messages_of(update: Any) -> list[BaseMessage]:
    found: Any = cast("Mapping[str, Any]", update).get(MESSAGES) if isinstance(update, Mapping) else None
    many = cast("list[Any]", found if isinstance(found, list) else [found])
    return [one for one in many if isinstance(one, BaseMessage)]


def _tool_events(message: BaseMessage) -> list[Event]:
    if isinstance(message, AIMessage):
        return [ToolCall(use["id"] or "", use["name"], use["args"]) for use in message.tool_calls]
    if not isinstance(message, ToolMessage):
        return []
    name, text = message.name or "", _text(message)
    if message.status == "error":
        return [ToolCall(message.tool_call_id, name, error=text or "failed", done=True)]
    return [ToolCall(message.tool_call_id, name, output=text, done=True)]


def _as_message(turn: ChatMessage) -> AnyMessage:
    return HumanMessage(turn.content) if turn.role == "user" else AIMessage(turn.content)


def _text(message: BaseMessage) -> str:
    content: Any = message.content
    if isinstance(content, str):
        return content
    blocks = [block if isinstance(block, str) else str(block.get("text", "")) for block in content]
    return "".join(blocks)


def _translated(error: Exception) -> AixgoError | None:
    """The typed error of what the framework or a vendor's SDK raised; None for what is the graph's own."""
    if isinstance(error, AixgoError):
        return None
    if isinstance(error, GraphRecursionError):
        return LimitExceeded(str(error))
    if isinstance(error, OutputParserException):
        return InvalidCompletion(str(error))
    if type(error).__module__.partition(".")[0] not in _VENDORS_SDKS:
        return None
    if type(error).__name__ == "APITimeoutError":
        return ProviderTimeout(str(error))
    headers = getattr(getattr(error, "response", None), "headers", {})
    after = str(headers.get("retry-after", ""))
    return vendor_error(getattr(error, "status_code", None), str(error), float(after) if after.isdigit() else None)


def _named_graph(spec: AgentSpec, config: LangGraphConfig) -> Pregel[Any, Any, Any, Any]:
    where = f"agents.{spec.name}.config.graph"
    found = find_object(config.graph, where, "a compiled LangGraph graph")
    if not isinstance(found, Pregel):
        raise ConfigError(f"{where}: {config.graph} is a {type(found).__name__}, no compiled graph; call .compile()")
    return cast("Pregel[Any, Any, Any, Any]", found)
