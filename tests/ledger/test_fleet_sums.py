"""Five processes, 200 random call trees: one whole trace for each, and everybody has the same figures.

What the vendor billed is what ledgers, replies and errors say and what Langfuse adds up, to the token and the cent;
what cannot be known, because a call was broken off, lies within what is reported as unsettled.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest
from aixgo import DistributedRuntime, Message, Usage
from aixgo import call as ambient
from aixgo.call import Budget
from aixgo.config.load import load
from aixgo.errors import AixgoError
from aixgo_services.supervisor import Fleet

from tests.ledger.forest import LEAVES, MESH, PATTERNS, WAIT
from tests.ledger.shop import Shop, shop
from tests.support import ROOT
from tests.telemetry.langfuse_server import LangfuseServer, Observation, langfuse_server
from tests.telemetry.receiver import Receiver, Seen, orphans

TREES, AT_ONCE = 200, 6
LATE, LEFT = range(5), range(5, 10)
"""Trees that wait for ever: the deadline of the first ends them, their caller leaves the others."""
BOUND = 60.0
TOKENS, USD = 10**6, Decimal(1000)
"""The budget of a tree: more than any of them spends, so that what is lost has a bound."""
CENT = Decimal("0.01")
WHOLE, KNOWN = 0.25, 0.5
"""Of all trees, those in which nothing was broken off, so that all is known; and those that were told of all that their
processes know. In the others a call was cancelled on its way, before its callee knew of it."""


@dataclass(frozen=True)
class Run:
    """What became of a tree. `told` is None when its caller had left."""

    tree: str
    ledger: Usage
    told: Usage | None
    ended: str


@dataclass(frozen=True)
class Harvest:
    """What all sides know of all trees. Spans and generations are by tree."""

    runs: Sequence[Run]
    shop: Shop
    received: Receiver
    spans: dict[str, list[Seen]]
    generations: dict[str, list[Observation]]


@pytest.fixture(scope="module")
def harvest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harvest]:
    """The trees, run by a fleet that has then ended."""
    folder = tmp_path_factory.mktemp("forest")
    with shop() as bills, langfuse_server() as langfuse, Receiver() as receiver, pytest.MonkeyPatch.context() as patch:
        for name, value in _environment(bills, langfuse).items():
            patch.setenv(name, value)
        runs = asyncio.run(_runs(folder, receiver))
        yield Harvest(runs, bills, receiver, _by_tree(receiver), _generations(langfuse))


def _environment(bills: Shop, langfuse: LangfuseServer) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
        "OPENAI_BASE_URL": bills.url,
        "OPENAI_API_KEY": "sk-forest-0123456789",
        "AIXGO_OPENAI_MAX_TRIES": "2",
        "LANGFUSE_HOST": langfuse.url,
        "LANGFUSE_PUBLIC_KEY": "pk-lf-forest",
        "LANGFUSE_SECRET_KEY": "sk-lf-forest-0123456789",
        "OTEL_BSP_SCHEDULE_DELAY": "500",  # its queue is bounded
    }


async def _runs(folder: Path, receiver: Receiver) -> Sequence[Run]:
    file = folder / "mesh.yaml"
    asked = {"otlp": receiver.http_url, "protocol": "http/protobuf", "langfuse": True}
    file.write_text(MESH.replace("OBSERVABILITY", json.dumps(asked)))
    lines: list[str] = []
    async with Fleet(load(file), file, on_line=lambda name, line: lines.append(f"{name}: {line}")) as fleet:
        assert len([each for each in fleet.processes if each.agents]) == 5
        async with DistributedRuntime(control_plane=(fleet.control_plane,)) as runtime:
            places = asyncio.Semaphore(AT_ONCE)
            return await asyncio.gather(*(_run(runtime, number, places) for number in range(TREES)))


async def _run(runtime: DistributedRuntime, number: int, places: asyncio.Semaphore) -> Run:
    """One tree, called or streamed, in time or not; some callers leave before its end."""
    draw, tree = Random(f"tree {number}"), f"tree-{number}"
    target, streamed = draw.choice([*PATTERNS, *PATTERNS, *LEAVES]), draw.random() < 0.3
    timeout, leaves_after = draw.choice([BOUND] * 11 + [0.5]), draw.choice([BOUND] * 14 + [0.05, 0.3])
    if number in LATE or number in LEFT:
        target, timeout, leaves_after = LEAVES[number % 2], *((0.5, BOUND) if number in LATE else (BOUND, 0.3))
    message = Message(WAIT if number in LATE or number in LEFT else "x", session_id=tree)
    async with places:
        above = ambient.root(BOUND)
        above.budget = Budget(TOKENS, USD)
        with ambient.entered(above):
            told, ended = None, "left"
            try:
                async with asyncio.timeout(leaves_after):
                    told = (await _reply(runtime, target, message, timeout, streamed=streamed)).usage
                    ended = "replied"
            except AixgoError as error:
                told, ended = error.usage, type(error).__name__
            except TimeoutError:
                pass
        return Run(tree, above.ledger.usage, told, ended)


async def _reply(
    runtime: DistributedRuntime, target: str, message: Message, timeout: float, *, streamed: bool
) -> Message:
    if not streamed:
        return await runtime.call(target, message, timeout=timeout)
    async with runtime.stream(target, message, timeout=timeout) as events:
        async for _ in events:
            pass
    assert events.result is not None
    return events.result


def _by_tree(receiver: Receiver) -> dict[str, list[Seen]]:
    """The spans of each tree, by the session that they name. Those of a trace are of one tree."""
    spans = defaultdict[str, list[Seen]](list)
    for trace in receiver.received.traces().values():
        (tree,) = {each.attributes["gen_ai.conversation.id"] for each in trace if _is_call(each)}
        spans[tree] += trace
    return spans


def _generations(langfuse: LangfuseServer) -> dict[str, list[Observation]]:
    found = defaultdict[str, list[Observation]](list)
    for each in langfuse.of_type("generation"):
        found[each.attributes["session.id"]].append(each)
    return found


def _is_call(span: Seen) -> bool:
    return span.name.startswith("invoke_agent ")


def test_the_trees_end_in_many_ways(harvest: Harvest) -> None:
    ended = Counter(run.ended for run in harvest.runs)
    assert sum(ended.values()) == TREES
    assert ended["replied"] > TREES / 3
    assert {"left", "DeadlineExceeded", "AgentFailed"} <= ended.keys()
    assert {"answers", "refuses", "fails", "drops", "hangs"} == harvest.shop.ended.keys()
    errors = {each.attributes.get("error.type") for spans in harvest.spans.values() for each in spans}
    assert {"DeadlineExceeded", "TooFewSucceeded", "ProviderUnavailable", "RateLimited"} <= errors
    assert errors & {"CallCancelled", "CancelledError"}


def test_each_request_is_one_whole_trace_with_every_parent_right(harvest: Harvest) -> None:
    assert not [run.tree for run in harvest.runs if run.ledger.llm_calls and not harvest.spans.get(run.tree)]
    for tree, spans in harvest.spans.items():
        assert len({each.trace_id for each in spans}) == 1, tree
        assert not orphans(spans), tree
        assert [_is_call(each) for each in spans if not each.parent_id] == [True], tree
        assert len({each.span_id for each in spans}) == len(spans), tree
        by_id = {each.span_id: each for each in spans}
        for span in spans:
            check_place(span, by_id)
    processes = {each.resource["service.instance.id"] for spans in harvest.spans.values() for each in spans}
    assert len(processes) == 5


def check_place(span: Seen, by_id: dict[str, Seen]) -> None:
    """Hold a span to the call that it is part of."""
    above = by_id.get(span.parent_id)
    while above is not None and not _is_call(above):
        above = by_id.get(above.parent_id)
    if _is_call(span):
        place = span.attributes["aixgo.agent.path"]
        name = span.attributes["gen_ai.agent.name"]
        assert place.removesuffix(name).rstrip("/") == (above.attributes["aixgo.agent.path"] if above else "")
        return
    assert above is not None
    assert span.resource["service.instance.id"] == above.resource["service.instance.id"]
    if span.name.startswith("chat "):
        assert span.attributes["gen_ai.agent.name"] == above.attributes["gen_ai.agent.name"]


def test_everybody_has_the_same_figures_to_the_token_and_the_cent(harvest: Harvest) -> None:
    whole, known = 0, 0
    for run in harvest.runs:
        billed, generations = harvest.shop.billed(run.tree), harvest.generations.get(run.tree, [])
        tokens = sum(each.usage["total"] for each in generations)
        usd = sum((each.cost for each in generations if each.cost is not None), Decimal())
        maybe = sum(int(each.attributes.get("tokens.unsettled", 0)) for each in generations)
        assert run.told in (None, run.ledger), run
        assert run.ledger.total_tokens <= tokens <= billed.total_tokens <= run.ledger.held_tokens, run
        assert _cost(run.ledger) <= _rounded(usd) <= _cost(billed) <= run.ledger.held_usd, run
        if run.ledger.unsettled_tokens == maybe:  # otherwise something was lost on its way up
            known += 1
            assert run.ledger.llm_calls == len(generations), run
            assert run.ledger.total_tokens == tokens, run
            assert _cost(run.ledger) == _rounded(usd), run
        if not run.ledger.incomplete:
            whole += 1
            assert run.ledger.total_tokens == billed.total_tokens, run
            assert _cost(run.ledger) == _cost(billed), run
    assert whole >= WHOLE * TREES
    assert known >= KNOWN * TREES


def _cost(usage: Usage) -> Decimal:
    return usage.cost_usd or Decimal()


def _rounded(usd: Decimal) -> Decimal:
    """Without the digits that a float in JSON cannot hold."""
    return usd.quantize(Decimal("1e-9"))
