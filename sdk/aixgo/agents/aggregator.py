"""The role `aggregator`: several answers become one.

Owns AggregatorAgent, its strategies and what it takes for the answers. Above: patterns that name an aggregator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Literal, cast

from pydantic import Field

from aixgo.agents.base import ReadyAgent, RoleConfig, completion_metadata, read_config, reply_to
from aixgo.config.spec import AgentSpec
from aixgo.errors import InvalidInput, InvalidMessage
from aixgo.events import Delta, Event, Result
from aixgo.llm.chat import Chat
from aixgo.llm.contract import DEFAULT_MAX_TOKENS, ChatMessage, Completion, CompletionRequest
from aixgo.llm.models import Models
from aixgo.message import Message, from_json, to_json

_DEFAULT_PROMPT = "Combine these answers of several agents into one answer. Keep what they agree on; leave nothing out."


class AggregatorConfig(RoleConfig):
    """`config:` of the role `aggregator`."""

    strategy: Literal["concatenate", "llm"] = Field(
        default="concatenate", description="concatenate: one below the other; llm: a model writes one answer of them."
    )
    separator: str = Field(default="\n", description="What stands between two answers.")
    labels: bool = Field(default=True, description="Whether each answer begins with the name of its agent.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="Of the model; 0 is the most repeatable.")
    max_tokens: int = Field(default=DEFAULT_MAX_TOKENS, gt=0, description="Bounds the model's answer.")


class AggregatorAgent(ReadyAgent):
    """Makes one answer of several.

    It takes what a parallel pattern hands on: a payload that is a JSON object, agent name -> answer, or the metadata
    `parallel_results`, agent name -> {"payload", "metadata"}; a plain JSON list is taken too. The reply's metadata name
    the `strategy` and the `sources`. Raises InvalidInput for anything else, ProviderError and BudgetExceeded with the
    strategy `llm`; the constructor ConfigError.
    """

    role = "aggregator"
    idempotent = True

    def __init__(self, spec: AgentSpec, *, models: Models | None = None) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, AggregatorConfig)
        self._chat: Chat | None = self.chat() if self.config.strategy == "llm" else None

    async def execute(self, message: Message) -> Message:
        """One answer made of those in `message`."""
        answers = answers_in(message)
        text = self._concatenated(answers)
        if self._chat is None:
            return reply_to(message, text, self._metadata(answers))
        return self._reply(message, answers, await self._chat.complete(self._request(text)))

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """The answer in Deltas where a model writes it, then the Result."""
        if self._chat is None:
            yield Result(await self.execute(message))
            return
        answers = answers_in(message)
        request = self._request(self._concatenated(answers))
        async with aclosing(cast("Any", self._chat.stream(request))) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield Delta(chunk.text)
                if chunk.completion is not None:
                    yield Result(self._reply(message, answers, chunk.completion))

    def _concatenated(self, answers: Mapping[str, str]) -> str:
        labels = self.config.labels
        return self.config.separator.join(f"{name}: {text}" if labels else text for name, text in answers.items())

    def _request(self, text: str) -> CompletionRequest:
        return CompletionRequest(
            (ChatMessage("system", self.spec.prompt or _DEFAULT_PROMPT), ChatMessage("user", text)),
            temperature=self.config.temperature,
            max_tokens=self.config.max_tokens,
        )

    def _reply(self, message: Message, answers: Mapping[str, str], completion: Completion) -> Message:
        return reply_to(message, completion.text, self._metadata(answers) | completion_metadata(completion))

    def _metadata(self, answers: Mapping[str, str]) -> dict[str, Any]:
        return {"strategy": self.config.strategy, "sources": list(answers)}


def answers_in(message: Message) -> Mapping[str, str]:
    """The answers that a message holds, as text by name; those of a list are numbered from 1. Raises InvalidInput."""
    results = message.metadata.get("parallel_results")
    if isinstance(results, Mapping) and results:
        named = cast("Mapping[str, Any]", results)
        return {name: _text(_payload_of(result)) for name, result in named.items()}
    payload = _parsed(message.payload)
    if isinstance(payload, dict) and payload:
        return {name: _text(answer) for name, answer in cast("dict[str, Any]", payload).items()}
    if isinstance(payload, list) and payload:
        return {str(at): _text(answer) for at, answer in enumerate(cast("list[Any]", payload), start=1)}
    raise InvalidInput(
        "an aggregator takes a JSON object (agent name -> answer), a JSON list of answers, or the metadata"
        " `parallel_results`, and the message has none of these"
    )


def _payload_of(result: Any) -> Any:
    return cast("Mapping[str, Any]", result).get("payload") if isinstance(result, Mapping) else result


def _parsed(payload: Any) -> Any:
    if not isinstance(payload, (str, bytes)):
        return payload
    try:
        return from_json(payload.encode() if isinstance(payload, str) else payload)
    except InvalidMessage:
        return None  # text that is no JSON holds no answers; the caller says so


def _text(answer: Any) -> str:
    return answer if isinstance(answer, str) else to_json(answer).decode()
