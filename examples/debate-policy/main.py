"""Three departments argue, hear each other, and agree in the second round."""

import os
from pathlib import Path

from aixgo import AgentSpec, Debate, run
from aixgo.agents.llm import LLMAgent

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")
PROMPTS = {
    "people": "You speak for human resources. You want people to stay.",
    "finance": "You speak for finance. You want to see figures before money is spent.",
    "service": "You speak for customer service. Somebody must pick up the phone on Fridays.",
    "chair": "You chair a debate, and take nobody's side.",
}

agents = {name: LLMAgent(AgentSpec(name=name, role="llm", model=(MODEL,), prompt=PROMPTS[name])) for name in PROMPTS}
chair = agents.pop("chair")
policy = Debate(
    "policy",
    list(agents.values()),
    positions={"people": "a four-day week for everybody", "finance": "stay with five days"},
    moderator=chair,
    rounds=3,
)

reply = run(policy, "Should we introduce a four-day week at the same pay?")
for one in reply.metadata["transcript"]:
    print(f"{one['round']}. {one['agent']} ({one['confidence']:.0%} sure): {one['position']}\n   {one['argument']}")
for number, figures in enumerate(reply.metadata["by_round"], 1):
    print(f"round {number}: consensus {figures['consensus']:.2f}, diversity {figures['diversity']:.2f}")
print(f"\n{reply.text}")
print(f"-- verdict by the {reply.metadata['verdict_by']}, {reply.usage.total_tokens} tokens")
