"""What is said of a call that was stopped: that its time was up, or that nobody wanted it any more."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Sequence

import pytest
from aixgo import LocalRuntime, agent
from aixgo.agents.llm import LLMAgent
from aixgo.config.spec import AgentSpec
from aixgo.errors import DeadlineExceeded, RateLimited
from aixgo.mailboxes import delivery as deliveries
from aixgo.message import Message
from aixgo.orchestration.base import Limits
from aixgo.orchestration.parallel import Parallel
from aixgo.orchestration.sequential import Sequential
from aixgo.telemetry import spans
from aixgo.telemetry.settings import TelemetrySettings
from aixgo.telemetry.setup import set_up
from aixgo.testing import Reply, ScriptedModel, scripted_models
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

LATE, UNWANTED = "DeadlineExceeded", "CallCancelled"


class Watched:
    """A runtime whose spans and metrics can be read."""

    def __init__(self, runtime: LocalRuntime, exporter: InMemorySpanExporter, page: str) -> None:
        self.runtime, self._exporter, self._page = runtime, exporter, page
        self.begun = asyncio.Event()

    def errors(self) -> dict[str, str]:
        """The kind of error on each span that has ended, by the span's name."""
        ended = self._exporter.get_finished_spans()
        return {one.name: str((one.attributes or {}).get("error.type", "")) for one in ended}

    def counted(self, name: str) -> Sequence[str]:
        """The outcomes that calls of an agent are counted by."""
        calls = [
            line for line in self.page().splitlines() if line.startswith("aixgo_calls_total") and f'"{name}"' in line
        ]
        return [line.partition('aixgo_outcome="')[2].partition('"')[0] for line in calls]

    def page(self) -> str:
        """The metrics page."""
        with urllib.request.urlopen(self._page, timeout=5) as page:
            return page.read().decode()


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    async with set_up(TelemetrySettings(prometheus="127.0.0.1:0")) as telemetry, LocalRuntime() as runtime:
        made = Watched(runtime, exporter, f"http://{telemetry.metrics_address}/metrics")

        @agent
        async def hangs(message: Message) -> str:
            made.begun.set()
            with spans.span("works"):
                await asyncio.Event().wait()
            return message.text

        @agent
        async def quick(message: Message) -> str:
            return message.text

        runtime.register(hangs)
        runtime.register(quick)
        yield made
    provider.shutdown()


async def test_a_call_whose_time_was_up_has_exceeded_its_deadline(watched: Watched):
    watched.runtime.register(Sequential("chain", ["quick", "hangs"]))
    with pytest.raises(DeadlineExceeded):
        await watched.runtime.call("chain", "x", timeout=0.1)
    assert watched.errors() == {
        "invoke_agent quick": "",
        "step.1.quick": "",
        **dict.fromkeys(["works", "invoke_agent hangs", "step.2.hangs"], LATE),
        **dict.fromkeys(["orchestration.sequential", "invoke_agent chain"], LATE),
    }
    assert (watched.counted("hangs"), watched.counted("chain"), watched.counted("quick")) == ([LATE], [LATE], ["ok"])


async def test_a_call_that_its_caller_cancelled_was_cancelled(watched: Watched):
    call = asyncio.create_task(watched.runtime.call("hangs", "x"))
    await watched.begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert watched.errors() == {"works": UNWANTED, "invoke_agent hangs": UNWANTED}
    assert watched.counted("hangs") == [UNWANTED]


async def test_a_stream_whose_time_was_up_has_exceeded_its_deadline(watched: Watched):
    async with watched.runtime.stream("hangs", "x", timeout=0.1) as events:
        with pytest.raises(DeadlineExceeded):
            await anext(aiter(events))
    assert watched.errors() == {"works": LATE, "invoke_agent hangs": LATE}
    assert watched.counted("hangs") == [LATE]


async def test_a_stream_that_its_reader_left_was_cancelled(watched: Watched):
    async with watched.runtime.stream("hangs", "x"):
        await watched.begun.wait()
    assert watched.errors() == {"works": UNWANTED, "invoke_agent hangs": UNWANTED}
    assert watched.counted("hangs") == [UNWANTED]


async def test_a_model_that_took_too_long_is_counted_so(watched: Watched):
    model = ScriptedModel([Reply("late", gate=asyncio.Event())])
    spec = AgentSpec(name="writer", role="llm", model=("test/m",))
    watched.runtime.register(LLMAgent(spec, models=scripted_models(m=model)))
    with pytest.raises(DeadlineExceeded):
        await watched.runtime.call("writer", "x", timeout=0.1)
    assert watched.errors() == {"chat m": LATE, "invoke_agent writer": LATE}
    assert f'error_type="{LATE}"' in watched.page()


async def test_a_member_that_the_others_could_not_wait_for_has_exceeded_its_deadline(watched: Watched):
    watched.runtime.register(Parallel("both", ["quick", "hangs"], limits=Limits(timeout=0.2)))
    reply = await watched.runtime.call("both", "x")
    assert reply.json == {"quick": "x"}
    assert watched.errors()["invoke_agent hangs"] == LATE
    assert watched.counted("hangs") == [LATE]


async def test_a_member_that_was_not_needed_any_more_was_cancelled(watched: Watched):
    watched.runtime.register(Parallel("first", ["hangs", "quick"], early_stop=True))
    await watched.runtime.call("first", "x")
    assert watched.errors()["invoke_agent hangs"] == UNWANTED
    assert watched.counted("hangs") == [UNWANTED]


async def test_a_message_whose_time_was_up_has_exceeded_its_deadline(watched: Watched, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deliveries, "DEFAULT_TIMEOUT", 0.05)
    await watched.runtime.send("quick", "x")
    delivery = await anext(aiter(watched.runtime.recv("quick")))
    with pytest.raises(DeadlineExceeded):
        async with delivery as message:
            await watched.runtime.call("hangs", message)
    assert watched.errors() == dict.fromkeys(["works", "invoke_agent hangs", "process quick"], LATE)


async def test_what_a_block_says_of_its_failure_stands(watched: Watched):
    def fails() -> None:
        with spans.span("fails") as span:
            span.fail(RateLimited("too often"))
            raise ValueError("in its own words")

    with pytest.raises(ValueError, match="in its own words"):
        fails()
    assert watched.errors() == {"fails": "RateLimited"}
