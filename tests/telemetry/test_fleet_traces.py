"""What a fleet of five processes running nested patterns emits, read from what a collector received."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

import pytest
from aixgo.errors import AixgoError

from tests.telemetry.emitting import NAMES, NESTED, Emitted, running
from tests.telemetry.receiver import Receiver, Seen, orphans
from tests.telemetry.trees import check_parents

REQUESTS = 4
KEY, PASSWORD, HEADER = "sk-test-51Hq8zKvT3pYwXn", "hunter2-of-the-store", "tok-9f8e7d6c5b4a"
PATHS = {
    "main",
    "main/clerk",
    "main/panel",
    "main/panel/writer",
    "main/panel/critic",
    "main/main/2",
    "main/main/2/writer",
    "main/main/2/main/2/1",
    "main/main/2/main/2/1/critic",
    "main/main/2/main/2/1/writer",
}
"""Every agent that one request to `main` calls, by its path."""
STEPS = {"step.1.clerk", "step.2.panel", "step.3.main/2", "step.1.critic", "step.2.writer"}
WIDE = """
version: 2
agents:
  - {name: writer, role: llm, model: test/upper}
  - {name: critic, role: llm, model: test/echo}
  - {name: sorter, role: classifier, model: "test/choose:tea", config: {categories: [rice, tea]}}
  - {name: broken, role: llm, model: "test/fail:RateLimited"}
orchestrations:
  - name: desk
    pattern: router
    config: {classifier: sorter, routes: {tea: vote}, fallback: writer}
  - {name: vote, pattern: ensemble, agents: [writer, critic, broken], config: {fallback: writer}}
  - name: main
    pattern: sequential
    agents:
      - desk
      - pattern: debate
        agents: [writer, critic]
        config:
          {positions: {writer: for, critic: against}, rounds: 2, structured: false, verdict: vote, fallback: writer}
      - {pattern: mapreduce, config: {mapper: desk, reducer: critic, split: lines}}
