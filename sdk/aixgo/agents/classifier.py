"""The role `classifier`: a model chooses one of the categories.

Owns ClassifierAgent, its configuration, and what its confidence means. Below: `aixgo.llm`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, TypeVar, cast

from pydantic import BaseModel, Field, create_model, field_validator, model_validator

from aixgo.agents.base import ReadyAgent, RoleConfig, completion_metadata, read_config, reply_to
from aixgo.agents.leanings import leanings, softmax
from aixgo.config.spec import AgentSpec
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest
from aixgo.llm.models import Models
from aixgo.message import Message, to_json
from aixgo.names import nearest

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
    calibrate: tuple[str, ...] = Field(
        default=(), description="Texts of no category, such as N/A: what the model leans to there is taken out."
    )
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
                raise ValueError(f"examples.{at}: unknown category {example.category!r}; {known}")
        if "{text}" not in self.template:
            raise ValueError("template: put {text} where the message's text belongs")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes: at temperature 0 every vote is the same; set temperature, for example to 0.7")
        if self.votes > 1 and self.calibrate:
            raise ValueError("calibrate: it works on log probabilities and votes do not; set one of the two")
        return self


class ClassifierAgent(ReadyAgent):
    """Replies with the category of a message's text.

    The payload is the category. Metadata: `category`; `input`, the text itself; `model`; and `confidence` (0 to 1) with
    `confidence_from`, where something is known about it:

    * `votes`: the share of the votes that the category got, when `votes` is more than 1;
    * `logprobs`: the model's probability of the category against the other categories, where the vendor tells log
      probabilities. These rank a model's answers, but overstate how often they are right.

    Otherwise there is no `confidence`.

    Small models lean to some categories whatever the text says. With `calibrate` the agent asks about those texts once,
    when it is first called, and takes the leaning that it finds out of the log probabilities of every later answer
    ("contextual calibration", Zhao et al. 2021); with a vendor that tells none it changes nothing.

    Raises ProviderError (InvalidCompletion when the model keeps missing the categories) and BudgetExceeded; the
    constructor ConfigError.
    """

    role = "classifier"
    idempotent = True

    def __init__(self, spec: AgentSpec, *, models: Models | None = None) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, ClassifierConfig)
        self._chat = self.chat()
        self._names = tuple(self.config.categories)
        self._schema = _schema_of(self._names)
        self._turns = self._opening()
        self._bias: Mapping[str, float] | None = None
        self._calibrating = asyncio.Lock()

    async def execute(self, message: Message) -> Message:
        """The category of `message`."""
        if self.config.votes > 1:
            category, confidence, completion = await self._elected(message.text)
        else:
            category, confidence, completion = await self._chosen(message.text)
        metadata: dict[str, Any] = {"category": category, "input": message.text}
        if confidence is not None:
            source = "votes" if self.config.votes > 1 else "logprobs"
            metadata |= {"confidence": confidence, "confidence_from": source}
        return reply_to(message, category, metadata | completion_metadata(completion))

    async def _elected(self, text: str) -> tuple[str, float, Completion]:
        answers = await _all([self._ask(text) for _ in range(self.config.votes)])
        category, count = Counter(category for category, _ in answers).most_common(1)[0]
        return category, count / len(answers), next(one for name, one in answers if name == category)

    async def _chosen(self, text: str) -> tuple[str, float | None, Completion]:
        bias = await self._known_bias()
        category, completion = await self._ask(text)
        found = leanings(completion, self._names)
        if found is None:
            return category, None, completion
        shares = softmax({name: value - bias.get(name, 0.0) for name, value in found.items()})
        if bias:
            category = max(self._names, key=lambda name: (shares[name], name == category))
        return category, shares[category], completion

    async def _known_bias(self) -> Mapping[str, float]:
        async with self._calibrating:
            if self._bias is None:
                answers = await _all([self._ask(text) for text in self.config.calibrate])
                found = [known for _, one in answers if (known := leanings(one, self._names)) is not None]
                self._bias = {name: fmean(one[name] for one in found) for name in self._names} if found else {}
        return self._bias

    async def _ask(self, text: str) -> tuple[str, Completion]:
        answer, completion = await self._chat.complete_structured(self._request(text), self._schema)
        return str(getattr(answer, _FIELD)), completion

    def _request(self, text: str) -> CompletionRequest:
        return CompletionRequest(
            (*self._turns, self._question(text)),
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
