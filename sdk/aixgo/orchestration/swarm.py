"""Swarm: agents that hand a conversation over to one another; whoever has it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import Field

from aixgo.asked import (
    ACTIVE_AGENT,
    HANDOFF_FROM,
    HANDOFF_REASON,
    HANDOFF_TO,
    HANDOFFS,
    RESPONSE_SCHEMA,
)
from aixgo.conversation import MAX_TURNS, Turn, turns_of, with_turns
from aixgo.errors import HandoffLoop, HandoffRefused, InvalidInput, InvalidMessage, LimitExceeded
from aixgo.message import Message, from_json
from aixgo.names import nearest
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator, name_of
from aixgo.orchestration.checks import check_count, check_rounds
from aixgo.orchestration.reading import PatternConfig, required

MAX_HANDOFFS = 10
"""Hand-overs in one run, unless `max_handoffs` says otherwise."""
_LONGEST_REASON = 1000


class SwarmConfig(PatternConfig):
    """`config:` of a swarm."""

    entry: str | None = Field(default=None, description="Who has a new conversation first; else the first agent.")
    handoffs: dict[str, tuple[str, ...]] | None = Field(
        default=None, description="Agent -> those it may hand over to; without it everyone to everyone."
    )
    max_handoffs: int | None = Field(default=None, ge=1, description="Hand-overs in one run; 10 unless said.")
    ping_pong: int = Field(default=2, ge=0, description="Returns in a row that two agents may make.")
    descriptions: dict[str, str] = Field(
        default_factory=dict, description="What each agent is there for; told to those that may hand over to it."
    )


@dataclass(slots=True)
class _Trail:
    """The way of one conversation: hand-overs so far, and what was said."""

    active: str
    turns: list[Turn]
    hops: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    returns: int = 0
    """Hand-overs in a row, the last one included, that went back to where the one before came from."""

    @property
    def names(self) -> list[str]:
        """Who had the conversation, in order."""
        return [*(hop["from"] for hop in self.hops), self.active]


class Swarm(Orchestrator):
    """Calls the active agent; as long as the reply hands over, the agent that it hands over to.

    The first one is `entry` (else the first member), or the one that the request's metadata `active_agent` names, so
    that a conversation goes on where it was: pass the reply's `active_agent`, and the `conversation`, with the next
    request. A reply hands over by the metadata `handoff_to` (and `handoff_reason`), as the ready LLM agents' does when
    their model calls the tool `hand_over`; the first reply without it is the swarm's.

    Each agent is asked the message itself. Its metadata are the message's and `handoffs`, whom it may hand over to with
    their `descriptions`; after a hand-over also `handoff_from`, `handoff_reason` and `conversation`: what came before,
    the message, and what each agent said when it handed over. `handoffs` of the constructor is the table of who may
    hand over to whom; an agent that it does not name may to nobody; without a table everyone may to everyone else.

    Raises HandoffRefused for a target that the table does not allow or that is no member; LimitExceeded for more than
    `max_handoffs` (at most limits.max_iterations); HandoffLoop for ping-pong. A hand-over is a return when it goes back
    to the agent that the hand-over before it came from: of A to B, B to A, A to B, B to A the last three are. Returns
    in a row are counted; a hand-over to anybody else begins anew; more than `ping_pong` (2) are a loop, which that
    fourth one is. An agent's own error is raised as it is, with `fields["step"]`.

    A model that may hand over is not bound to a schema, so where the request has a `response_schema` an agent that
    neither hands over nor answers a JSON object is asked once more, without the offer.

    Metadata: `handoffs`, a list of {from, to, reason}; `handoff_count`; `active_agent`, who answered.
    """

    pattern: ClassVar[str] = "swarm"
    Config = SwarmConfig

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        entry: str | None = None,
        handoffs: Mapping[str, Sequence[str]] | None = None,
        max_handoffs: int | None = None,
        ping_pong: int = 2,
        descriptions: Mapping[str, str] | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, members, limits=limits)
        self._entry = entry
        self._table = None if handoffs is None else {source: tuple(targets) for source, targets in handoffs.items()}
        most = min(MAX_HANDOFFS, limits.max_iterations) if max_handoffs is None else max_handoffs
        self._max_handoffs = check_rounds(f"max_handoffs of swarm {name!r}", most, limits)
        self._ping_pong = check_count(f"ping_pong of swarm {name!r}", ping_pong, least=0)
        self._descriptions = dict(descriptions or {})
        self._check()

    @classmethod
    def from_config(cls, name: str, agents: Sequence[Member], config: SwarmConfig, limits: Limits) -> Self:
        return cls(
            name,
            required(name, agents),
            entry=config.entry,
            handoffs=config.handoffs,
            max_handoffs=config.max_handoffs,
            ping_pong=config.ping_pong,
            descriptions=config.descriptions,
            limits=limits,
        )

    def _check(self) -> None:
        """Raise InvalidInput for names that are no members'."""
        known = {name_of(member) or f"{self.name}/{index}" for index, member in enumerate(self._members)}
        used = [("entry", self._entry)] if self._entry is not None else []
        used += [(f"descriptions.{described}", described) for described in self._descriptions]
        for source, targets in (self._table or {}).items():
            used.append((f"handoffs.{source}", source))
            used += [(f"handoffs.{source}", target) for target in targets]
            if source in targets:
                raise InvalidInput(f"handoffs.{source}: {source!r} cannot hand over to itself; remove it")
        for where, one in used:
            if one not in known:
                raise InvalidInput(f"{where}: swarm {self.name!r} has no agent {one!r}; {nearest(one, known)}")

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        members = {name_of(member): member for member in self._members}
        trail = _Trail(self._first(message, members), list(turns_of(message) or ()))
        while True:
            calls.span.set("swarm.handoffs", len(trail.hops))
            calls.span.set("swarm.final_agent", trail.active)
            reply = await self._turn(members[trail.active], self._request(message, trail), len(trail.hops) + 1, calls)
            if reply.metadata.get(HANDOFF_TO) is None:
                return reply.with_metadata(
                    handoffs=trail.hops, handoff_count=len(trail.hops), active_agent=trail.active
                )
            self._hand_over(trail, message, reply)

    async def _turn(self, member: Member, request: Message, number: int, calls: MemberCalls) -> Message:
        """The active agent's reply: an answer, or a hand-over."""
        reply = await calls.step(number, member, request)
        if reply.metadata.get(HANDOFF_TO) is not None or not _misses_schema(request, reply):
            return reply
        return await calls.step(number, member, request.without_metadata(HANDOFFS))

    def _first(self, message: Message, members: Mapping[str, Member]) -> str:
        """Who is asked first. Raises InvalidInput."""
        resumed = message.metadata.get(ACTIVE_AGENT)
        if resumed is None:
            return self._entry or next(iter(members))
        if not isinstance(resumed, str) or resumed not in members:
            hint = nearest(str(resumed), members)
            raise InvalidInput(f"metadata.{ACTIVE_AGENT}: swarm {self.name!r} has no agent {resumed!r}; {hint}")
        return resumed

    def _targets(self, source: str) -> Sequence[str]:
        """Whom an agent may hand over to."""
        if self._table is not None:
            return self._table.get(source, ())
        return tuple(name for name in self.agents if name != source)

    def _request(self, message: Message, trail: _Trail) -> Message:
        request = message.without_metadata(ACTIVE_AGENT, HANDOFFS, HANDOFF_FROM, HANDOFF_TO, HANDOFF_REASON)
        targets = self._targets(trail.active)
        if targets:
            offered = {target: self._descriptions.get(target, "") for target in targets}
            request = request.with_metadata(**{HANDOFFS: offered})
        if trail.hops:
            last = trail.hops[-1]
            request = request.with_metadata(**{HANDOFF_FROM: last["from"], HANDOFF_REASON: last["reason"]})
        return with_turns(request, trail.turns[-MAX_TURNS:]) if trail.turns else request

    def _hand_over(self, trail: _Trail, message: Message, reply: Message) -> None:
        """Make the agent that a reply hands over to the active one. Raises what the class says."""
        target = self._allowed(trail.active, reply.metadata[HANDOFF_TO])
        names = [*trail.names, target]
        if len(trail.hops) >= self._max_handoffs:
            raise LimitExceeded(
                f"swarm {self.name!r} would hand over more than {self._max_handoffs} times: {' > '.join(names)};"
                " raise max_handoffs, or say more clearly who answers what",
                fields={"limit": self._max_handoffs, "handoffs": names},
            )
        trail.returns = trail.returns + 1 if names[-3:-2] == [target] else 0
        if trail.returns > self._ping_pong:
            raise HandoffLoop(
                f"{trail.active!r} and {target!r} hand over to each other again and again: {' > '.join(names)};"
                " say more clearly which of them answers what, or raise ping_pong",
                fields={"handoffs": names},
            )
        if not trail.hops:
            trail.turns.append(Turn("user", message.text))
        reason = str(reply.metadata.get(HANDOFF_REASON) or "")[:_LONGEST_REASON]
        trail.turns.append(Turn("assistant", _farewell(reply, target, reason), trail.active))
        trail.hops.append({"from": trail.active, "to": target, "reason": reason})
        trail.active = target

    def _allowed(self, source: str, target: Any) -> str:
        """The name that an agent hands over to, if it may. Raises HandoffRefused."""
        targets = self._targets(source)
        if isinstance(target, str) and target in targets:
            return target
        fault = "which it may not" if target in self.agents else "who is no agent here"
        raise HandoffRefused(
            f"agent {source!r} hands over to {target!r}, {fault}; allowed: {', '.join(targets) or 'nobody'}",
            fields={"from": source, "to": str(target)},
        )


def _misses_schema(request: Message, reply: Message) -> bool:
    """Whether an agent was to answer a JSON object, and did not because it might have handed over."""
    if not {RESPONSE_SCHEMA, HANDOFFS} <= request.metadata.keys():
        return False
    try:
        return not isinstance(from_json(reply.text.encode(errors="replace")), dict)
    except InvalidMessage:
        return True


def _farewell(reply: Message, target: str, reason: str) -> str:
    """What the agents that come after see of an agent that handed over."""
    note = f"(handed over to {target}: {reason})" if reason else f"(handed over to {target})"
    return f"{reply.text}\n{note}" if reply.text.strip() else note
