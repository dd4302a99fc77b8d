"""How a planner's model thinks before it plans: in a chain, in a tree, or from sub-goals; and how it finds flaws.

Owns the strategies' questions to the model, and what each leaves behind: an outline for the plan, and metadata. Below:
`search.py` (the tree). Above: the role `planner`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field, create_model

from aixgo.agents.search import Bounds, Candidate, search
from aixgo.agents.together import together
from aixgo.llm.chat import Chat
from aixgo.llm.contract import ChatMessage, CompletionRequest, SchemaT
from aixgo.llm.shares import Share

MAX_FLAWS = 10

_CHAIN = (
    "Think step by step about how to do this: what has to be done, in which order, and what depends on what."
    " Do not write the plan yet."
)
_OUTLINE = "This outline was found:"


@dataclass(frozen=True, slots=True)
class Outline:
    """What was thought before the plan, and what the reply's metadata says of it."""

    text: str
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asking:
    """A model and how it is asked: `turns` are the goal and what stands before it."""

    chat: Chat
    turns: Sequence[ChatMessage]
    temperature: float | None
    max_tokens: int

    def request(self, question: str, *between: ChatMessage) -> CompletionRequest:
        """`question` after the goal, in one turn with it where nothing stands between."""
        *above, goal = self.turns
        asked = (*between, ChatMessage("user", question)) if between else ()
        first = goal if between else ChatMessage("user", f"{goal.content}\n\n{question}")
        turns = (*above, first, *asked)
        return CompletionRequest(turns, temperature=self.temperature, max_tokens=self.max_tokens)

    async def structured(self, question: str, schema: type[SchemaT]) -> SchemaT:
        """The answer as `schema`. Raises InvalidCompletion."""
        answer, _ = await self.chat.complete_structured(self.request(question), schema)
        return answer


class Strategy(Protocol):
    """A way to think."""

    async def outline(self, asking: Asking) -> Outline:
        """What to do, as the model sees it before it plans."""
        ...


class Chain:
    """Chain of thought: one text of reasoning (Wei et al. 2022)."""

    def request(self, asking: Asking) -> CompletionRequest:
        """What the model is asked: the text can be streamed."""
        return asking.request(_CHAIN)

    async def outline(self, asking: Asking) -> Outline:
        completion = await asking.chat.complete(self.request(asking))
        return reasoned(completion.text)


def reasoned(text: str) -> Outline:
    """The outline that a chain of thought is."""
    return Outline(text, {"reasoning": text})


class Thought(BaseModel):
    """One way to go on."""

    thought: str = Field(description="What to do next, in one or two sentences.")
    finished: bool = Field(default=False, description="True when nothing is left to do after it.")


class TreeOfThoughts:
    """Proposes ways to go on, scores them, and follows the best. Two completions for each expansion."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        thoughts: Any = Annotated[tuple[Thought, ...], Field(max_length=bounds.branching)]
        self._thoughts: Any = create_model("Thoughts", thoughts=(thoughts, ...))

    async def outline(self, asking: Asking) -> Outline:
        async def expand(before: Sequence[str]) -> Sequence[Candidate]:
            return await self._expand(asking, before)

        tree = await search(expand, self._bounds)
        lines = [f"{number}. {thought}" for number, thought in enumerate(tree.thoughts(tree.best), 1)]
        return Outline("\n".join(lines), {"tree": tree.to_json()})

    async def _expand(self, asking: Asking, before: Sequence[str]) -> Sequence[Candidate]:
        so_far = _listed("So far it begins like this:", before) if before else "Nothing is planned yet."
        question = f"{so_far}\nPropose at most {self._bounds.branching} different ways to go on by one step."
        proposed = (await asking.structured(question, self._thoughts)).thoughts
        if not proposed:
            return ()
        options = _listed("These are ways to go on:", [each.thought for each in proposed])
        question = f"{so_far}\n{options}\nScore each from 0 (leads nowhere) to 1 (surely reaches the goal)."
        scores = (await asking.structured(question, _scores(len(proposed)))).scores
        return [Candidate(each.thought, score, each.finished) for each, score in zip(proposed, scores, strict=True)]


class SubGoals:
    """Takes the goal apart into sub-goals, and each into steps. One completion, and one more for each sub-goal."""

    def __init__(self, max_subgoals: int, max_steps: int, concurrency: int) -> None:
        self._subgoals = _texts("SubGoals", "subgoals", max_subgoals)
        self._tasks = _texts("Tasks", "tasks", max_steps)
        self._most, self._concurrency = max_subgoals, concurrency

    async def outline(self, asking: Asking) -> Outline:
        question = f"Take this goal apart into at most {self._most} sub-goals, in the order in which to reach them."
        goals: Sequence[str] = (await asking.structured(question, self._subgoals)).subgoals
        listed = _listed("The goal was taken apart into:", goals)
        asked = [self._steps_of(asking, listed, number) for number in range(1, len(goals) + 1)]
        found = await together(asked, concurrency=self._concurrency)
        lines: list[str] = []
        for number, (goal, steps) in enumerate(zip(goals, found, strict=True), 1):
            lines += [f"{number}. {goal}", *(f"   {number}.{at} {step}" for at, step in enumerate(steps, 1))]
        made = [{"goal": goal, "steps": list(steps)} for goal, steps in zip(goals, found, strict=True)]
        return Outline("\n".join(lines), {"subgoals": made})

    async def _steps_of(self, asking: Asking, listed: str, number: int) -> Sequence[str]:
        question = f"{listed}\nList the steps that reach sub-goal {number}, and only that one."
        return (await asking.structured(question, self._tasks)).tasks


class Flaws(BaseModel):
    """What is wrong with a plan."""

    flaws: Annotated[tuple[str, ...], Field(max_length=MAX_FLAWS)]


async def flaws_of(asking: Asking, plan: str) -> Sequence[str]:
    """What the model finds wrong with a plan (a JSON text); nothing when it is good."""
    question = (
        "Check this plan: are steps missing, wrong, superfluous, or in an impossible order? List its flaws; give an"
        " empty list when it has none."
    )
    return (await asking.structured(f"{question}\n{plan}", Flaws)).flaws


def outlined(outline: Outline) -> Sequence[ChatMessage]:
    """The turns that an outline is, before the question for the plan."""
    return (ChatMessage("assistant", f"{_OUTLINE}\n{outline.text}"),) if outline.text else ()


def _scores(count: int) -> Any:
    scores: Any = Annotated[tuple[Share, ...], Field(min_length=count, max_length=count)]
    return create_model("Scores", scores=(scores, ...))


def _texts(name: str, key: str, most: int) -> Any:
    """The model of an object with a list of 1 to `most` texts under `key`."""
    texts: Any = Annotated[tuple[str, ...], Field(min_length=1, max_length=most)]
    fields: dict[str, Any] = {key: (texts, ...)}
    return create_model(name, **fields)


def _listed(head: str, texts: Sequence[str]) -> str:
    return "\n".join([head, *(f"{number}. {text}" for number, text in enumerate(texts, 1))])
