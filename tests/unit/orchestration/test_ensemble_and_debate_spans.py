"""The spans of an ensemble and of a debate.

In a process of their own, because a tracer provider can be set once in a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PROGRAM = """
import asyncio, json
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aixgo import LocalRuntime, agent
from aixgo.errors import AixgoError
from aixgo.orchestration.debate import Debate
from aixgo.orchestration.ensemble import Ensemble

memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)

@agent
async def yes(message):
    return {"position": "yes", "argument": "so"}

@agent
async def no(message):
    return {"position": "no", "argument": "not so"}

@agent
async def fails(message):
    raise ValueError("no")

async def main():
    runtime = LocalRuntime()
    for each in (yes, no, fails):
        runtime.register(each)
    made = {
        "decided": Ensemble("decided", ["yes", "yes", "no", "fails"]),
        "tied": Ensemble("tied", ["yes", "no"], fallback="no"),
        "failed": Ensemble("failed", ["yes", "no"]),
        "argued": Debate("argued", ["yes", "yes", "no"], rounds=2),
    }
    for name, each in made.items():
        runtime.register(each)
        try:
            await runtime.call(name, "?")
        except AixgoError:
            pass

asyncio.run(main())
spans = memory.get_finished_spans()
names = {span.context.span_id: dict(span.attributes).get("orchestrator") for span in spans}
print(json.dumps([
    [s.name, names.get(s.parent.span_id) if s.parent else None, s.status.is_ok, dict(s.attributes)] for s in spans
]))
"""


def test_spans_say_how_it_was_decided() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    spans: list[tuple[str, str | None, bool, dict[str, Any]]] = json.loads(ran.stdout)
    by = {
        attributes["orchestrator"]: (ok, attributes) for _, _, ok, attributes in spans if "orchestrator" in attributes
    }
    assert by["decided"] == (True, {
        "pattern": "ensemble", "orchestrator": "decided", "agent_count": 4, "ensemble.strategy": "majority",
        "ensemble.agreement": 2 / 3, "ensemble.used_fallback": False, "ensemble.agents_failed": 1, "tokens.total": 0,
    })  # fmt: skip
    assert by["tied"][1]["ensemble.used_fallback"]
    assert by["tied"][1]["ensemble.agreement"] == 0.5
    assert not by["failed"][0]
    assert (by["failed"][1]["error.type"], by["failed"][1]["ensemble.agreement"]) == ("NoAgreement", 0.5)
    assert by["argued"] == (True, {
        "pattern": "debate", "orchestrator": "argued", "agent_count": 3, "debate.rounds": 2,
        "debate.consensus": 2 / 3, "debate.diversity": 2 / 3, "tokens.total": 0,
    })  # fmt: skip
    steps = sorted(name for name, parent, _, _ in spans if parent == "argued")
    assert steps == ["step.1.no", "step.1.yes", "step.1.yes", "step.2.no", "step.2.yes", "step.2.yes"]
