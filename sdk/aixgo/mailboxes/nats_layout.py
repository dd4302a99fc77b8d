"""How mailboxes lie in NATS JetStream: names, subjects, and what each stream and consumer is asked to keep.

    stream AIXGO-MAIL-<agent>   aixgo.mail.<agent>.<lane>      one mailbox; a letter is deleted when it is acknowledged
      consumer <lane>           one for each lane; a lane of sessions has one letter out at a time, for all receivers
    stream AIXGO-RECEIPTS       aixgo.receipt.<agent>.<id>     who has begun with a letter, how often, and who is done
    stream AIXGO-DEAD           aixgo.dead.<agent>.<id>        dead letters, until they are replayed or dropped
    stream AIXGO-CONSUMERS      aixgo.consumers.<agent>        since which start of the server the consumers are sound

A session always goes to the same of LANES lanes, which gives its messages their order; a letter without a session goes
to the lane `any`, where many can be out. The number of lanes is no setting: senders and receivers have to agree on it.

Receipts are what makes redeliveries known for certain: the server's own count of deliveries does not outlive a SIGKILL,
and its memory of ids ends, for letters that were acknowledged, when it restarts. Receipts outlive both. After a SIGKILL
the consumers of a server may also pass over letters that lie in the stream (seen with 2.9.10), so they are made anew
once for each start of a server; what they then deliver again is known by its receipt. For the same reason the streams
are no work queues, where what consumers believe decides what is deleted: letters are deleted by those who are done.

Pure: no I/O. Above: `nats.py` and its parts.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any
from zlib import crc32

from aixgo.call import DEFAULT_TIMEOUT
from aixgo.mailboxes.contract import DUPLICATE_WINDOW, MailboxPolicy

LANES = 16
"""Sessions of one agent that can be worked on at the same time, at most; a letter that waits for its next delivery
holds up the other sessions of its lane."""
ANY = "any"
MAX_OUT = 1000
"""Letters without a session that can be out at the same time."""
MAX_RECEIPTS = 1_000_000
RECEIPTS, DEAD, CONSUMERS = "AIXGO-RECEIPTS", "AIXGO-DEAD", "AIXGO-CONSUMERS"
LANE_NAMES = (ANY, *(f"s{number}" for number in range(LANES)))
NANOSECONDS = 1_000_000_000

_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def token(text: str) -> str:
    """A text as one token of a subject or name: itself where that can be, else its hash."""
    return text if _PLAIN.fullmatch(text) else f"={hashlib.sha256(text.encode(errors='replace')).hexdigest()}"


def mail_stream_name(agent: str) -> str:
    """The stream of an agent's mailbox."""
    return f"AIXGO-MAIL-{token(agent)}"


def mail_subject(agent: str, session_id: str) -> str:
    """Where a letter to `agent` goes."""
    lane = f"s{crc32(session_id.encode(errors='replace')) % LANES}" if session_id else ANY
    return f"aixgo.mail.{token(agent)}.{lane}"


def receipt_subject(agent: str, key: str) -> str:
    """Where the receipt of a letter is kept."""
    return f"aixgo.receipt.{token(agent)}.{token(key)}"


def consumers_subject(agent: str) -> str:
    """Where it is noted since which start of the server the consumers of a mailbox are sound."""
    return f"aixgo.consumers.{token(agent)}"


def dead_subject(agent: str, message_id: str = "") -> str:
    """Where a dead letter is kept; without an id: those of `agent`; without an agent: all."""
    return f"aixgo.dead.{token(agent) if agent else '*'}.{token(message_id) if message_id else '*'}"


def mail_stream(agent: str, replicas: int) -> dict[str, Any]:
    """The stream of one mailbox. Its limits are kept by senders: see `nats_room.py`."""
    return {
        "name": mail_stream_name(agent),
        "subjects": [f"aixgo.mail.{token(agent)}.*"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "duplicate_window": int(DUPLICATE_WINDOW * NANOSECONDS),
    }


def receipts_stream(policy: MailboxPolicy, replicas: int) -> dict[str, Any]:
    """The stream of receipts. It keeps each for longer than two deliveries can lie apart."""
    window = max(2 * DUPLICATE_WINDOW, 2 * (DEFAULT_TIMEOUT + policy.ack_wait + max(policy.backoff)))
    return {
        "name": RECEIPTS,
        "subjects": ["aixgo.receipt.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "max_msgs": MAX_RECEIPTS,
        "max_msgs_per_subject": 1,
        "max_age": int(window * NANOSECONDS),
        "num_replicas": replicas,
        "duplicate_window": int(DUPLICATE_WINDOW * NANOSECONDS),
    }


def dead_stream(replicas: int) -> dict[str, Any]:
    """The stream of dead letters. Its limit is kept by those who bury."""
    return {
        "name": DEAD,
        "subjects": ["aixgo.dead.>"],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "max_msgs_per_subject": 1,
        "num_replicas": replicas,
        "duplicate_window": int(DUPLICATE_WINDOW * NANOSECONDS),
    }


def consumers_stream(replicas: int) -> dict[str, Any]:
    """The stream of notes on consumers, one for each agent."""
    return {
        "name": CONSUMERS,
        "subjects": ["aixgo.consumers.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "max_msgs_per_subject": 1,
        "num_replicas": replicas,
        "duplicate_window": int(DUPLICATE_WINDOW * NANOSECONDS),
    }


def consumer(agent: str, lane: str, policy: MailboxPolicy) -> dict[str, Any]:
    """The consumer of one lane. Deliveries are counted by receipts, so the server's own are without limit."""
    return {
        "durable_name": lane,
        "filter_subject": f"aixgo.mail.{token(agent)}.{lane}",
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(policy.ack_wait * NANOSECONDS),
        "max_ack_pending": MAX_OUT if lane == ANY else 1,
        "max_deliver": -1,
    }
