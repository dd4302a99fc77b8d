"""A draft gets better under a critic's eye; when the next one is worse, the best one is the answer."""

import os
from pathlib import Path

from aixgo import AgentSpec, Reflection, run
from aixgo.agents.llm import LLMAgent

MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{Path(__file__).parent / 'script.yaml'}")
WRITER = "You write messages for a status page, in plain words."
FACTS = "Incoming mail has a delay since 08:10 UTC: 40 minutes. 1 of 3 servers down. News at 11:00."
CRITIC = "You judge messages for a status page: what, since when, whether data is lost, what next."

status_message = Reflection(
    "status-message",
    LLMAgent(AgentSpec(name="writer", role="llm", model=(MODEL,), prompt=WRITER)),
    LLMAgent(AgentSpec(name="critic", role="llm", model=(MODEL,), prompt=CRITIC)),
    threshold=0.9,
    max_iterations=4,
    patience=1,
)

reply = run(
    status_message, "Incoming mail has a delay since 08:10 UTC: 40 minutes. 1 of 3 servers down. News at 11:00."
)
told = reply.metadata
print(reply.text)
print(f"-- scores {told['scores']}: draft {told['best_iteration']} is the best")
print(f"-- stopped: {told['stopped']}; the critic's last word on it: {told['feedback']}")
