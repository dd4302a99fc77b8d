"""A call of an agent as telemetry sees it: its span `invoke_agent {name}`, its metrics, and what was said in it.

Owns the attributes of that span (GenAI conventions, and aixgo.*). Both runtimes and the server run agents inside it
(`runtime/entry.py`, above); below it lie spans, metrics and content.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any, Self, cast

from aixgo.agent import Agent
from aixgo.call import CallState
from aixgo.message import Message
from aixgo.telemetry import content, metrics, spans
from aixgo.telemetry.endings import ending
from aixgo.telemetry.spans import Span
from aixgo.usage import NO_USAGE

MAX_LABEL, MAX_TAGS = 200, 20
"""Characters of a user's id or of one tag, and tags of one message; Langfuse takes no longer ones."""


def watched() -> bool:
    """Whether calls are to run inside `invocation` at all: without telemetry they need not."""
    return "opentelemetry" in sys.modules and (spans.enabled() or metrics.enabled())


class Invocation:
    """One call, recorded from the beginning to the end of a `with` block. Say what the agent answered.

    A context manager by hand: a generator's takes as long as all else that is done for a trace that is not kept.
    """

    __slots__ = ("_agent", "_begun", "_block", "_instance_id", "_message", "_running", "_span", "_state")

    def __init__(self, agent: Agent, message: Message, state: CallState, instance_id: str) -> None:
        self._agent = agent
        self._message = message
        self._state = state
        self._instance_id = instance_id

    def answered(self, reply: Message) -> None:
        """The agent has replied."""
        if self._span.recording and (policy := content.captured()) is not None:
            self._span.set("gen_ai.output.messages", content.messages(policy, [("assistant", reply.text)]))

    def __enter__(self) -> Self:
        self._begun = perf_counter()
        self._block = spans.span(f"invoke_agent {self._agent.name}", self._attributes)
        self._span = self._block.__enter__()
        self._running = metrics.running()
        if self._running is not None:
            self._running.began()
        if self._span.recording and (policy := content.captured()) is not None:
            self._span.set("gen_ai.input.messages", content.messages(policy, [("user", self._message.text)]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = None if error is None else ending(error, self._state)
        try:
            if failure is not None:
                self._span.fail(failure)
            spent(self._span, self._state)
            self._block.__exit__(kind, error, trace)
        finally:
            if self._running is not None:
                self._running.ended(self._agent.name, failure, perf_counter() - self._begun)

    def _attributes(self) -> dict[str, Any]:
        agent, message, state = self._agent, self._message, self._state
        tags = message.metadata.get("trace_tags")
        return {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": agent.name,
            "gen_ai.conversation.id": state.session_id or None,
            spans.USER: _user(message),
            "aixgo.trace_tags": _labels(cast("list[Any]", tags)) if isinstance(tags, list) else None,
            "aixgo.agent.role": agent.role or None,
            "aixgo.agent.path": "/".join(state.path),
            "aixgo.depth": state.depth,
            "aixgo.instance.id": self._instance_id or None,
        }


def invocation(agent: Agent, message: Message, state: CallState, instance_id: str = "") -> Invocation:
    """Record one call of an agent of this process. `instance_id` says which instance serves it, "" for none.

    Tokens and USD are those of the whole call, everything below it included; the conventions' own names for them stand
    on LLM calls only, so that whoever adds them up counts each once.
    """
    return Invocation(agent, message, state, instance_id)


def delivery(agent: str, message: Message, traceparent: str) -> AbstractContextManager[Span]:
    """Record what is done with one message out of a mailbox: a trace of its own, linked to that of `traceparent`."""
    attributes = {
        "gen_ai.agent.name": agent,
        "gen_ai.conversation.id": message.session_id or None,
        "messaging.operation.type": "process",
        "messaging.message.id": message.id,
        spans.USER: _user(message),
    }
    return spans.linked(traceparent, f"process {agent}", attributes)


def _user(message: Message) -> str | None:
    """On whose behalf a message says that it is."""
    user = message.metadata.get("user_id")
    return user[:MAX_LABEL] if isinstance(user, str) else None


def _labels(tags: list[Any]) -> list[str]:
    return [tag[:MAX_LABEL] for tag in tags[:MAX_TAGS] if isinstance(tag, str)]


def spent(span: Span, state: CallState) -> None:
    """Say on a span what was spent below it."""
    usage = state.ledger.usage
    if usage is NO_USAGE or not span.recording:
        return
    span.set("tokens.total", usage.total_tokens)
    span.set("aixgo.llm_calls", usage.llm_calls)
    span.set("cost.usd", None if usage.cost_usd is None else float(usage.cost_usd))
