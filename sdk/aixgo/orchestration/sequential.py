"""Sequential: each step's output is the next step's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from aixgo.asked import (
    ACTIVE_AGENT,
    HANDOFF_FROM,
    HANDOFF_REASON,
    HANDOFF_TO,
    HANDOFFS,
    RESPONSE_SCHEMA,
    for_members,
)
from aixgo.conversation import KEY as CONVERSATION
from aixgo.errors import AixgoError, AllMembersFailed, InvalidInput
from aixgo.message import Message
from aixgo.names import nearest
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_word
from aixgo.orchestration.conditions import Condition, Predicate
from aixgo.orchestration.failures import in_words, labelled
from aixgo.orchestration.reading import PatternConfig, required

_ANSWER = (RESPONSE_SCHEMA, HANDOFFS)
"""Metadata of a request that says how to answer it: for the last step, whose reply is the reply."""
_ORDERS = (*_ANSWER, ACTIVE_AGENT, CONVERSATION, HANDOFF_FROM, HANDOFF_REASON, HANDOFF_TO)
"""Metadata that is an order in a request. In a reply it is about that reply (whom a swarm handed over to), so the next
step, to which the reply is a request, must not get it."""


class SequentialConfig(PatternConfig):
    """`config:` of a sequential orchestration."""

    on_error: Literal["stop", "skip"] = Field(
        default="stop", description="stop: the first error ends it; skip: the step's input goes on to the next step."
    )
    when: dict[str, Condition] = Field(
        default_factory=dict, description="Conditions on a step's input, by the step's agent or its number from 1."
    )


class Sequential(Orchestrator):
    """Calls its members one after another; each gets what the one before answered; the reply is the last one's.

    What the request's metadata say of the answer (`response_schema`, `handoffs`) is for the last step, its
    `conversation` for the first. With `on_error="stop"` the first error ends it and is raised as it is, with
    `fields["step"]`. With "skip" the input of a step that fails goes on to the next one; an error that ends the whole
    (budget, depth, deadline) is raised all the same, and AllMembersFailed when no step succeeded. A step whose
    condition in `when` does not hold is skipped in the same way: `when` names a step by its number as text, or by its
    agent's name, for every step of that agent whose number it does not name.

    Metadata: `step_count`, and when some were skipped `skipped_steps`: a list of {step, agent, reason: "condition" or
    "error", class, message}.
    """

    pattern: ClassVar[str] = "sequential"
    Config = SequentialConfig

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        on_error: Literal["stop", "skip"] = "stop",
        when: Mapping[str, Predicate] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, members, limits=limits)
        self._skips = check_word(f"on_error of sequential {name!r}", on_error, ("stop", "skip")) == "skip"
        self._when = dict(when or {})
        steps = [*filter(None, map(name_of, members)), *(str(number) for number in range(1, len(members) + 1))]
        for step in self._when:
            if step not in steps:
                raise InvalidInput(f"when.{step}: sequential {name!r} has no such step; {nearest(step, steps)}")

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: SequentialConfig, limits: Limits) -> Self:
        return cls(name, required(name, agents), on_error=config.on_error, when=config.when, limits=limits)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        calls.span.set("step_count", len(self._members))
        skipped: list[dict[str, Any]] = []
        request = reply = message
        for number, member in enumerate(self._members, 1):
            request = self._told_how_to_answer(number, request, message)
            if not self._wanted(number, member, request):
                skipped.append({"step": number, "agent": name_of(member), "reason": "condition"})
                continue
            try:
                reply = await calls.step(number, member, request)
            except AixgoError as error:
                if not self._skips or calls.fatal(error):
                    raise
                skipped.append(_failure(number, member, error))
            else:
                request = reply.without_metadata(*_ORDERS)
        return self._reply(reply, skipped)

    def _told_how_to_answer(self, number: int, request: Message, message: Message) -> Message:
        """A step's request: the last one answers as `message` wants it, the others as they like."""
        if number < len(self._members):
            return for_members(request)
        return request.with_metadata(**{key: message.metadata[key] for key in _ANSWER if key in message.metadata})

    def _wanted(self, number: int, member: Member, request: Message) -> bool:
        condition = self._when.get(str(number), self._when.get(name_of(member)))
        return condition is None or condition(request)

    def _reply(self, message: Message, skipped: Sequence[Mapping[str, Any]]) -> Message:
        failed = [step for step in skipped if step["reason"] == "error"]
        if failed and len(skipped) == len(self._members):
            told = [{"class": step["class"], "message": step["message"]} for step in failed]
            errors = dict(zip(labelled(step["agent"] for step in failed), told, strict=True))
            raise AllMembersFailed(f"no step succeeded: {in_words(errors)}", fields={"errors": errors})
        reply = message.with_metadata(step_count=len(self._members))
        return reply.with_metadata(skipped_steps=list(skipped)) if skipped else reply


def _failure(number: int, member: Member, error: AixgoError) -> dict[str, Any]:
    return {"step": number, "agent": name_of(member), "reason": "error", **error.brief()}
