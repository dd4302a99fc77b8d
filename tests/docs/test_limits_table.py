"""The table of limits says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aixgo import call
from aixgo.config import document
from aixgo.mailboxes import contract as mailboxes
from aixgo.runtime import base, channels
from aixgo.runtime.contact import MAX_UPDATE_BYTES
from aixgo.security import files, rules, tokens
from aixgo.server import calls, incoming, limits, listening, places, session
from aixgo.sessions import contract as sessions
from aixgo.telemetry import page
from aixgo.wire import codec, instances, values
from aixgo.wire import session as protocol
from aixgo_controlplane import main, registry, service, tombstones
from aixgo_controlplane.room import DEFAULT_LIMITS

ROOT = Path(__file__).parents[2]
KEPT = places.Places(calls.MAX_CONCURRENT_CALLS, lambda: 0).kept


def mib(size: int) -> str:
    """Bytes as the table writes them."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


ROWS: dict[str, list[str | float]] = {
    "payload of a message": [mib(base.MAX_MESSAGE_BYTES)],
    "metadata of a message": [values.MAX_METADATA_ENTRIES],
    "its metadata as JSON": [mib(values.MAX_METADATA_BYTES)],
    "lists and objects": [values.MAX_JSON_DEPTH],
    "headers of an RPC": [mib(channels.MAX_METADATA)],
    "ids of calls": [incoming.MAX_ID, incoming.MAX_NAME, incoming.MAX_SESSION_ID],
    "agents above a call": [incoming.MAX_PATH, incoming.MAX_PATH_TEXT],
    "each part of a trace": [incoming.MAX_TRACE],
    "amounts of USD": [codec.MAX_USD_TEXT, codec.USD_DIGITS],
    "time of a call": [call.DEFAULT_TIMEOUT, incoming.MAX_TIMEOUT / 86_400],
    "calls inside calls": [call.MAX_DEPTH],
    "calls of a process": [calls.MAX_CONCURRENT_CALLS],
    "of those, left": [places.FEW, KEPT, places.SMALL],
    "callers that are told": [limits.MAX_CALLERS],
    "RPCs of a port": [listening.MAX_RPCS, main.MAX_RPCS],
    "RPCs of a health port": [listening.MAX_HEALTH_CHECKS, listening.MAX_HEALTH_BYTES],
    "events ahead": [protocol.WINDOW],
    "frames in one": [protocol.MAX_FRAMES],
    "bytes that wait": [mib(session.MAX_BACKLOG)],
    "handshake": [listening.HANDSHAKE_MS / 1000],
    "text, fields and path": [codec.MAX_ERROR_TEXT, codec.MAX_ERROR_FIELDS, codec.MAX_ERROR_PATH],
    "what one instance": [mib(instances.MAX_INSTANCE_BYTES)],
    "its agents;": [instances.MAX_AGENTS],
    "its labels;": [
        instances.MAX_LABELS,
        instances.MAX_WORD,
        instances.MAX_LABEL,
        mib(instances.MAX_LABELS_BYTES),
    ],
    "its id": [instances.MAX_WORD],
    "its host;": [instances.MAX_HOST, instances.MAX_WORD, instances.MAX_TRANSPORTS],
    "instances, their agents": [DEFAULT_LIMITS.instances, DEFAULT_LIMITS.agents, mib(DEFAULT_LIMITS.bytes)],
    "instances remembered": [DEFAULT_LIMITS.tombstones, mib(tombstones.MAX_NAMES_BYTES)],
    "names of one watch": [service.MAX_WATCHED_AGENTS, service.MAX_WATCHED_NAME, mib(service.MAX_WATCHED_BYTES)],
    "changes that wait": [DEFAULT_LIMITS.behind],
    "a lease": [registry.DEFAULT_LEASE, registry.MIN_LEASE, registry.MAX_LEASE],
    "a request; an answer": [mib(main.MAX_REQUEST_BYTES), mib(MAX_UPDATE_BYTES)],
    "messages of a mailbox": [mailboxes.MEMORY_MESSAGES, mailboxes.LASTING_MESSAGES],
    "deliveries of a message": [mailboxes.MAX_DELIVERIES, mailboxes.MAX_DEAD],
    "turns of a session": [sessions.MAX_TURNS, mib(sessions.MAX_TURN_BYTES), sessions.MAX_SESSIONS],
    "a YAML file": [
        mib(document.MAX_BYTES),
        document.MAX_NESTING,
        document.MAX_VALUES,
        document.MAX_MERGED,
        document.MAX_VARIABLES,
    ],
    "files of keys": [mib(files.MAX_FILE_BYTES), tokens.MAX_TOKENS, rules.MAX_RULES],
    "connections to the metrics": [page.MAX_CONNECTIONS, page.IO_TIMEOUT],
}


@pytest.mark.parametrize("what", ROWS)
def test_a_limit_is_written_down_as_it_is(what: str) -> None:
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith(f"| {what}")]
    assert len(rows) == 1, f"SECURITY.md has {len(rows)} rows that begin with {what!r}"
    for value in ROWS[what]:
        shown = value if isinstance(value, str) else f"{value:,.0f}"
        assert re.search(rf"(?<![\d,]){re.escape(shown)}(?![\d,]\d)", rows[0]), f"{shown} is not in {rows[0]}"
