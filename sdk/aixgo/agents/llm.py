"""The role `llm`: a model with a system prompt.

Owns LLMAgent and its configuration. Below: `aixgo.llm`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, cast

from pydantic import BaseModel, Field

from aixgo.agents.base import ReadyAgent, RoleConfig, completion_metadata, read_config, reply_to
from aixgo.agents.memory import Memory, MemoryConfig, Recollection
from aixgo.agents.turns import handed_over, handoff_offer, history, schema_of, structured
from aixgo.config.spec import AgentSpec
from aixgo.errors import ConfigError
from aixgo.events import Delta, Event, Result
from aixgo.imports import find_object
from aixgo.llm.contract import DEFAULT_MAX_TOKENS, ChatMessage, Completion, CompletionRequest
from aixgo.llm.images import images_of
from aixgo.llm.models import Models
from aixgo.message import Message
from aixgo.sessions.contract import SessionStore


class Example(RoleConfig):
    """One exchange that shows the model what is wanted."""

    input: str
    output: str


class LLMConfig(MemoryConfig):
    """`config:` of the role `llm`."""

    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is the most repeatable.")
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0, description="Bounds the answer.")
    stop: tuple[str, ...] = Field(default=(), description="Texts at which the answer ends.")
    examples: tuple[Example, ...] = Field(default=(), description="Exchanges shown to the model before the message.")
    response: str = Field(default="text", description="text, or a pydantic model to answer as: my_pkg.models:Ticket.")


class LLMAgent(ReadyAgent):
    """Answers a message with a model's completion; `prompt` is the system message. It streams Deltas.

    The reply's payload is the text, or with `response: my_pkg.models:Ticket` a JSON object that validates as that
    pydantic model. A request may bring the JSON schema to answer by, the conversation before it, and agents to hand
    over to (`turns.py` says in which metadata), and images to look at (`llm/images.py` says how). With a `session_id`
    the agent remembers (`memory.py` says when): the model sees the newest turns of the session, and the exchange is
    written once the answer is whole. Metadata: `model`, `stop_reason`; `handoff_to` and `handoff_reason` when the model
    hands over. Raises ProviderError, BudgetExceeded, InvalidInput, MessageTooLarge, SessionLost,
    SessionStoreUnavailable; the constructor ConfigError.
    """

    role = "llm"
    idempotent = True

    def __init__(self, spec: AgentSpec, *, models: Models | None = None, sessions: SessionStore | None = None) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, LLMConfig)
        self._memory = Memory(spec.name, self.config, sessions)
        self._schema = None if self.config.response == "text" else _find_model(spec.name, self.config.response)
        self._chat = self.chat()

    async def execute(self, message: Message) -> Message:
        """The model's answer to `message`."""
        async with self._memory.recalled(message) as recollection:
            reply = await self._answer_to(message, self._request(message, recollection))
            await recollection.keep(reply.text)
        return reply

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """The answer in Deltas, then the Result. An answer by a schema comes whole, once it is valid."""
        async with self._memory.recalled(message) as recollection:
            request = self._request(message, recollection)
            async with aclosing(self._events(message, request)) as events:
                async for event in events:
                    if isinstance(event, Result):
                        await recollection.keep(event.message.text)
                    yield event

    async def stop(self) -> None:
        """Close what the agent made itself: models, and a session store in memory."""
        await super().stop()
        await self._memory.close()

    async def _answer_to(self, message: Message, request: CompletionRequest) -> Message:
        if request.schema is not None:
            completion = await self._chat.complete(request)
            return reply_to(message, structured(completion), completion_metadata(completion))
        if self._schema is None or request.tools:
            return _reply(message, await self._chat.complete(request))
        answer, completion = await self._chat.complete_structured(request, self._schema)
        return reply_to(message, answer.model_dump(mode="json"), completion_metadata(completion))

    async def _events(self, message: Message, request: CompletionRequest) -> AsyncGenerator[Event]:
        if request.schema is not None or (self._schema is not None and not request.tools):
            yield Result(await self._answer_to(message, request))
            return
        async with aclosing(cast("Any", self._chat.stream(request))) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield Delta(chunk.text)
                if chunk.completion is not None:
                    yield Result(_reply(message, chunk.completion))

    def _request(self, message: Message, recollection: Recollection) -> CompletionRequest:
        turns = [ChatMessage("system", self.spec.prompt)] if self.spec.prompt else []
        for example in self.config.examples:
            turns += [ChatMessage("user", example.input), ChatMessage("assistant", example.output)]
        offer = handoff_offer(message)
        return CompletionRequest(
            (
                *turns,
                *history(self.name, message),
                *recollection.turns,
                ChatMessage("user", message.text, images=images_of(message)),
            ),
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
            stop=self.config.stop,
            tools=() if offer is None else (offer,),
            schema=None if offer else schema_of(message),
        )


def _reply(message: Message, completion: Completion) -> Message:
    return reply_to(message, completion.text, {**completion_metadata(completion), **handed_over(completion)})


def _find_model(agent: str, path: str) -> type[BaseModel]:
    where = f"agents.{agent}.config.response"
    found = find_object(path, where, "a pydantic model; or write `text`")
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ConfigError(f"{where}: {path} is no pydantic model")
    return found
