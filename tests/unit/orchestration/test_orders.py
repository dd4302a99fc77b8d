"""What a request asks of its reply, pattern by pattern: it reaches those whose answer is the reply, and nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from aixgo import (
    RAG,
    Debate,
    Ensemble,
    Hierarchical,
    MapReduce,
    Message,
    Orchestrator,
    Parallel,
    Planning,
    Reflection,
    Router,
    Sequential,
    Supervisor,
    Swarm,
)
from aixgo.agent import Agent
from aixgo.asked import HANDOFFS, RESPONSE_SCHEMA
from aixgo.testing import running

SCHEMA = {"type": "object", "title": "TheCallers"}
OFFER = {"billing": "the caller's colleague"}
NOTHING, SHAPE, ALL = "", "schema", "schema and handoffs"

ANSWERS: dict[str, Any] = {
    "boss": {"next": "worker", "assignments": [{"to": "team", "task": "t"}], "score": 0.1, "feedback": "more"},
    "finisher": {"next": "finish", "answer": "done"},
    "planner": {
        "steps": [{"id": "1", "agent": "worker", "task": "t"}, {"id": "2", "agent": "last", "task": "{step.1}"}]
    },
    "judge": {"choice": "1", "reason": "so", "consensus": True, "answer": "yes", "summary": "short"},
    "sorter": "known",
    "shelf": {"chunks": [{"id": "a", "text": "tea"}]},
    "splitter": ["one", "two"],
    "worker": {"position": "yes"},
    "other": {"position": "no"},
    "third": {"position": "maybe"},
}


class Seen(Agent):
    """Answers as ANSWERS says, and notes what it is asked for of what the caller wants."""

    def __init__(self, name: str, seen: dict[str, list[str]]) -> None:
        self.name, self._seen = name, seen

    async def execute(self, message: Message) -> Message:
        wanted = [
            name for name, given in (("schema", SCHEMA), ("handoffs", OFFER)) if given in message.metadata.values()
        ]
        if message.metadata.get(HANDOFFS, OFFER) != OFFER:
            assert self.name in ("worker", "last")  # a swarm's own offer to its members
        self._seen.setdefault(self.name, []).append(" and ".join(wanted))
        return Message(ANSWERS.get(self.name, {"ok": self.name}))


MADE: Sequence[tuple[Orchestrator, dict[str, list[str]]]] = [
    (Supervisor("o", ["worker"], supervisor="boss", max_rounds=1), {"boss": [NOTHING], "worker": [SHAPE]}),
    (Sequential("o", ["worker", "last"]), {"worker": [NOTHING], "last": [ALL]}),
    (Parallel("o", ["worker", "other"]), {"worker": [NOTHING], "other": [NOTHING]}),
    (Parallel("o", ["worker"], aggregator="last"), {"worker": [NOTHING], "last": [ALL]}),
    (Router("o", "sorter", {"known": "last"}), {"sorter": [NOTHING], "last": [ALL]}),
    (Swarm("o", ["worker", "last"]), {"worker": [SHAPE]}),
    (Hierarchical("o", {"team": "worker"}, manager="boss"), {"boss": [NOTHING, ALL], "worker": [NOTHING]}),
    (RAG("o", "shelf", "last", reranker="boss"), {"shelf": [NOTHING], "last": [ALL]}),
    (Reflection("o", "last", "boss", max_iterations=2), {"last": [ALL, ALL], "boss": [NOTHING, NOTHING]}),
    (
        Ensemble("o", ["worker", "other"], strategy="judge", judge="judge"),
        {"worker": [SHAPE], "other": [SHAPE], "judge": [NOTHING]},
    ),
    (Ensemble("o", ["worker", "other"], fallback="last"), {"worker": [SHAPE], "other": [SHAPE], "last": [ALL]}),
    (
        Debate("o", ["worker", "other"], moderator="judge"),
        {"worker": [NOTHING], "other": [NOTHING], "judge": [NOTHING]},
    ),
    (
        Debate("o", ["worker", "other"], rounds=1, fallback="last"),
        {"worker": [NOTHING], "other": [NOTHING], "last": [ALL]},
    ),
    (MapReduce("o", "worker", splitter="splitter"), {"splitter": [NOTHING], "worker": [SHAPE, SHAPE]}),
    (MapReduce("o", "worker", reducer="last"), {"worker": [NOTHING], "last": [ALL]}),
    (Planning("o", ["worker", "last"], "planner"), {"planner": [NOTHING], "worker": [NOTHING], "last": [ALL]}),
    (
        Planning("o", ["worker", "last"], "planner", synthesizer="third"),
        {"planner": [NOTHING], "worker": [NOTHING], "last": [NOTHING], "third": [ALL]},
    ),
]


@pytest.mark.parametrize(("made", "expected"), MADE, ids=lambda each: getattr(each, "pattern", ""))
async def test_only_those_whose_answer_is_the_reply_are_asked_for_what_the_caller_wants_of_it(
    made: Orchestrator, expected: dict[str, list[str]]
) -> None:
    seen: dict[str, list[str]] = {}
    agents = [Seen(name, seen) for name in {*ANSWERS, "last"}]
    async with running(made, *agents) as runtime:
        await runtime.call("o", Message("what now?", {RESPONSE_SCHEMA: SCHEMA, HANDOFFS: OFFER}))
    assert seen == expected
