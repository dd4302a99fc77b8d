"""A customer talks to a swarm twice; the second time the conversation goes on with the agent that had it last."""

import asyncio
import os
from pathlib import Path

from aixgo import AgentSpec, LocalRuntime, Message, Swarm
from aixgo.agents.llm import LLMAgent
from aixgo.conversation import Turn, with_turns

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")
PROMPTS = {
    "front_desk": "You are the front desk. Find out what the customer needs and hand over to who can do it.",
    "billing": "You are billing. You refund and explain invoices. What is no matter of money you hand over.",
    "technical": "You are technical support. You repair accounts and explain the app. Money is a matter of billing.",
}
QUESTIONS = (
    "I was charged twice this month, and since yesterday the app says that my plan has expired.",
    "Thank you! When will the money be back on my account?",
)

swarm = Swarm(
    "customer-service",
    [LLMAgent(AgentSpec(name=name, role="llm", model=(MODEL,), prompt=text)) for name, text in PROMPTS.items()],
    handoffs={"front_desk": ["billing", "technical"], "billing": ["technical"], "technical": ["billing"]},
    descriptions={"billing": "charges, refunds, invoices", "technical": "the app, sign-in, plans that are not active"},
)


async def main() -> None:
    runtime = LocalRuntime()
    runtime.register(swarm)
    active, turns = "front_desk", list[Turn]()
    async with runtime:
        for question in QUESTIONS:
            message = with_turns(Message(question, {"active_agent": active}), turns)
            reply = await runtime.call("customer-service", message)
            print(f"customer: {question}")
            for hop in reply.metadata["handoffs"]:
                print(f"   {hop['from']} hands over to {hop['to']}: {hop['reason']}")
            active = reply.metadata["active_agent"]
            print(f"{active}: {reply.text}\n")
            turns += [Turn("user", question), Turn("assistant", reply.text, active)]


asyncio.run(main())
