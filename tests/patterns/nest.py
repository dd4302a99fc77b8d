"""Nests every pattern in every other, in one process with a tracer, and prints what happened: one JSON line a pair.

A process of its own, because a tracer provider is set once for a process. Run by `test_nesting.py`.

    python -m tests.patterns.nest
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from aixgo import CallOptions, LocalRuntime
from aixgo.errors import AixgoError
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.patterns.cast import Brain, cast_members
from tests.patterns.mesh import PATTERNS, nested

BOUND = 30.0
TASK = "tell me about tea"
SHARES = (1, 2, 4, 16)
"""Budgets, in what the pair takes without one: each LLM call reserves more than it takes, so little ends the tree."""


async def main() -> None:
    """Nest them all."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    brain, runtime = Brain(), LocalRuntime()
    pairs = [(outer, inner) for outer in PATTERNS for inner in PATTERNS]
    for agent in (*cast_members(brain), *nested(pairs)):
        runtime.register(agent)
    async with runtime:
        for outer, inner in pairs:
            print(json.dumps(await one(runtime, brain, memory, outer, inner)), flush=True)


async def one(
    runtime: LocalRuntime, brain: Brain, memory: InMemorySpanExporter, outer: str, inner: str
) -> dict[str, Any]:
    """What became of one pair."""
    memory.clear()
    brain.calls = brain.tokens = 0
    before = asyncio.all_tasks()
    reply = await runtime.call(f"{outer}.{inner}", TASK, timeout=BOUND)
    counted = [brain.calls, brain.tokens]
    spans = memory.get_finished_spans()
    return {
        "outer": outer,
        "inner": inner,
        "text": reply.text,
        "pattern": reply.metadata["pattern"],
        "usage": [reply.usage.llm_calls, reply.usage.total_tokens],
        "counted": counted,
        "metadata_tokens": reply.metadata["tokens_total"],
        "spans": lineage(spans, f"orchestration.{inner}", f"inner-{inner}"),
        "span_tokens": next(s.attributes["tokens.total"] for s in spans if s.parent is None),
        "left": len(asyncio.all_tasks() - before),
        "bounded": [
            await bounded(runtime, brain, f"{outer}.{inner}", reply.usage.total_tokens * share) for share in SHARES
        ],
    }


async def bounded(runtime: LocalRuntime, brain: Brain, name: str, tokens: int) -> dict[str, Any]:
    """The same with a budget: a reply or a typed error, and what it spent."""
    brain.calls = brain.tokens = 0
    try:
        reply = await runtime.call(name, TASK, timeout=BOUND, options=CallOptions(max_tokens=tokens))
        spent, end = reply.usage, "reply"
    except AixgoError as error:
        spent, end = error.usage, type(error).__name__
    return {"end": end, "budget": tokens, "spent": spent.total_tokens, "counted": brain.tokens}


def lineage(spans: Sequence[ReadableSpan], name: str, orchestrator: str) -> list[str]:
    """The names of the spans from the root down to that of the inner orchestration."""
    by_id = {span.context.span_id: span for span in spans}
    found = next(s for s in spans if s.name == name and s.attributes["orchestrator"] == orchestrator)
    names = [found.name]
    while found.parent is not None:
        found = by_id[found.parent.span_id]
        names.append(found.name)
    return names[::-1]


if __name__ == "__main__":
    asyncio.run(main())
