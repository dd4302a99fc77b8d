"""How models are asked in the suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest


def asked(text: str = "hello", **more: Any) -> CompletionRequest:
    return CompletionRequest((ChatMessage("system", "be brief"), ChatMessage("user", text)), **more)


async def streamed(chat: Chat, request: CompletionRequest) -> tuple[Sequence[str], Completion]:
    chunks = [chunk async for chunk in chat.stream(request)]
    whole = chunks[-1].completion
    assert whole is not None
    return [chunk.text for chunk in chunks[:-1]], whole
