"""What a classifier chooses from and what it answers: its configuration, and a judgement.

Owns no way of judging. Above: the methods (`judging.py` asks a model, `likeness.py` compares embeddings) and
`classifier.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

from pydantic import Field, field_validator, model_validator

from aixgo.agents.base import RoleConfig
from aixgo.names import nearest

_OF_MODEL = ("temperature", "calibrate", "votes", "template", "confidence")
_OF_EMBEDDINGS = ("embeddings", "min_similarity")


class LabelledText(RoleConfig):
    """One text with its right category; with `multi_label`, with all of them, or none."""

    text: str
    category: tuple[str, ...]

    @field_validator("category", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class ClassifierConfig(RoleConfig):
    """`config:` of the role `classifier`."""

    categories: dict[str, str] = Field(
        min_length=2, description="What to choose from: name -> what belongs there (may be empty), or a list of names."
    )
    examples: tuple[LabelledText, ...] = Field(
        default=(), description="Texts with their category: shown to the model, or compared with."
    )
    method: Literal["model", "embeddings"] = Field(
        default="model",
        description="model: a model chooses; embeddings: the category whose description or example is most similar.",
    )
    multi_label: bool = Field(default=False, description="Whether a message may belong to several categories, or none.")
    threshold: float = Field(
        default=0.5, ge=0, le=1, description="Of multi_label: the confidence from which on a category belongs."
    )
    confidence: Literal["auto", "model"] = Field(
        default="auto",
        description="Of method model: model asks it how sure it is; auto takes log probabilities or votes.",
    )
    temperature: float = Field(default=0.0, ge=0, le=2, description="Of method model: 0 is the most repeatable.")
    calibrate: tuple[str, ...] = Field(
        default=(), description="Texts of no category, such as N/A: what the model leans to there is taken out."
    )
    votes: int = Field(default=1, ge=1, le=25, description="How often the model is asked; the majority wins.")
    template: str = Field(default="{text}", description="How the text is put to the model; {text} stands for it.")
    embeddings: str = Field(default="local/minilm", description="Of method embeddings: the model that embeds texts.")
    min_similarity: float = Field(
        default=0.0, ge=0, le=1, description="Of method embeddings: below it the category is `otherwise`."
    )
    otherwise: str = Field(
        default="none",
        min_length=1,
        description="The category of what belongs to none: below min_similarity, or with multi_label.",
    )

    @field_validator("categories", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return dict.fromkeys(cast("list[Any]", value), "") if isinstance(value, list) else value

    @model_validator(mode="after")
    def _known_examples(self) -> ClassifierConfig:
        for at, example in enumerate(self.examples):
            for name in example.category:
                if name not in self.categories:
                    raise ValueError(f"examples.{at}: unknown category {name!r}; {nearest(name, self.categories)}")
            if len(example.category) != 1 and not self.multi_label:
                raise ValueError(f"examples.{at}: has {len(example.category)} categories; name one, or set multi_label")
        return self

    @model_validator(mode="after")
    def _used(self) -> ClassifierConfig:
        unused, other = (_OF_MODEL, "model") if self.method == "embeddings" else (_OF_EMBEDDINGS, "embeddings")
        for key in unused:
            if key in self.model_fields_set:
                raise ValueError(f"{key}: only method {other} uses it")
        if "threshold" in self.model_fields_set and not self.multi_label:
            raise ValueError("threshold: only multi_label uses it; a router has a threshold of its own")
        if "min_similarity" in self.model_fields_set and self.multi_label:
            raise ValueError("min_similarity: with multi_label set threshold instead")
        return self

    @model_validator(mode="after")
    def _fitting(self) -> ClassifierConfig:
        if "{text}" not in self.template:
            raise ValueError("template: put {text} where the message's text belongs")
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes: at temperature 0 every vote is the same; set temperature, for example to 0.7")
        if self.votes > 1 and self.calibrate:
            raise ValueError("calibrate: it works on log probabilities and votes do not; set one of the two")
        if self.calibrate and self.multi_label:
            raise ValueError("calibrate: it works on the choice of one category; set it or multi_label")
        if self.confidence == "model" and (self.votes > 1 or self.calibrate):
            raise ValueError("confidence: votes and calibrate find it by themselves; set it to auto, or leave them out")
        return self


@dataclass(frozen=True, slots=True)
class Judgement:
    """The categories that were chosen, the surest first, each with a confidence (0 to 1) if one is known."""

    chosen: Sequence[tuple[str, float | None]]
    confidence_from: str
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Method(Protocol):
    """A way of judging texts."""

    async def judge(self, text: str) -> Judgement:
        """The categories of a text. Raises ProviderError, BudgetExceeded, InvalidInput."""
        ...
