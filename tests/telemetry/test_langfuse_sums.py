"""What Langfuse adds up is what a call says it spent, over many random trees with failures and cancellations."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from decimal import Decimal
from typing import Any

from aixgo import Agent, AgentSpec, LocalRuntime, Message, Orchestrator, Parallel, Sequential
from aixgo.agents.llm import LLMAgent
from aixgo.errors import AixgoError, ProviderTimeout, RateLimited
from aixgo.llm.models import Models, ModelSettings
from aixgo.llm.pricing import Price
from aixgo.llm.scripted import Reply, ScriptedModel
from aixgo.telemetry.langfuse import LangfuseSettings
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.telemetry.setup import set_up
from aixgo.usage import Usage
from pydantic import SecretStr

from tests.telemetry.langfuse_server import Observation, langfuse_server

TREES, AT_ONCE, DEEPEST, WIDEST = 200, 20, 3, 3
TIMEOUT = 1.0
"""Seconds of a tree: those where something waits that never comes end by it."""
CENT = Decimal("0.01")


class Forest:
    """Random trees of agents, the same for one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._models = Models(
            ModelSettings(),
            scripted={name: ScriptedModel(getattr(self, f"_{name}")) for name in ("good", "fails", "late", "waits")},
            prices={
                "test/good": Price(Decimal("0.0031"), Decimal("0.0107")),
                "test/late": Price(Decimal(1), Decimal(2)),
            },
        )
        self._gate = asyncio.Event()
        self.agents: list[Agent] = []

    def tree(self, name: str, depth: int = 0) -> str:
        """Make a tree whose root has this name."""
        if depth == DEEPEST or (depth and self._random.random() < 0.4):
            kind = self._random.choices(("good", "fails", "late", "waits"), (6, 1, 1, 1))[0]
            self.agents.append(LLMAgent(AgentSpec(name=name, role="llm", model=(f"test/{kind}",)), models=self._models))
            return name
        members = [self.tree(f"{name}-{at}", depth + 1) for at in range(self._random.randint(1, WIDEST))]
        self.agents.append(self._pattern(name, members))
        return name

    def _pattern(self, name: str, members: list[str]) -> Orchestrator:
        if self._random.random() < 0.5:
            return Sequential(name, members)
        return Parallel(name, members, require=1, early_stop=self._random.random() < 0.5)

    def _usage(self) -> Usage:
        prompt, completion = self._random.randint(1, 5000), self._random.randint(1, 900)
        return Usage(
            prompt, completion,
            cached_tokens=self._random.randint(0, prompt), reasoning_tokens=self._random.randint(0, completion),
        )  # fmt: skip

    def _good(self, _: Any) -> Reply:
        return Reply("good", usage=self._usage())

    def _fails(self, _: Any) -> Exception:
        return RateLimited("no more")

    def _late(self, _: Any) -> Exception:
        error = ProviderTimeout("too late")
        error.usage = self._usage()
        return error

    def _waits(self, _: Any) -> Reply:
        return Reply("never", gate=self._gate)


async def spent(runtime: LocalRuntime, name: str) -> Usage:
    """What a call says it spent, whatever became of it."""
    try:
        return (await runtime.call(name, Message("x", session_id=name), timeout=TIMEOUT)).usage
    except AixgoError as error:
        return error.usage


async def test_sums_over_random_trees_are_equal_to_the_token_and_the_cent():
    forest, runtime, said = Forest(5), LocalRuntime(), dict[str, Usage]()
    roots = [forest.tree(f"t{number}") for number in range(TREES)]
    for each in forest.agents:
        runtime.register(each)
    with langfuse_server() as server:
        langfuse = LangfuseSettings("pk-lf-forest", SecretStr("sk-lf-forest"), server.url)
        async with set_up(TelemetrySettings(langfuse=langfuse)) as telemetry, runtime:
            assert telemetry.tracer_provider is not None
            for at in range(0, TREES, AT_ONCE):
                batch = roots[at : at + AT_ONCE]
                said |= zip(batch, await asyncio.gather(*(spent(runtime, name) for name in batch)), strict=True)
                await asyncio.to_thread(telemetry.tracer_provider.force_flush)  # its queue is bounded
    by_tree = defaultdict[str, list[Observation]](list)
    for each in server.of_type("generation"):
        by_tree[each.attributes["session.id"]].append(each)
    assert {name for name, usage in said.items() if usage.llm_calls} == set(by_tree)
    for name, generations in by_tree.items():
        assert len(generations) == said[name].llm_calls
        assert sum(each.usage["total"] for each in generations) == said[name].total_tokens
        costs = [each.cost for each in generations if each.cost is not None]
        assert sum(costs, Decimal()).quantize(CENT) == (said[name].cost_usd or Decimal()).quantize(CENT)
    ended = {each.attributes.get("error.type") for each in server.observations}
    assert {"RateLimited", "ProviderTimeout", "CallCancelled"} <= ended
