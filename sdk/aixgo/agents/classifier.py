"""The role `classifier`: which of the categories a message belongs to.

Owns ClassifierAgent and what its confidence means. Below: its configuration (`labels.py`) and its methods (`judging.py`
asks a model, `likeness.py` compares embeddings). Above: routers, and whoever asks for a category.
"""

from __future__ import annotations

from typing import Any

from aixgo.agents.base import ReadyAgent, read_config, reply_to
from aixgo.agents.judging import EachOf, OneOf
from aixgo.agents.labels import ClassifierConfig, Judgement, Method
from aixgo.agents.likeness import Likeness
from aixgo.config.spec import AgentSpec
from aixgo.errors import ConfigError
from aixgo.llm.models import Models
from aixgo.message import Message


class ClassifierAgent(ReadyAgent):
    """Replies with the category of a message's text.

    The payload is the category. Metadata: `category`; `input`, the text itself; `model`; and `confidence` (0 to 1) with
    `confidence_from`, where something is known about it:

    * `votes`: the share of the votes that the category got, when `votes` is more than 1;
    * `model`: what the model says of itself, with `confidence: model`; models tend to overstate it;
    * `logprobs`: the model's probability of the category against the other categories, where the vendor tells log
      probabilities. These rank a model's answers, but overstate how often they are right;
    * `similarity`: with `method: embeddings`, the cosine similarity to the nearest description or example of the
      category, 0 where it is negative. Metadata `similarities` has that of every category. Below `min_similarity` the
      category is `otherwise`, for which a router has no route, so that its fallback answers.

    Otherwise there is no `confidence`.

    With `multi_label` the payload is a list of categories, the surest first, and may be empty. Metadata `categories`
    has each as {"category", "confidence"}, and `category` the first, or `otherwise`. A category belongs when its
    confidence reaches `threshold`; where none is known, when the model says so.

    Small models lean to some categories whatever the text says. With `calibrate` the agent asks about those texts once,
    when it is first called, and takes the leaning that it finds out of the log probabilities of every later answer
    ("contextual calibration", Zhao et al. 2021); with a vendor that tells none it changes nothing.

    Raises ProviderError (InvalidCompletion when the model keeps missing the categories), BudgetExceeded, and
    InvalidInput for an empty text with `method: embeddings`; the constructor ConfigError.
    """

    role = "classifier"
    idempotent = True

    def __init__(self, spec: AgentSpec, *, models: Models | None = None) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, ClassifierConfig)
        self._method = self._make_method()

    async def execute(self, message: Message) -> Message:
        """The category of `message`, or its categories."""
        found = await self._method.judge(message.text)
        category, confidence = found.chosen[0] if found.chosen else (self.config.otherwise, None)
        metadata: dict[str, Any] = {"category": category, "input": message.text, **found.metadata}
        if confidence is not None:
            metadata |= {"confidence": confidence, "confidence_from": found.confidence_from}
        if not self.config.multi_label:
            return reply_to(message, category, metadata)
        return reply_to(message, [name for name, _ in found.chosen], metadata | {"categories": _listed(found)})

    def _make_method(self) -> Method:
        if self.config.method == "model":
            return (EachOf if self.config.multi_label else OneOf)(self.config, self.spec.prompt, self.chat())
        try:
            return Likeness(self.config, self._models.embedder(self.config.embeddings))
        except ConfigError as error:
            raise ConfigError(f"agents.{self.name}.config.embeddings: {error.message}") from error


def _listed(found: Judgement) -> list[dict[str, Any]]:
    """The chosen categories as metadata; `confidence` is left out where none is known."""
    return [
        {"category": name} if confidence is None else {"category": name, "confidence": confidence}
        for name, confidence in found.chosen
    ]
