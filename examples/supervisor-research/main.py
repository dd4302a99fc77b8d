"""A lead hands out research, looks at what comes back, and asks again where the first answer was too quick."""

import os
from pathlib import Path

from aixgo import AgentSpec, Supervisor, run
from aixgo.agents.llm import LLMAgent

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")


def member(name: str, prompt: str) -> LLMAgent:
    return LLMAgent(AgentSpec(name=name, role="llm", model=(MODEL,), prompt=prompt))


research = Supervisor(
    "research",
    [
        member("searcher", "You look things up. Answer with figures and where they are from."),
        member("analyst", "You calculate. Show the sums in one or two lines."),
        member("writer", "You write for busy people. Three sentences at most, the recommendation first."),
    ],
    supervisor=member("lead", "You lead a small research team. Be sceptical of quick answers."),
    descriptions={
        "searcher": "finds figures and sources",
        "analyst": "calculates with what is known",
        "writer": "writes the final recommendation",
    },
    max_rounds=8,
)

reply = run(research, "Should our bakery replace its gas oven by an electric one?")
for one in reply.metadata["history"]:
    print(f"{one['round']}. {one['agent']}: {one['instruction']}")
print(f"\n{reply.text}")
print(f"-- {reply.metadata['rounds']} rounds, {reply.usage.llm_calls} LLM calls, {reply.usage.total_tokens} tokens")
