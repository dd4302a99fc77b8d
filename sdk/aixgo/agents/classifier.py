"""The role `classifier`: a model chooses one of the categories.

Owns ClassifierAgent, its configuration, and what its confidence means. Below: `aixgo.llm`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, Field, create_model, field_validator, model_validator

from aixgo.agents.base import ReadyAgent, RoleConfig, completion_metadata, read_config, reply_to
from aixgo.config.spec import AgentSpec
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest, TokenChoice
from aixgo.llm.models import Models
from aixgo.llm.names import nearest
from aixgo.message import Message, to_json

AnswerT = TypeVar("AnswerT")

_FIELD = "category"
_TOP_LOGPROBS = 20
_MAX_TOKENS = 64
_DEFAULT_PROMPT = "Classify the message."


class LabelledText(RoleConfig):
    """One text with its right category."""

    text: str
    category: str


class ClassifierConfig(RoleConfig):
    """`config:` of the role `classifier`."""

    categories: dict[str, str] = Field(
        min_length=2, description="What to choose from: name -> what belongs there (may be empty), or a list of names."
    )
    examples: tuple[LabelledText, ...] = Field(default=(), description="Texts shown to the model with their category.")
    temperature: float = Field(default=0.0, ge=0, le=2, description="0 is the most repeatable.")
    votes: int = Field(default=1, ge=1, le=25, description="How often the model is asked; the majority wins.")
    template: str = Field(default="{text}", description="How the text is put to the model; {text} stands for it.")

    @field_validator("categories", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return dict.fromkeys(cast("list[Any]", value), "") if isinstance(value, list) else value

    @model_validator(mode="after")
    def _known_examples(self) -> ClassifierConfig:
        for at, example in enumerate(self.examples):
            if example.category not in self.categories:
                known = nearest(example.category, self.categories)
                raise ValueError(f"examples.{at}: unknown category {example.category!r}{known}")
        if "{text}" not in self.template:
            raise ValueError("template: put {text} where the message's text belongs")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes: at temperature 0 every vote is the same; set temperature, for example to 0.7")
        return self


class ClassifierAgent(ReadyAgent):
    """Replies with the category of a message's text.

    The payload is the category. Metadata: `category`; `input`, the text itself; `model`; and `confidence` with
    `confidence_from`, where something is known about it:

    * `votes`: the share of the votes that the category got, when `votes` is more than 1;
    * `logprobs`: the probability that the model gave to the category against the other categories, token by token,
      where the vendor tells log probabilities. A model's probabilities are not calibrated: they rank its answers well
      and overstate how often they are right.

    Otherwise there is no `confidence`. Raises ProviderError (InvalidCompletion when the model keeps missing the
    categories) and BudgetExceeded; the constructor ConfigError.
    """

    role = "classifier"
    idempotent = True

    def __init__(self, spec: AgentSpec, *, models: Models | None = None) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, ClassifierConfig)
        self._chat = self.chat()
        self._schema = _schema_of(tuple(self.config.categories))
        self._turns = self._opening()

    async def execute(self, message: Message) -> Message:
        """The category of `message`."""
        request = self._request(message)
        asked = [self._chat.complete_structured(request, self._schema) for _ in range(self.config.votes)]
        answers = await _all(asked)
        votes = Counter(str(getattr(answer, _FIELD)) for answer, _ in answers)
        category, count = votes.most_common(1)[0]
        completion = next(completion for answer, completion in answers if getattr(answer, _FIELD) == category)
        metadata: dict[str, Any] = {"category": category, "input": message.text}
        if self.config.votes > 1:
            metadata |= {"confidence": count / self.config.votes, "confidence_from": "votes"}
        elif (known := probability(completion, category, tuple(self.config.categories))) is not None:
            metadata |= {"confidence": known, "confidence_from": "logprobs"}
        return reply_to(message, category, metadata | completion_metadata(completion))

    def _request(self, message: Message) -> CompletionRequest:
        return CompletionRequest(
            (*self._turns, self._question(message.text)),
            temperature=self.config.temperature,
            max_tokens=_MAX_TOKENS,
            top_logprobs=_TOP_LOGPROBS if self.config.votes == 1 else 0,
        )

    def _opening(self) -> Sequence[ChatMessage]:
        lines = [self.spec.prompt or _DEFAULT_PROMPT, "Categories:"]
        lines += [f"- {name}: {about}" if about else f"- {name}" for name, about in self.config.categories.items()]
        turns = [ChatMessage("system", "\n".join(lines))]
        for example in self.config.examples:
            answer = to_json({_FIELD: example.category}).decode()
            turns += [self._question(example.text), ChatMessage("assistant", answer)]
        return tuple(turns)

    def _question(self, text: str) -> ChatMessage:
        return ChatMessage("user", self.config.template.replace("{text}", text))


def probability(completion: Completion, category: str, categories: Sequence[str]) -> float | None:
    """The probability of `category` against the other `categories`, from the completion's log probabilities.

    At each token of the category's name it is the share of the token that was taken among all that lead on to some
    category; the product of these is what a decoder that can only name categories would have chosen with. Tokens that
    the vendor did not list count as nothing. None without log probabilities.
    """
    value = f'"{category}"'
    start = completion.text.rfind(value) + 1
    if not completion.tokens or start == 0:
        return None
    product, at = 1.0, 0
    for token in completion.tokens:
        end = at + len(token.text)
        if end > start and at < start + len(category):
            share = _share(token, start - at, completion.text[start : max(at, start)], categories)
            if share is None:
                return None
            product *= share
        at = end
    return product


def _share(token: TokenChoice, lead: int, named: str, categories: Sequence[str]) -> float | None:
    """What the token that was taken has of the probability of all tokens that go on to a category after `named`.

    `lead` is how many characters of the token stand before the category's name (JSON's quote, mostly).
    """
    head = token.text[: max(lead, 0)]
    weights = {
        text: math.exp(logprob)
        for text, logprob in token.likeliest.items()
        if text.startswith(head) and len(text) > len(head) and _leads_on(named + text[len(head) :], categories)
    }
    total = sum(weights.values())
    return weights[token.text] / total if token.text in weights else None


def _leads_on(named: str, categories: Sequence[str]) -> bool:
    return any(f'{category}"}}'.startswith(named) for category in categories)


def _schema_of(categories: Sequence[str]) -> type[BaseModel]:
    choice: Any = Literal[categories]
    return create_model("Answer", category=(choice, ...))


async def _all(asked: Sequence[Coroutine[Any, Any, AnswerT]]) -> list[AnswerT]:
    """The results of all; when one fails the others are cancelled, and its error is raised as it is."""
    if len(asked) == 1:
        return [await asked[0]]
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
