"""One trace through gateway, mailboxes and MCP servers; what of a user gets where; how calls that were stopped end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from tests.telemetry.errands import SESSION, USER, Errands, run_errands
from tests.telemetry.receiver import Seen, orphans


@pytest.fixture(scope="module")
def errands(tmp_path_factory: pytest.TempPathFactory) -> Errands:
    return run_errands(tmp_path_factory.mktemp("errands"))


def trace_of(errands: Errands, name: str) -> list[Seen]:
    """The trace that has a span of this name, of which there is one."""
    (first,) = (span for span in errands.emitted.received.spans if span.name == name)
    return errands.emitted.received.traces()[first.trace_id]


def only(spans: Sequence[Seen], name: str, service: str = "") -> Seen:
    """The one span of a trace that has this name (and is of this service)."""
    (found,) = (span for span in spans if span.name == name and service in ("", span.resource["service.name"]))
    return found


def in_session(errands: Errands, name: str, session: str) -> Seen:
    """The one span of this name in a session."""
    spans = errands.emitted.received.spans
    (found,) = (one for one in spans if one.name == name and one.attributes.get("gen_ai.conversation.id") == session)
    return found


def test_each_request_and_message_is_one_trace_and_no_span_is_without_its_parent(errands: Errands):
    traces = errands.emitted.received.traces()
    assert [span for spans in traces.values() for span in orphans(spans)] == []
    roots = [span.name for spans in traces.values() for span in spans if not span.parent_id]
    assert Counter(roots) == {
        **dict.fromkeys(["client calls", "client streams", "process keeper", "process archive"], 1),
        "invoke_agent sender": 1,
        "invoke_agent patient": 1,
        "invoke_agent hangs": 3,
        "MCP send server/discover": 2,  # a session outlives the call that it was opened for
    }
    assert len(roots) == len(traces)


def test_nothing_goes_wrong_unnoticed(errands: Errands):
    assert [line for line in errands.emitted.logged() if line["level"] == "ERROR"] == []


@pytest.mark.parametrize("how", ["calls", "streams"])
def test_a_trace_goes_through_the_gateway_which_adds_nothing_to_it(errands: Errands, how: str):
    trace = trace_of(errands, f"client {how}")
    first = only(trace, f"client {how}")
    assert (first.parent_id, first.resource["service.name"]) == ("", "client")
    assert only(trace, "invoke_agent main").parent_id == first.span_id
    assert {span.resource["service.name"] for span in trace} == {"client", "main", "clerk", "writer", "recorder"}
    assert "aixgo.remote.attempts" in errands.emitted.received.metrics_of["gateway"]


@pytest.mark.parametrize("how", ["calls", "streams"])
@pytest.mark.parametrize("tool", ["remember", "local_remember"])
def test_a_trace_goes_on_in_mcp_servers(errands: Errands, how: str, tool: str):
    trace = trace_of(errands, f"client {how}")
    executed = only(trace, f"execute_tool {tool}")
    assert executed.parent_id == only(trace, "invoke_agent clerk").span_id
    (sent,) = (span for span in trace if span.parent_id == executed.span_id)
    assert sent.name == "MCP send tools/call remember"
    (served,) = (span for span in trace if span.parent_id == sent.span_id)
    assert (served.name, served.resource["service.name"]) == ("tools/call remember", "recorder")


def test_mcp_servers_are_told_the_trace_and_not_the_user(errands: Errands):
    sent = {
        span.span_id: span for span in errands.emitted.received.spans if span.name == "MCP send tools/call remember"
    }
    for notes in (errands.http_notes, errands.stdio_notes):
        told = [note["meta"] for note in notes if "meta" in note]
        assert len(told) == 2
        for meta in told:
            span = sent[meta["traceparent"].split("-")[2]]
            assert meta["traceparent"].startswith(f"00-{span.trace_id}-{span.span_id}-")
            assert "baggage" not in meta
        assert USER not in str(notes)
    calls = [note["headers"] for note in errands.http_notes if note.get("method") == "tools/call"]
    in_messages = [note["meta"]["traceparent"] for note in errands.http_notes if "meta" in note]
    assert [headers["traceparent"] for headers in calls] == in_messages
    assert all("baggage" not in note["headers"] for note in errands.http_notes if "headers" in note)


def test_a_message_begins_a_trace_of_its_own_that_is_linked_to_the_sender_s(errands: Errands):
    sent = trace_of(errands, "invoke_agent sender")
    kept = trace_of(errands, "process keeper")
    archived = trace_of(errands, "process archive")
    assert len({trace[0].trace_id for trace in (sent, kept, archived)}) == 3
    sender, keeper, archive = sent[0], only(kept, "process keeper"), only(archived, "process archive")
    assert keeper.links == ((sender.trace_id, sender.span_id),)
    assert archive.links == ((keeper.trace_id, keeper.span_id),)
    assert (keeper.parent_id, archive.parent_id) == ("", "")
    assert only(kept, "chat echo").parent_id == keeper.span_id
    assert only(archived, "invoke_agent writer", "writer").parent_id == archive.span_id
    for span in (keeper, archive):
        assert span.attributes["gen_ai.conversation.id"] == SESSION
        assert span.attributes["messaging.message.id"]
        assert span.attributes["tokens.total"] > 0


def test_a_session_is_on_every_call_and_a_user_where_the_message_names_one(errands: Errands):
    trace = trace_of(errands, "client calls")
    calls = [span for span in trace if span.name.startswith(("invoke_agent ", "chat "))]
    assert {span.attributes["gen_ai.conversation.id"] for span in calls} == {SESSION}
    named = {span.name for span in errands.emitted.received.spans if span.attributes.get("user.id") == USER}
    assert {"invoke_agent main", "invoke_agent sender", "process keeper"} <= named
    assert all(name.startswith(("invoke_agent ", "process ", "client ")) for name in named)


def test_neither_a_user_nor_a_session_becomes_a_time_series(errands: Errands):
    pages = "".join(errands.emitted.pages.values())
    sent = b"".join(errands.emitted.received.metric_bytes).decode("latin-1")
    for told in (USER, SESSION):
        assert told not in pages
        assert told not in sent
    assert "aixgo_calls_total" in pages
    assert "aixgo.calls" in sent


def test_a_line_of_the_log_names_the_session_and_not_the_user(errands: Errands):
    (line,) = (one for one in errands.emitted.logged() if one["message"] == "archived by mail")
    span = only(trace_of(errands, "process archive"), "process archive")
    assert (line["trace_id"], line["span_id"]) == (span.trace_id, span.span_id)
    assert (line["agent"], line["session_id"]) == ("archive", SESSION)
    assert USER not in "".join(line for lines in errands.emitted.lines.values() for line in lines)


@pytest.mark.parametrize(
    ("session", "ended"),
    [
        ("stopped-by-the-server", "DeadlineExceeded"),
        ("given-up-by-the-caller", "DeadlineExceeded"),
        ("a-bare-deadline", "DeadlineExceeded"),
        ("unwanted", "CallCancelled"),
    ],
)
def test_a_call_that_was_stopped_says_whether_its_time_was_up(errands: Errands, session: str, ended: str):
    span = in_session(errands, "invoke_agent hangs", session)
    assert (span.failed, span.attributes["error.type"]) == (True, ended)


def test_calls_that_were_stopped_are_counted_by_why(errands: Errands):
    hangs, patient = errands.emitted.pages["hangs"], errands.emitted.pages["patient"]
    assert 'aixgo_calls_total{aixgo_outcome="DeadlineExceeded",gen_ai_agent_name="hangs"} 3.0' in hangs
    assert 'aixgo_calls_total{aixgo_outcome="CallCancelled",gen_ai_agent_name="hangs"} 1.0' in hangs
    assert 'aixgo_remote_attempts_total{aixgo_outcome="DeadlineExceeded",gen_ai_agent_name="hangs"} 1.0' in patient
    assert "CallCancelled" not in patient
