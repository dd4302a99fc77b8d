"""A generator without a model: it quotes the sentence that has most of the question's words, the rarer ones first."""

import re
from collections import Counter
from typing import Any

from aixgo import Agent, AgentSpec, Message

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_SHORTEST = 4
"""Shorter words say little about what a sentence is about."""


class Quoter(Agent):
    """Answers a question from the metadata `context`, which the pattern RAG sends along, and cites where it is from."""

    idempotent = True

    def __init__(self, spec: AgentSpec) -> None:
        self.name, self.role = spec.name, "quoter"

    async def execute(self, message: Message) -> Message:
        context: Any = message.metadata["context"]
        asked = words(str(message.metadata["question"]))
        quotes = [(chunk["marker"], text) for chunk in context for text in sentences(chunk["text"])]
        known = Counter(word for _, text in quotes for word in words(text))

        def weight(quote: tuple[int, str]) -> float:
            return sum(1 / known[word] for word in asked & words(quote[1]))

        marker, best = max(quotes, key=lambda quote: weight(quote) / (1 + quote[0]))
        return Message(f"{best} [{marker}]")


def sentences(text: str) -> list[str]:
    """The sentences of a chunk, without its headings."""
    return [" ".join(part.split()) for part in _SENTENCE.split(text) if not part.startswith("#")]


def words(text: str) -> set[str]:
    """The words of a text that matter, without their endings."""
    return {word[:5] for word in re.findall(r"\w+", text.casefold()) if len(word) >= _SHORTEST}