observability: OBSERVABILITY
"""
"""Patterns in patterns over processes, with a member that always fails."""


@pytest.fixture(autouse=True)
def tools_of_the_fleet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", "")))))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("AIXGO_LOG_FORMAT", "json")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("STORE_DSN", f"postgresql://app:{PASSWORD}@db.internal/store")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_each_request_is_one_trace_without_orphans_and_with_the_right_parents(
    tmp_path: Path, receiver: Receiver, protocol: str
):
    url = receiver.grpc_url if protocol == "grpc" else receiver.http_url
    async with running(tmp_path, receiver, {"otlp": url, "protocol": protocol}) as fleet:
        calls = [fleet.runtime.call("main", f"request {at}") for at in range(REQUESTS - 1)]
        await asyncio.gather(*calls)
        async with fleet.runtime.stream("main", "request in a stream") as events:
            async for _ in events:
                pass
    traces = receiver.received.traces()
    assert len(traces) == REQUESTS
    for spans in traces.values():
        check_tree(spans)
    assert {span.resource["service.name"] for span in receiver.received.spans} == set(NAMES)
    told = receiver.received.metrics_of
    assert set(told) == {"control-plane", *NAMES}
    assert all("aixgo.calls" in told[name] for name in NAMES)
    assert "aixgo.registry.registrations" in told["control-plane"]


def check_tree(spans: list[Seen]) -> None:
    """Hold one trace to what one request does: every call there once, inside the call that made it."""
    check_parents(spans)
    calls = [span for span in spans if span.attributes.get("gen_ai.operation.name") == "invoke_agent"]
    assert sorted(span.attributes["aixgo.agent.path"] for span in calls) == sorted(PATHS)
    assert [span.attributes["aixgo.agent.path"] for span in spans if not span.parent_id] == ["main"]
    for span in calls:
        assert bool(span.attributes.get("aixgo.instance.id")) == (span.attributes["gen_ai.agent.name"] in NAMES)
    names = Counter(span.name for span in spans)
    assert (names["chat upper"], names["chat echo"], names["execute_tool lookup"]) == (3, 2, 1)
    assert (names["orchestration.sequential"], names["orchestration.parallel"]) == (2, 2)
    assert {name for name in names if name.startswith("step.")} == STEPS


async def test_every_parent_is_right_in_patterns_that_route_vote_debate_and_fail(tmp_path: Path, receiver: Receiver):
    async with running(tmp_path, receiver, {"otlp": receiver.grpc_url}, WIDE) as fleet:
        await fleet.runtime.call("main", "one")
        async with fleet.runtime.stream("main", "two") as events:
            async for _ in events:
                pass
        with pytest.raises(AixgoError):
            await fleet.runtime.call("broken", "three")
    traces = sorted(receiver.received.traces().values(), key=len)
    assert len(traces) == 3
    for spans in traces:
        check_parents(spans)
    for spans in traces[1:]:
        assert {span.name for span in spans if span.name.startswith("orchestration.")} == {
            f"orchestration.{pattern}" for pattern in ("sequential", "router", "ensemble", "debate", "mapreduce")
        }
        assert {span.attributes["error.type"] for span in spans if span.failed} == {"RateLimited"}
    assert Counter(span.name for span in traces[1]) == Counter(span.name for span in traces[2])


async def test_sampled_traces_are_whole_and_the_others_leave_nothing(tmp_path: Path, receiver: Receiver):
    async with running(tmp_path, receiver, {"otlp": receiver.grpc_url, "sample": 0.5}) as fleet:
        for _ in range(5):
            await asyncio.gather(*(fleet.runtime.call("main", "x") for _ in range(8)))
    traces = receiver.received.traces()
    assert 0 < len(traces) < 40
    for spans in traces.values():
        check_tree(spans)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({}, ""),
        ({"capture_content": True}, "the word is hunter2"),
        ({"capture_content": True, "redact": "fleet_tools:redact"}, "the word is [gone]"),
    ],
)
async def test_spans_say_what_messages_say_only_when_told_to_and_redacted(
    tmp_path: Path, receiver: Receiver, asked: dict[str, object], kept: str
):
    async with running(tmp_path, receiver, {"otlp": receiver.grpc_url, **asked}) as fleet:
        await fleet.runtime.call("main", "the word is hunter2")
    received = b"".join(receiver.received.bytes).decode("latin-1")
    assert (kept in received) if kept else ("the word" not in received)
    assert ("hunter2" in received.lower()) == (asked == {"capture_content": True})
    asking = [span for span in receiver.received.spans if "gen_ai.input.messages" in span.attributes]
    assert {span.name.split()[0] for span in asking} == ({"invoke_agent", "chat"} if kept else set())
    used = next(span for span in receiver.received.spans if span.name == "execute_tool lookup")
    assert ("gen_ai.tool.call.arguments" in used.attributes) == bool(kept)
    assert ("gen_ai.tool.call.result" in used.attributes) == bool(kept)


@pytest.fixture
def failing(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Emitted:
    """All that a fleet emitted whose tools and models fail, quoting secrets."""

    monkeypatch.setenv("OPENAI_BASE_URL", f"{receiver.http_url}/v1")

    async def fail() -> Emitted:
        asked = {
            "otlp": receiver.http_url,
            "protocol": "http/protobuf",
            "headers": {"authorization": f"Bearer {HEADER}"},
            "prometheus": "127.0.0.1:0",
            "capture_content": False,
        }
        text = NESTED.replace("model: test/echo", "model: openai/gpt-4o-mini")
        async with running(tmp_path, receiver, asked, text) as fleet:
            await fleet.runtime.call("clerk", "fail now")
            await fleet.runtime.call("main", "fail now")
            with pytest.raises(AixgoError) as caught:
                await fleet.runtime.call("critic", "fail now")
            error = caught.value
            fleet.emitted.lines["caller"] = [f"{error}", f"error: {error!r}", f"fields: {error.fields}"]
            await fleet.read_pages()
            return fleet.emitted

    return asyncio.run(fail())


def test_no_secret_is_in_anything_that_a_failing_fleet_emits(failing: Emitted):
    everything = failing.everything()
    assert "execute_tool lookup" in everything
    assert "chat gpt-4o-mini" in everything
    assert "cannot connect to postgresql://***@db.internal/store with ***" in everything
    for secret in (KEY, PASSWORD, HEADER):
        assert secret not in everything
    assert {headers.get("authorization") for headers in failing.received.headers} == {f"Bearer {HEADER}"}
    for spans in failing.received.traces().values():
        assert not orphans(spans)
    assert any(span.failed for span in failing.received.spans)


def test_a_line_of_the_log_says_which_call_wrote_it(failing: Emitted):
    lines = [line for line in failing.logged() if line["message"].startswith("tool lookup raised")]
    assert lines
    known = {(span.trace_id, span.span_id) for span in failing.received.spans}
    for line in lines:
        assert (line["trace_id"], line["span_id"]) in known
        assert line["agent"] in ("clerk", "main/clerk")
        assert line["call_id"]


def test_every_process_of_a_fleet_has_a_metrics_page(failing: Emitted):
    assert set(failing.pages) == {"control-plane", *NAMES}
    clerk, main, registry = (failing.pages[name] for name in ("clerk", "main", "control-plane"))
    assert 'aixgo_calls_total{aixgo_outcome="ok",gen_ai_agent_name="clerk"} 2.0' in clerk
    assert "gen_ai_client_operation_duration_seconds_count{" in clerk
    assert 'aixgo_remote_attempts_total{aixgo_outcome="ok",gen_ai_agent_name="clerk"} 1.0' in main
    assert 'aixgo_instances{aixgo_instance_state="ready"} ' in main
    assert 'aixgo_registry_instances{aixgo_instance_state="ready"} 5.0' in registry
