"""Questions about a handbook of 15 documents: one with a follow-up, one that it does not answer."""

import asyncio
import os
from pathlib import Path

from aixgo import RAG, AgentSpec, LocalRuntime, Message
from aixgo.agents.llm import LLMAgent
from aixgo.agents.retriever import RetrieverAgent
from aixgo.conversation import Turn, with_turns
from quoter import Quoter

HERE = Path(__file__).parent
MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{HERE / 'script.yaml'}")
REWRITER = "You turn follow-up questions into questions that can be understood alone."
QUESTIONS = (
    "How many days of annual leave do I have?",
    "And how many of them can I take into the next year?",
    "My laptop was stolen. How fast must I report it?",
    "What may a hotel in Paris cost?",
    "Does the canteen serve vegetarian food?",
)

handbook = RAG(
    "handbook",
    RetrieverAgent(AgentSpec(name="retriever", role="retriever", config={"documents": "handbook"}), folder=HERE),
    Quoter(AgentSpec(name="generator", role="quoter:Quoter")),
    rewriter=LLMAgent(AgentSpec(name="rewriter", role="llm", model=(MODEL,), prompt=REWRITER)),
    top_k=4,
    min_relevance=0.3,
    no_answer="The handbook says nothing about this. Ask the people team.",
)


async def main() -> None:
    runtime = LocalRuntime()
    runtime.register(handbook)
    turns: list[Turn] = []
    async with runtime:
        for question in QUESTIONS:
            follows = question.startswith("And")
            message = with_turns(Message(question), turns) if follows else Message(question)
            reply = await runtime.call("handbook", message, timeout=120)
            print(f"{question}\n   {reply.text}")
            if follows:
                print(f"   asked as: {reply.metadata['queries'][0]}")
            for citation in reply.metadata["citations"]:
                print(f"   [{citation['marker']}] {citation['source']}")
            turns = [Turn("user", question), Turn("assistant", reply.text, "handbook")]


asyncio.run(main())
