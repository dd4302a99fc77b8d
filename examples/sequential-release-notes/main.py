"""Release notes from a list of merged changes, in three steps of which the last depends on the second."""

import os
import sys
from pathlib import Path

from aixgo import AgentSpec, Message, Sequential, run
from aixgo.agents.llm import LLMAgent

HERE = Path(__file__).parent
MODEL = os.environ.get("AIXGO_MODEL", f"test/script:{HERE / 'script.yaml'}")


def writer(name: str, prompt: str) -> LLMAgent:
    return LLMAgent(AgentSpec(name=name, role="llm", model=(MODEL,), prompt=prompt))


def breaks_something(notes: Message) -> bool:
    """Whether the third step is needed. It sees what the second one wrote."""
    return "breaking" in notes.text.casefold()


release_notes = Sequential(
    "release-notes",
    [
        writer("sorter", "You sort changes. Keep what users notice, marked [new], [better], [fix] or [breaking]."),
        writer("writer", "You write release notes from sorted changes. Plain words, one line for each."),
        writer("upgrade", "You write upgrade notes. Repeat the notes, then say what to do about breaking changes."),
    ],
    when={"upgrade": breaks_something},
)

for changes in sys.argv[1:] or ["2.5.0.txt", "2.5.1.txt"]:
    reply = run(release_notes, (HERE / changes).read_text())
    skipped = [step["agent"] for step in reply.metadata.get("skipped_steps", [])]
    print(reply.text)
    print(f"-- {reply.metadata['step_count']} steps, skipped: {skipped}, {reply.usage.total_tokens} tokens\n")
