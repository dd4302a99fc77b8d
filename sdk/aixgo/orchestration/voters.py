"""Members that are asked the same at once, of which some may fail: how they are told apart, and what is kept of errors.

Above: the patterns that vote, ensemble and debate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aixgo.errors import AixgoError
from aixgo.message import JSON, Message
from aixgo.orchestration.base import Member, MemberCalls, name_of
from aixgo.runtime.contract import Outcomes


def labels_of(members: Sequence[Member], parent: str) -> tuple[str, ...]:
    """A label for each member: its name, `name#2` where it is there again, `parent/0` where it has none."""
    labels: list[str] = []
    for index, member in enumerate(members):
        name = label = name_of(member) or f"{parent}/{index}"
        number = 1
        while label in labels:
            number += 1
            label = f"{name}#{number}"
        labels.append(label)
    return tuple(labels)


def split(outcomes: Outcomes, calls: MemberCalls) -> tuple[dict[str, Message], dict[str, AixgoError]]:
    """The replies and the errors by label; an error that ends the whole pattern is raised."""
    errors = {outcome.target: outcome.error for outcome in outcomes if outcome.error is not None}
    for error in errors.values():
        if calls.fatal(error):
            raise error
    return {outcome.target: outcome.message for outcome in outcomes if outcome.message is not None}, errors


def told(errors: Mapping[str, AixgoError]) -> dict[str, dict[str, str]]:
    """Errors as metadata: class and message, by label."""
    return {label: error.brief() for label, error in errors.items()}


def in_words(errors: Mapping[str, AixgoError]) -> str:
    """Errors as the end of a message."""
    return "; ".join(f"{label}: {type(error).__name__}: {error}" for label, error in errors.items())


def answer_of(reply: Message) -> JSON:
    """A reply's payload as something that can be voted on: bytes as text."""
    return reply.text if isinstance(reply.payload, bytes) else reply.payload
