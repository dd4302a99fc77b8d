"""The spans of the patterns, by the names of the reference document.

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
from decimal import Decimal
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from aixgo import LocalRuntime, Message, Parallel, Router, Sequential, Usage, agent
from aixgo import call as ambient
from aixgo.errors import AixgoError

memory = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(memory))
trace.set_tracer_provider(provider)

@agent
async def priced(message):
    ambient.current().ledger.record(Usage(6, 4, llm_calls=1, cost_usd=Decimal("0.25")))
    return Message("x", {"category": message.text, "confidence": 0.75})

@agent
async def free(message):
    return "y"

@agent
async def fails(message):
    raise ValueError("no")

async def main(make, text, streaming):
    runtime = LocalRuntime()
    for each in (priced, free, fails):
        runtime.register(each)
    runtime.register(eval(make))
    try:
        if streaming:
            async with runtime.stream("o", text) as events:
                async for _ in events:
                    pass
        else:
            await runtime.call("o", text)
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


def spans(make: str, text: str = "a", *, streaming: bool = False) -> dict[str, Span]:
    """The spans of one call by name: parent's name, whether it is fine, attributes."""
    arguments = json.dumps([make, text, streaming])
    ran = subprocess.run([sys.executable, "-c", PROGRAM, arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return {name: (parent, ok, attributes) for name, parent, ok, attributes in json.loads(ran.stdout)}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_sequence_has_a_span_and_one_for_each_step(streaming: bool) -> None:
    seen = spans('Sequential("o", ["priced", "free"])', streaming=streaming)
    parent, ok, attributes = seen["orchestration.sequential"]
    assert (parent, ok) == ("invoke_agent o", True)
    assert attributes == {
        "pattern": "sequential", "orchestrator": "o", "agent_count": 2, "step_count": 2,
        "tokens.total": 10, "cost.total_usd": 0.25,
    }  # fmt: skip
    assert seen["step.1.priced"] == (
        "orchestration.sequential", True, {"agent": "priced", "step": 1, "tokens.total": 10, "cost.usd": 0.25},
    )  # fmt: skip
    assert seen["step.2.free"] == ("orchestration.sequential", True, {"agent": "free", "step": 2, "tokens.total": 0})


def test_a_step_that_fails_marks_itself_and_the_whole() -> None:
    seen = spans('Sequential("o", ["priced", "fails", "free"])')
    assert seen["step.1.priced"][1]
    for name in ("step.2.fails", "orchestration.sequential"):
        assert not seen[name][1]
        assert seen[name][2]["error.type"] == "AgentFailed"
    assert seen["orchestration.sequential"][2]["cost.total_usd"] == 0.25
    assert "step.3.free" not in seen


@pytest.mark.parametrize("streaming", [False, True])
def test_a_parallel_span_counts_who_succeeded_and_who_failed(streaming: bool) -> None:
    _, ok, attributes = spans('Parallel("o", ["priced", "fails", "free"])', streaming=streaming)[
        "orchestration.parallel"
    ]
    assert ok
    assert attributes.pop("parallel.wait_time_ms") >= 0
    assert attributes == {
        "pattern": "parallel", "orchestrator": "o", "agent_count": 3, "parallel.agents_succeeded": 2,
        "parallel.agents_failed": 1, "tokens.total": 10, "cost.total_usd": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "target", "fell_back"), [("a", "free", False), ("b", "priced", True)], ids=["by route", "by fallback"]
)
def test_a_router_span_says_how_it_chose(text: str, target: str, fell_back: bool) -> None:
    make = 'Router("o", "priced", {"a": "free"}, fallback="priced")'
    _, ok, attributes = spans(make, text)["orchestration.router"]
    assert ok
    assert attributes.pop("router.classify_latency_ms") >= 0
    assert attributes.pop("router.route_latency_ms") >= 0
    assert attributes == {
        "pattern": "router", "orchestrator": "o", "agent_count": 2, "route_count": 1, "router.category": text,
        "router.confidence": 0.75, "router.used_fallback": fell_back, "router.target_agent": target,
        "tokens.total": 20 if fell_back else 10, "cost.total_usd": 0.5 if fell_back else 0.25,
    }  # fmt: skip


def test_a_nested_pattern_hangs_below_the_step_that_called_it() -> None:
    seen = spans('Sequential("o", [Parallel("inner", ["free"])])')
    assert seen["orchestration.parallel"][0] == "invoke_agent inner"
    assert seen["invoke_agent inner"][0] == "step.1.inner"
    assert "cost.total_usd" not in seen["orchestration.parallel"][2]
