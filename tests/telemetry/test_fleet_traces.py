"""What a fleet of five processes running nested patterns emits, read from what a collector received."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aixgo.errors import AixgoError

from tests.telemetry.emitting import NAMES, NESTED, Emitted, running
from tests.telemetry.receiver import Receiver, Seen, orphans

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
        assert not orphans(spans)
        check_tree(spans)
    assert {span.resource["service.name"] for span in receiver.received.spans} == set(NAMES)
    assert "aixgo.calls" in receiver.received.metrics


def check_tree(spans: list[Seen]) -> None:
    """Hold one trace to what one request does: every call there once, inside the call that made it."""
    by_id = {span.span_id: span for span in spans}
    calls = [span for span in spans if span.attributes.get("gen_ai.operation.name") == "invoke_agent"]
    assert sorted(span.attributes["aixgo.agent.path"] for span in calls) == sorted(PATHS)
    assert [span.attributes["aixgo.agent.path"] for span in spans if not span.parent_id] == ["main"]
    for span in spans:
        above = caller(span, by_id)
        if span in calls:
            path = span.attributes["aixgo.agent.path"]
            name = span.attributes["gen_ai.agent.name"]
            expected = path.removesuffix(name).removesuffix("/")
            assert (above.attributes["aixgo.agent.path"] if above else "") == expected
            assert bool(span.attributes.get("aixgo.instance.id")) == (name in NAMES)
        elif span.name.startswith("chat "):
            assert above is not None
            assert above.attributes["gen_ai.agent.name"] == span.attributes["gen_ai.agent.name"]
            assert above.resource == span.resource
        elif span.name == "execute_tool lookup":
            assert above is not None
            assert above.name == "invoke_agent clerk"


def caller(span: Seen, by_id: dict[str, Seen]) -> Seen | None:
    """The agent's call that a span is part of."""
    above = by_id.get(span.parent_id)
    while above is not None and not above.name.startswith("invoke_agent "):
        above = by_id.get(above.parent_id)
    return above


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
