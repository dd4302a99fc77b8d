"""Three classifiers and one failing agent look at a review at the same time; an aggregator writes the report."""

import asyncio
import os
from pathlib import Path

from aixgo import Agent, AgentSpec, LocalRuntime, MemberFinished, Parallel
from aixgo.agents.aggregator import AggregatorAgent
from aixgo.agents.classifier import ClassifierAgent
from aixgo.agents.llm import LLMAgent

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")
REVIEW = "I love the new look, but since the update it crashes every morning. If this goes on I will switch."


def classifier(name: str, prompt: str, categories: list[str]) -> Agent:
    config = {"categories": categories}
    return ClassifierAgent(AgentSpec(name=name, role="classifier", model=(MODEL,), prompt=prompt, config=config))


def competitors() -> Agent:
    """An agent whose vendor is down."""
    return LLMAgent(AgentSpec(name="competitors", role="llm", model=("test/fail:ProviderUnavailable",)))


async def main() -> None:
    analysts = [
        classifier("sentiment", "Say how the writer of this review feels.", ["positive", "negative", "mixed"]),
        classifier("topic", "Say what this review is mainly about.", ["price", "reliability", "design"]),
        classifier("churn", "Say whether the writer of this review will leave.", ["leaves", "stays"]),
        competitors(),
    ]
    report = AggregatorAgent(AgentSpec(name="report", role="aggregator"))
    runtime = LocalRuntime()
    runtime.register(Parallel("analysis", analysts, aggregator=report, require="majority"))
    async with runtime, runtime.stream("analysis", REVIEW) as events:
        async for event in events:
            if isinstance(event, MemberFinished):
                print(f"   {event.path[-1]:<12} {'failed' if event.error else 'finished'}")
    reply = events.result
    assert reply is not None, "a stream ends with its result, or raises"
    print(reply.text)
    for agent, error in reply.metadata["parallel_errors"].items():
        print(f"-- without {agent}: {error['class']}")
    print(f"-- {reply.metadata['agent_count']} agents, {reply.usage.total_tokens} tokens")


asyncio.run(main())
