"""A plan meets reality: three looks at once, a fix that is refused, a new plan that builds on what was found."""

import asyncio
import os
from pathlib import Path

from aixgo import AgentSpec, LocalRuntime, MemberFinished, Planning
from aixgo.agents.llm import LLMAgent
from operations import Operations

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")
COMMANDER = "You plan what is done about an incident. First look, then fix, then check, then tell the customers."


def llm(name: str, prompt: str) -> LLMAgent:
    return LLMAgent(AgentSpec(name=name, role="llm", model=(MODEL,), prompt=prompt))


incident = Planning(
    "incident",
    [
        llm("metrics", "You read dashboards. Answer with figures and times."),
        llm("logs", "You read logs. Answer with the error that matters."),
        Operations(AgentSpec(name="operations", role="operations:Operations")),
        llm("comms", "You write to customers, in two sentences."),
    ],
    llm("commander", COMMANDER),
    descriptions={"operations": "lists changes, rolls a service back to a version, switches a flag off"},
)


async def main() -> None:
    runtime = LocalRuntime()
    runtime.register(incident)
    async with runtime, runtime.stream("incident", "Checkout fails for many customers since about 13:30.") as events:
        async for event in events:
            if isinstance(event, MemberFinished) and event.path[-1] == "operations":
                print(f"operations: {event.error or (event.message and event.message.text)}")
    reply = events.result
    assert reply is not None, "a stream ends with its result, or raises"
    for step in reply.metadata["plan"]:
        print(f"{step['id']} ({step['agent']}): {reply.metadata['step_results'][step['id']]}")
    print(f"-- {reply.metadata['step_count']} steps done, {reply.metadata['replans']} new plan")


asyncio.run(main())
