"""A report over three levels: an editor, a lead for each team, workers. The editor says at run time who leads."""

import os
from pathlib import Path

from aixgo import AgentSpec, Hierarchical, run
from aixgo.agents.llm import LLMAgent

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")


def person(name: str, prompt: str) -> LLMAgent:
    return LLMAgent(AgentSpec(name=name, role="llm", model=(MODEL,), prompt=prompt))


report = Hierarchical(
    "report",
    teams={
        "figures": [person("sales", "You know the sales ledger."), person("costs", "You know the cost accounts.")],
        "voices": [person("customers", "You read what customers write."), person("staff", "You talk with the staff.")],
    },
    manager=person("editor", "You are the editor of a report for the board. Look for the one cause behind the facts."),
    managers=[
        person("numbers_lead", "You lead analysts. You want figures, and what they were a year ago."),
        person("people_lead", "You lead interviewers. You want to know what people say, and how many say it."),
    ],
    descriptions={"figures": "know the books", "voices": "hear customers and staff"},
)

reply = run(report, "Write the report on the third quarter for the board.")
for one in reply.metadata["assignments"]:
    print(f"{one['to']}, led by {one['manager']}: {one['task']}\n   {reply.metadata['summaries'][one['to']]}")
print(f"\n{reply.text}")
print(f"-- {reply.usage.llm_calls} LLM calls, {reply.usage.total_tokens} tokens")
