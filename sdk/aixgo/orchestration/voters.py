"""Members that are asked the same at once: how they are told apart, and what is kept of their answers.

Above: the patterns that vote, ensemble and debate.
"""

from __future__ import annotations

from collections.abc import Sequence

from aixgo.errors import AixgoError
from aixgo.message import JSON, Message
from aixgo.orchestration.base import Member, MemberCalls, name_of
from aixgo.orchestration.failures import labelled
from aixgo.runtime.contract import Outcomes


def labels_of(members: Sequence[Member], parent: str) -> tuple[str, ...]:
    """A label for each member: its name, `name#2` where it is there again, `parent/0` where it has none."""
    return labelled(name_of(member) or f"{parent}/{index}" for index, member in enumerate(members))


def split(outcomes: Outcomes, calls: MemberCalls) -> tuple[dict[str, Message], dict[str, AixgoError]]:
    """The replies and the errors by label; an error that ends the whole pattern is raised."""
    errors = {outcome.target: outcome.error for outcome in outcomes if outcome.error is not None}
    for error in errors.values():
        if calls.fatal(error):
            raise error
    return {outcome.target: outcome.message for outcome in outcomes if outcome.message is not None}, errors


def answer_of(reply: Message) -> JSON:
    """A reply's payload as something that can be voted on: bytes as text."""
    return reply.text if isinstance(reply.payload, bytes) else reply.payload
