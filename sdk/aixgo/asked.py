"""What a request asks of its answer, in its metadata, and what a reply says of handing over.

Part of the core: no I/O. Patterns write these keys and heed them; the ready agents with a model follow them, an agent
of a user's own may. They are meant for whoever makes the reply: a pattern passes them on to the member whose answer
becomes its own, and to no other (`for_members`).
"""

from __future__ import annotations

import re

from aixgo.message import Message

RESPONSE_SCHEMA = "response_schema"
"""A JSON schema of an object; the reply's payload is to follow it."""
QUESTION = "question"
"""What a request asks that a pattern has written more around (sources, instructions): a memory keeps this instead."""
HANDOFFS = "handoffs"
"""Agent -> what it is there for: whom the agent that is asked may hand over to, instead of answering."""
HANDOFF_TO, HANDOFF_REASON = "handoff_to", "handoff_reason"
"""In a reply: the agent that it hands over to, and why."""
HANDOFF_FROM = "handoff_from"
"""In a request: the agent that has handed over."""
ACTIVE_AGENT = "active_agent"
"""Of a swarm: who has the conversation; in a reply who answered, in a request who is to be asked first."""

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


def for_members(message: Message) -> Message:
    """`message` for a member whose answer is not the reply: without what it asks of the reply."""
    return message.without_metadata(RESPONSE_SCHEMA, HANDOFFS)


def unfenced(text: str) -> str:
    """The inside of the one code block that `text` is, as models like to write JSON; else `text` itself."""
    fenced = _FENCE.match(text)
    return fenced.group(1) if fenced else text
