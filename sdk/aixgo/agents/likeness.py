"""Categories by likeness: the one whose description or example is most similar to the text.

Owns the classifier's method `embeddings`. Below: embedders and `clustering.cosine`. Above: `classifier.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aixgo.agents.clustering import Vector, cosine
from aixgo.agents.labels import ClassifierConfig, Judgement
from aixgo.llm.embeddings import Embedder


class Likeness:
    """Nearest neighbour by cosine similarity: a category is as similar as the most similar of its name with
    description, and its examples. The confidence is that similarity itself (0 where it is negative), so it is no
    probability; what it means differs from model to model, and a threshold is to be tried out. The vectors of the
    categories are made at the first call, and again only when that failed.
    """

    def __init__(self, config: ClassifierConfig, embedder: Embedder) -> None:
        self._config = config
        self._embedder = embedder
        self._known: Mapping[str, Sequence[Vector]] | None = None
        self._learning = asyncio.Lock()

    async def judge(self, text: str) -> Judgement:
        known = await self._vectors()
        (vector,) = await self._embedder.embed([text])
        found = {name: max(0.0, *(cosine(vector, one) for one in vectors)) for name, vectors in known.items()}
        ranked = sorted(found.items(), key=lambda each: -each[1])
        metadata = {"similarities": found, "model": self._embedder.name}
        return Judgement(self._chosen(ranked), "similarity", metadata)

    def _chosen(self, ranked: Sequence[tuple[str, float]]) -> Sequence[tuple[str, float]]:
        if self._config.multi_label:
            return [each for each in ranked if each[1] >= self._config.threshold]
        name, similarity = ranked[0]
        return [(name if similarity >= self._config.min_similarity else self._config.otherwise, similarity)]

    async def _vectors(self) -> Mapping[str, Sequence[Vector]]:
        async with self._learning:
            if self._known is None:
                texts = [(name, text) for name in self._config.categories for text in self._texts(name)]
                vectors = await self._embedder.embed([text for _, text in texts])
                known: dict[str, list[Vector]] = {}
                for (name, _), vector in zip(texts, vectors, strict=True):
                    known.setdefault(name, []).append(vector)
                self._known = known
        return self._known

    def _texts(self, name: str) -> Sequence[str]:
        about = self._config.categories[name]
        examples = [one.text for one in self._config.examples if name in one.category and one.text.strip()]
        return [f"{name}: {about}" if about else name, *examples]
