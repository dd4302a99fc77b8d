"""Questions go to the cheapest model that can answer them; what that saves is counted."""

import asyncio
import os
from decimal import Decimal
from pathlib import Path

from aixgo import AgentSpec, LocalRuntime, MemberFinished, Router
from aixgo.agents.classifier import ClassifierAgent
from aixgo.agents.llm import LLMAgent
from aixgo.llm.models import Models
from aixgo.llm.pricing import Price

SMALL = os.environ.get("AIXGO_MODEL", "test/script:small.yaml")
LARGE = os.environ.get("AIXGO_LARGE_MODEL", "test/script:large.yaml")
LARGE_PRICE = Price(Decimal("0.0025"), Decimal("0.01"))  # USD per 1,000 tokens
PRICES = {"test/script:small.yaml": Price(Decimal("0.00015"), Decimal("0.0006")), "test/script:large.yaml": LARGE_PRICE}
QUESTIONS = (
    "How do I export a report?",
    "We are 12 people and use it about 9 days a month. Which plan is cheaper for us?",
    "Where do I find my last invoice?",
    "How do we migrate from our old tracker without losing attachments?",
    "I forgot my password. What now?",
)


def help_desk(models: Models) -> Router:
    difficulty = AgentSpec(
        name="difficulty",
        role="classifier",
        model=(SMALL,),
        prompt="How hard is this question for a help desk?",
        config={"categories": {"easy": "a fact of the manual", "hard": "needs thinking, or several steps"}},
    )
    small = AgentSpec(name="small", role="llm", model=(SMALL,), prompt="You answer easy questions in one sentence.")
    large = AgentSpec(name="large", role="llm", model=(LARGE,), prompt="You answer hard questions of customers.")
    routes = {"easy": LLMAgent(small, models=models), "hard": LLMAgent(large, models=models)}
    classifier = ClassifierAgent(difficulty, models=models)
    return Router("help-desk", classifier, routes, fallback=routes["hard"], threshold=0.6)


async def main() -> None:
    models = Models(prices=PRICES, folder=Path(__file__).parent)
    runtime = LocalRuntime()
    runtime.register(help_desk(models))
    spent = large_alone = Decimal()
    async with runtime:
        for question in QUESTIONS:
            async with runtime.stream("help-desk", question) as events:
                async for event in events:
                    if isinstance(event, MemberFinished) and event.message and event.path[-1] != "difficulty":
                        large_alone += LARGE_PRICE.of(event.message.usage)
            reply = events.result
            assert reply is not None, "a stream ends with its result, or raises"
            spent += reply.usage.cost_usd or 0
            print(f"{reply.metadata['routed_to']}: ${reply.usage.cost_usd or 0:.6f}: {question}\n   {reply.text}")
    await models.close()
    print(f"-- {len(QUESTIONS)} questions for ${spent:.6f}; the large model alone: ${large_alone:.6f}")


asyncio.run(main())
