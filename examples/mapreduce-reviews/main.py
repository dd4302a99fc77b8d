"""Twelve reviews are read at the same time, and counted."""

import os
from pathlib import Path

from aixgo import AgentSpec, MapReduce, run
from aixgo.agents.llm import LLMAgent
from tally import Tally

HERE = Path(__file__).parent
MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{HERE / 'script.yaml'}")

reader = AgentSpec(
    name="reader",
    role="llm",
    model=(MODEL,),
    prompt="You read one review of a hotel. Say what it is about and whether that is good or bad, in its own words.",
    config={"response": "tally:Finding", "temperature": 0},
)
reviews = MapReduce(
    "reviews",
    LLMAgent(reader),
    reducer=Tally(AgentSpec(name="tally", role="tally:Tally")),
    split="lines",
    on_error="skip",
)

reply = run(reviews, (HERE / "reviews.txt").read_text())
print(reply.text)
failed = reply.metadata.get("failed_items", [])
print(f"-- {reply.metadata['item_count']} reviews, {len(failed)} failed, {reply.usage.llm_calls} LLM calls")
