"""The role `planner`: a model thinks about a goal, plans the steps, and corrects its own plan.

Owns PlannerAgent and its configuration. Below: how it thinks (`thoughts.py`), what a plan is (`aixgo.plans`). Above:
the pattern planning, which carries plans out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal, cast

from pydantic import Field, model_validator

from aixgo.agents.base import ReadyAgent, RoleConfig, completion_metadata, read_config, reply_to
from aixgo.agents.search import Bounds
from aixgo.agents.thoughts import (
    Asking,
    Chain,
    Outline,
    Strategy,
    SubGoals,
    TreeOfThoughts,
    flaws_of,
    outlined,
    reasoned,
)
from aixgo.agents.turns import history, schema_of, structured
from aixgo.config.spec import AgentSpec
from aixgo.errors import InvalidInput
from aixgo.events import Delta, Event, Result
from aixgo.llm.contract import ChatMessage, Completion
from aixgo.llm.models import Models
from aixgo.llm.structured import strict_schema
from aixgo.message import JSON, Message, to_json
from aixgo.plans import MAX_STEPS, Plan, plan_model

MAX_AGENTS = 100
_PROMPT = "You plan how to reach a goal: few steps, each with a clear task, and only the needs that there are."
_ONLY_FOR: Mapping[str, frozenset[str]] = {
    "tree": frozenset({"branching", "depth", "beam", "search", "max_expansions"}),
    "hierarchical": frozenset({"max_subgoals"}),
}


class PlannerConfig(RoleConfig):
    """`config:` of the role `planner`."""

    strategy: Literal["chain", "tree", "hierarchical"] = Field(
        default="chain", description="How it thinks: a chain of thought, a search in a tree, or from sub-goals."
    )
    critique: int = Field(default=0, ge=0, le=5, description="Rounds in which it looks for flaws and corrects them.")
    max_steps: int = Field(default=MAX_STEPS, ge=1, le=1000, description="Steps of the plan.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is the most repeatable.")
    max_tokens: int = Field(default=2048, gt=0, description="Bounds each completion.")
    branching: int = Field(default=3, ge=1, le=10, description="tree: ways to go on at each node.")
    depth: int = Field(default=3, ge=1, le=10, description="tree: thoughts one after another.")
    beam: int = Field(default=2, ge=1, le=10, description="tree, search beam: nodes of a level that go on.")
    search: Literal["beam", "best_first"] = Field(default="beam", description="tree: what is expanded next.")
    max_expansions: int = Field(default=12, ge=1, le=100, description="tree: each takes two completions.")
    max_subgoals: int = Field(default=5, ge=1, le=20, description="hierarchical: each takes a completion.")
    concurrency: int = Field(default=4, ge=1, le=32, description="Completions at once.")

    @model_validator(mode="after")
    def _of_this_strategy(self) -> PlannerConfig:
        for strategy, keys in _ONLY_FOR.items():
            strange = sorted(keys & self.model_fields_set)
            if strange and strategy != self.strategy:
                raise ValueError(f"{strange[0]}: only for strategy {strategy}, and this is {self.strategy}; remove it")
        return self


class PlannerAgent(ReadyAgent):
    """Answers a goal, the message's text, with a plan: {"goal", "steps": [{"id", "task", "needs"}]}.

    How it thinks before: `chain` reasons in one text; `tree` proposes ways to go on, scores them and follows the best
    (at most `max_expansions`; the best leaf becomes the plan); `hierarchical` goes from the goal to sub-goals to steps.
    Then it plans, and with `critique: N` lists flaws and plans again, up to N times, until it finds none. Plans are
    valid: ids are unique, needs are there, nothing goes in circles; a model that misses this is told and asked again.

    A request may have in its metadata `agents`, name -> description: each step then has an `agent`; and
    `response_schema`: the payload then follows that schema. The plans of the pattern planning are asked for with both.

    It streams what it thinks as Deltas, then the Result. Metadata: `strategy`; `reasoning`, `tree` {nodes: [{id,
    parent, depth, thought, score, finished}], expansions, best}, or `subgoals` [{goal, steps}]; `critiques`, the flaws
    found in each round; `model`, `stop_reason`. Raises ProviderError (InvalidCompletion when the model keeps missing
    what a plan is), BudgetExceeded, InvalidInput; the constructor ConfigError.
    """

    role = "planner"
    idempotent = True

    def __init__(self, spec: AgentSpec, *, models: Models | None = None) -> None:
        super().__init__(spec, models=models)
        self.config = read_config(spec, PlannerConfig)
        self._chat = self.chat()
        self._strategy = _strategy(self.config)

    async def execute(self, message: Message) -> Message:
        """The plan for `message`."""
        asking = self._asking(message)
        return await self._planned(message, asking, await self._strategy.outline(asking))

    async def stream(self, message: Message) -> AsyncIterator[Event]:
        """What it thinks in Deltas, a chain of thought as it comes; then the Result."""
        asking = self._asking(message)
        if not isinstance(self._strategy, Chain):
            outline = await self._strategy.outline(asking)
            if outline.text:
                yield Delta(outline.text)
            yield Result(await self._planned(message, asking, outline))
            return
        async with aclosing(cast("Any", self._chat.stream(self._strategy.request(asking)))) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    yield Delta(chunk.text)
                if (done := chunk.completion) is not None:
                    yield Result(await self._planned(message, asking, reasoned(done.text)))

    def _asking(self, message: Message) -> Asking:
        lines = [message.text]
        if schema_of(message) is None and (agents := _agents(message)):
            lines += ["", "Assign each step to one of these agents:"]
            lines += [f"- {name}: {about}" if about else f"- {name}" for name, about in agents.items()]
        turns = (
            ChatMessage("system", self.spec.prompt or _PROMPT),
            *history(self.name, message),
            ChatMessage("user", "\n".join(lines)),
        )
        return Asking(self._chat, turns, self.config.temperature, self.config.max_tokens)

    async def _planned(self, message: Message, asking: Asking, outline: Outline) -> Message:
        question = "Now give the plan."
        before = outlined(outline)
        plan, completion = await self._plan(message, asking, question, before)
        critiques: list[Sequence[str]] = []
        while len(critiques) < self.config.critique:
            text = to_json(plan).decode()
            flaws = await flaws_of(asking, text)
            critiques.append(list(flaws))
            if not flaws:
                break
            again = "\n".join(["The plan has these flaws; give a better one:", *(f"- {flaw}" for flaw in flaws)])
            turns = (*before, ChatMessage("user", question), ChatMessage("assistant", text))
            plan, completion = await self._plan(message, asking, again, turns)
        metadata = {"strategy": self.config.strategy, **outline.metadata}
        metadata |= {"critiques": critiques} if self.config.critique else {}
        return reply_to(message, plan, metadata | completion_metadata(completion))

    async def _plan(
        self, message: Message, asking: Asking, question: str, before: Sequence[ChatMessage]
    ) -> tuple[JSON, Completion]:
        """The plan as the payload to answer with."""
        request, schema = asking.request(question, *before), schema_of(message)
        model = self._model(message, schema)
        if model is None:
            completion = await self._chat.complete(replace(request, schema=schema))
            return structured(completion), completion
        plan, completion = await self._chat.complete_structured(request, model)
        steps = [step.to_json() for step in plan.steps]
        return ({"steps": steps} if schema is not None else {"goal": message.text, "steps": steps}), completion

    def _model(self, message: Message, schema: Mapping[str, Any] | None) -> type[Plan] | None:
        """What the plan must be; None for a schema of somebody else's, which says only what it says."""
        agents, done = _agents(message), message.metadata.get("done") or ()
        if schema is None:
            return plan_model(agents=agents, max_steps=self.config.max_steps)
        most = schema.get("properties", {}).get("steps", {}).get("maxItems")
        if not isinstance(most, int) or not isinstance(done, (Mapping, tuple)):
            return None
        ours = plan_model(agents=agents, max_steps=most, done=cast("Mapping[str, Any]", done))
        return ours if strict_schema(ours.model_json_schema()) == schema else None


def _agents(message: Message) -> Mapping[str, str]:
    """The agents that steps can be assigned to, with their descriptions. Raises InvalidInput."""
    given: Any = message.metadata.get("agents", {})
    if not isinstance(given, Mapping) or len(cast("Mapping[str, Any]", given)) > MAX_AGENTS:
        raise InvalidInput(f"metadata.agents must be an object, agent -> description, of at most {MAX_AGENTS}")
    return {str(name): str(about or "") for name, about in cast("Mapping[Any, Any]", given).items()}


def _strategy(config: PlannerConfig) -> Strategy:
    if config.strategy == "tree":
        bounds = Bounds(config.branching, config.depth, config.max_expansions, config.search, config.beam)
        return TreeOfThoughts(replace(bounds, concurrency=config.concurrency))
    if config.strategy == "hierarchical":
        return SubGoals(config.max_subgoals, config.max_steps, config.concurrency)
    return Chain()
