"""Watches the LLM calls of a LangGraph run through the framework's callbacks, and accounts for each once.

Callbacks may come from the threads of nodes that block, so they only note what happened; `settle`, in the event loop,
writes it into the ledger. Above: `langgraph.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from aixgo.adapters.accounting import Account, Model
from aixgo.llm.metering import estimate_tokens
from aixgo.usage import Usage


@dataclass(frozen=True, slots=True)
class _Begun:
    model: Model
    prompt: int
    """Tokens of the prompt, estimated."""


class LLMCalls(BaseCallbackHandler):
    """The LLM calls of one run. `model` is the one that answered last."""

    raise_error = True  # a spent budget must stop the run; by default the framework logs what callbacks raise
    run_inline = True

    def __init__(self, account: Account) -> None:
        self.model = ""
        self._account = account
        self._running: dict[UUID, _Begun] = {}
        self._ended: list[tuple[Model, Usage]] = []

    def settle(self, *, ended: bool = False) -> None:
        """Account for the calls that have ended. When the run itself has ended, those still out were broken off."""
        if ended:
            while self._running:
                _, begun = self._running.popitem()
                self._ended.append((begun.model, Usage(prompt_tokens=begun.prompt, incomplete=True)))
        while self._ended:
            self._account.record(*self._ended.pop(0))

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """A chat model is asked. Raises BudgetExceeded."""
        self._begin(run_id, [str(message.content) for batch in messages for message in batch], metadata or {})

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """A model that only completes text is asked. Raises BudgetExceeded."""
        self._begin(run_id, prompts, metadata or {})

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """A model has answered."""
        begun = self._running.pop(run_id, None)
        if begun is None:
            return
        first = response.generations[0][0] if response.generations and response.generations[0] else None
        message = first.message if isinstance(first, ChatGeneration) else None
        told: Mapping[str, Any] = message.response_metadata if message else {}
        name = begun.model.name or str(told.get("model_name") or told.get("model") or "")
        model = Model(begun.model.vendor or str(told.get("model_provider") or ""), name)
        self.model = name
        self._ended.append((model, _reported(message) or _estimated(begun, "" if first is None else first.text)))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A model has failed, or was cancelled: then what it took until then is not known."""
        begun = self._running.pop(run_id, None)
        if begun is not None:
            broken_off = isinstance(error, (asyncio.CancelledError, GeneratorExit, TimeoutError))
            self._ended.append((begun.model, _estimated(begun, "") if broken_off else Usage()))

    def _begin(self, run_id: UUID, texts: Sequence[str], metadata: Mapping[str, Any]) -> None:
        self._account.check()
        model = Model(str(metadata.get("ls_provider") or ""), str(metadata.get("ls_model_name") or ""))
        self._running[run_id] = _Begun(model, sum(map(estimate_tokens, texts)))


def _reported(message: BaseMessage | None) -> Usage | None:
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    if usage is None:
        return None
    cached = usage.get("input_token_details", {}).get("cache_read", 0)
    reasoning = usage.get("output_token_details", {}).get("reasoning", 0)
    return Usage(usage["input_tokens"], usage["output_tokens"], cached, reasoning)


def _estimated(begun: _Begun, text: str) -> Usage:
    return Usage(begun.prompt, estimate_tokens(text), incomplete=True)
