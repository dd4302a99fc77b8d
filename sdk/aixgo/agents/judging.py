"""Categories by a model's judgement: one of them, or each by itself.

Owns the classifier's method `model`: what the model is asked, and where the confidence comes from. Below: `aixgo.llm`,
`leanings.py`. Above: `classifier.py`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, Field, create_model

from aixgo.agents.base import completion_metadata
from aixgo.agents.labels import ClassifierConfig, Judgement, LabelledText
from aixgo.agents.leanings import leanings, softmax
from aixgo.agents.together import together
from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, Completion, CompletionRequest
from aixgo.llm.shares import Share
from aixgo.message import to_json

_FIELD = "category"
_TOP_LOGPROBS = 20
_MAX_TOKENS = 64
_TOKENS_A_LABEL = 8
_CHOOSE = "Classify the message."
_CHOOSE_ALL = "Say for each category whether the message belongs to it. It may belong to several, or to none."
_SURE = "Say as a number how sure you are, from 0 (a guess) to 1 (certain)."
_SURE_OF_ALL = "Say for each category as a number how sure you are, from 0 (surely not) to 1 (certain)."


class OneOf:
    """The model chooses one category. See ClassifierAgent for the confidence."""

    def __init__(self, config: ClassifierConfig, prompt: str, chat: Chat) -> None:
        self._config = config
        self._chat = chat
        self._names = tuple(config.categories)
        self._stated = config.confidence == "model"
        choice: Any = Literal[self._names]
        more: dict[str, Any] = {"confidence": (Share, ...)} if self._stated else {}
        self._schema = create_model("Answer", category=(choice, ...), **more)
        prompt = prompt or _CHOOSE
        self._turns = _opening(config, f"{prompt} {_SURE}" if self._stated else prompt, self._shown)
        self._bias: Mapping[str, float] | None = None
        self._calibrating = asyncio.Lock()

    async def judge(self, text: str) -> Judgement:
        if self._config.votes > 1:
            return await self._elected(text)
        if self._stated:
            answer, completion = await self._ask(text)
            known = (str(getattr(answer, _FIELD)), float(getattr(answer, "confidence")))  # noqa: B009  # made above
            return Judgement([known], "model", completion_metadata(completion))
        category, confidence, completion = await self._leaned(text)
        return Judgement([(category, confidence)], "logprobs", completion_metadata(completion))

    async def _elected(self, text: str) -> Judgement:
        answers = await together([self._category(text) for _ in range(self._config.votes)])
        category, count = Counter(category for category, _ in answers).most_common(1)[0]
        completion = next(one for name, one in answers if name == category)
        return Judgement([(category, count / len(answers))], "votes", completion_metadata(completion))

    async def _leaned(self, text: str) -> tuple[str, float | None, Completion]:
        bias = await self._known_bias()
        category, completion = await self._category(text)
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
                answers = await together([self._category(text) for text in self._config.calibrate])
                found = [known for _, one in answers if (known := leanings(one, self._names)) is not None]
                self._bias = {name: fmean(one[name] for one in found) for name in self._names} if found else {}
        return self._bias

    async def _category(self, text: str) -> tuple[str, Completion]:
        answer, completion = await self._ask(text)
        return str(getattr(answer, _FIELD)), completion

    async def _ask(self, text: str) -> tuple[BaseModel, Completion]:
        request = CompletionRequest(
            (*self._turns, _question(self._config, text)),
            temperature=self._config.temperature,
            max_tokens=_MAX_TOKENS,
            top_logprobs=0 if self._stated or self._config.votes > 1 else _TOP_LOGPROBS,
        )
        return await self._chat.complete_structured(request, self._schema)

    def _shown(self, example: LabelledText) -> Mapping[str, Any]:
        shown = {_FIELD: example.category[0]}
        return {**shown, "confidence": 1.0} if self._stated else shown


class EachOf:
    """The model says of every category whether the text belongs to it, or how sure it is that it does.

    One field a category, rather than a list of names: the model must decide on each, and can name none twice.
    """

    def __init__(self, config: ClassifierConfig, prompt: str, chat: Chat) -> None:
        self._config = config
        self._chat = chat
        self._stated = config.confidence == "model"
        kind: Any = Share if self._stated else bool
        self._fields = {name: f"c{at}" for at, name in enumerate(config.categories)}
        fields: dict[str, Any] = {field: (kind, Field(alias=name)) for name, field in self._fields.items()}
        self._schema = create_model("Answer", **fields)
        prompt = prompt or _CHOOSE_ALL
        self._turns = _opening(config, f"{prompt} {_SURE_OF_ALL}" if self._stated else prompt, self._shown)
        self._max_tokens = _MAX_TOKENS + sum(len(name.encode()) + _TOKENS_A_LABEL for name in config.categories)

    async def judge(self, text: str) -> Judgement:
        answers = await together([self._ask(text) for _ in range(self._config.votes)])
        scores = {name: fmean(getattr(answer, field) for answer, _ in answers) for name, field in self._fields.items()}
        known = self._stated or self._config.votes > 1
        least = self._config.threshold if known else 1.0
        ranked = sorted(scores.items(), key=lambda each: -each[1])
        chosen = [(name, score if known else None) for name, score in ranked if score >= least]
        source = "model" if self._stated else "votes"
        return Judgement(chosen, source, completion_metadata(answers[0][1]))

    async def _ask(self, text: str) -> tuple[BaseModel, Completion]:
        request = CompletionRequest(
            (*self._turns, _question(self._config, text)),
            temperature=self._config.temperature,
            max_tokens=self._max_tokens,
        )
        return await self._chat.complete_structured(request, self._schema)

    def _shown(self, example: LabelledText) -> Mapping[str, Any]:
        kind = float if self._stated else bool
        return {name: kind(name in example.category) for name in self._fields}


def _opening(config: ClassifierConfig, prompt: str, shown: Any) -> Sequence[ChatMessage]:
    lines = [prompt, "Categories:"]
    lines += [f"- {name}: {about}" if about else f"- {name}" for name, about in config.categories.items()]
    turns = [ChatMessage("system", "\n".join(lines))]
    for example in config.examples:
        answer = to_json(shown(example)).decode()
        turns += [_question(config, example.text), ChatMessage("assistant", answer)]
    return tuple(turns)


def _question(config: ClassifierConfig, text: str) -> ChatMessage:
    return ChatMessage("user", config.template.replace("{text}", text))
