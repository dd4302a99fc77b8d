"""The spans of patterns that choose who works next: supervisor and swarm.

In processes of their own, because a tracer provider can be set once in a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

PROGRAM = """
import asyncio, json, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aixgo import LocalRuntime, Message, Usage, agent
from aixgo import call as ambient
from aixgo.errors import AixgoError
from aixgo.orchestration.supervisor import Supervisor
from aixgo.orchestration.swarm import Swarm

memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)

@agent
async def spends(message):
    ambient.current().ledger.record(Usage(6, 4, llm_calls=1))
    return "x"

@agent
async def passes(message):
    return Message("", {"handoff_to": "spends"})

@agent
async def fails(message):
    raise ValueError("no")

@agent
async def boss(message):
    done = message.metadata["history"]
    return {"next": "finish", "answer": "done"} if done else {"next": "spends"}

async def main(make, streaming):
    runtime = LocalRuntime()
    for each in (spends, passes, fails, boss):
        runtime.register(each)
    runtime.register(eval(make))
    try:
        if streaming:
            async with runtime.stream("o", "a") as events:
                async for _ in events:
                    pass
        else:
            await runtime.call("o", "a")
    except AixgoError:
        pass

asyncio.run(main(*json.loads(sys.argv[1])))
spans = memory.get_finished_spans()
names = {span.context.span_id: span.name for span in spans}
print(json.dumps([
    [s.name, names.get(s.parent.span_id) if s.parent else None, s.status.is_ok, dict(s.attributes)] for s in spans
]))
"""

Span = tuple[str | None, bool, dict[str, Any]]


def spans(make: str, *, streaming: bool = False) -> dict[str, Span]:
    """The spans of one call by name: parent's name, whether it is fine, attributes."""
    arguments = json.dumps([make, streaming])
    ran = subprocess.run([sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return {name: (parent, ok, attributes) for name, parent, ok, attributes in json.loads(ran.stdout)}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_supervisors_decisions_and_workers_are_steps_of_their_round(streaming: bool) -> None:
    seen = spans('Supervisor("o", ["spends"], supervisor="boss")', streaming=streaming)
    parent, ok, attributes = seen["orchestration.supervisor"]
    assert (parent, ok) == ("invoke_agent o", True)
    assert attributes == {
        "pattern": "supervisor", "orchestrator": "o", "agent_count": 2, "supervisor.rounds": 1,
        "supervisor.finished": True, "tokens.total": 10,
    }  # fmt: skip
    assert {name for name in seen if name.startswith("step.")} == {"step.1.boss", "step.1.spends", "step.2.boss"}
    assert seen["step.1.spends"] == (
        "orchestration.supervisor", True, {"agent": "spends", "step": 1, "tokens.total": 10},
    )  # fmt: skip


def test_a_supervisor_that_is_stopped_says_how_far_it_came() -> None:
    seen = spans('Supervisor("o", ["spends", "fails"], select="round_robin", on_error="stop")')
    _, ok, attributes = seen["orchestration.supervisor"]
    assert not ok
    assert (attributes["supervisor.rounds"], attributes["tokens.total"], attributes["error.type"]) == (
        1, 10, "AgentFailed",
    )  # fmt: skip
    assert "supervisor.finished" not in attributes
    told = spans('Supervisor("o", ["spends", "fails"], select="round_robin")')
    assert (told["orchestration.supervisor"][1], told["step.2.fails"][1]) == (True, False)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_swarms_agents_are_its_steps_and_it_says_who_answered(streaming: bool) -> None:
    seen = spans('Swarm("o", ["passes", "spends"])', streaming=streaming)
    _, ok, attributes = seen["orchestration.swarm"]
    assert ok
    assert attributes == {
        "pattern": "swarm", "orchestrator": "o", "agent_count": 2, "swarm.handoffs": 1,
        "swarm.final_agent": "spends", "tokens.total": 10,
    }  # fmt: skip
    assert [seen[name][0] for name in ("step.1.passes", "step.2.spends")] == ["orchestration.swarm"] * 2


def test_a_swarm_that_ends_badly_says_who_had_it_last() -> None:
    _, ok, attributes = spans('Swarm("o", ["passes", "spends"], handoffs={})')["orchestration.swarm"]
    assert not ok
    assert (attributes["swarm.final_agent"], attributes["swarm.handoffs"], attributes["error.type"]) == (
        "passes", 0, "HandoffRefused",
    )  # fmt: skip
