"""Parallel: all members at once, their results merged or handed to an aggregator."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, ClassVar

from aixgo.errors import AllMembersFailed
from aixgo.message import JSON, Message, Payload
from aixgo.orchestration.base import DEFAULT_LIMITS, Limits, Member, MemberCalls, Orchestrator
from aixgo.runtime.contract import Outcomes


class Parallel(Orchestrator):
    """Calls its members at the same time with one message, waits for all, and fails only if none succeeds.

    Without an aggregator the payload is a JSON object, member -> payload (bytes as base64). With one, the aggregator is
    called with that payload and with `parallel_results` in the metadata: member -> {payload, metadata}. `concurrency`
    bounds how many run at once. Metadata: `agent_count`, and when some failed
    `parallel_errors`, member -> {class, message}.
    """

    pattern: ClassVar[str] = "parallel"

    def __init__(
        self,
        name: str,
        members: Sequence[Member],
        *,
        aggregator: Member | None = None,
        concurrency: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(name, (*members, aggregator) if aggregator is not None else members, limits=limits)
        self._workers = tuple(members)
        self._aggregator = aggregator
        self._concurrency = concurrency

    @property
    def agent_count(self) -> int:
        """How many agents work at once; the aggregator is none of them."""
        return len(self._workers)

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        started = perf_counter()
        outcomes = await calls.parallel(self._workers, message, concurrency=self._concurrency)
        calls.span.set("parallel.agents_succeeded", len(outcomes.results))
        calls.span.set("parallel.agents_failed", len(outcomes.errors))
        calls.span.set("parallel.wait_time_ms", int((perf_counter() - started) * 1000))
        errors = {
            key: {"class": type(outcome.error).__name__, "message": str(outcome.error)}
            for key, outcome in _keyed(outcomes).items()
            if outcome.error is not None
        }
        if not outcomes.results:
            reasons = "; ".join(f"{key}: {error['class']}: {error['message']}" for key, error in errors.items())
            raise AllMembersFailed(f"all {len(outcomes)} agents failed: {reasons}", fields={"errors": errors})
        reply = await self._merge(message, outcomes, calls)
        return reply.with_metadata(parallel_errors=errors) if errors else reply

    async def _merge(self, message: Message, outcomes: Outcomes, calls: MemberCalls) -> Message:
        replies = {key: outcome.message for key, outcome in _keyed(outcomes).items() if outcome.message is not None}
        merged = Message(
            {key: _as_json(reply.payload) for key, reply in replies.items()}, session_id=message.session_id
        )
        if self._aggregator is None:
            return merged
        results = {key: _result(reply) for key, reply in replies.items()}
        reply = await calls.call(self._aggregator, merged.with_metadata(parallel_results=results))
        return reply.with_metadata(parallel_results=results)


def _keyed(outcomes: Outcomes) -> Mapping[str, Any]:
    """Outcomes by member; a member that is there twice gets `name#2`."""
    keyed: dict[str, Any] = {}
    for outcome in outcomes:
        key, number = outcome.target, 1
        while key in keyed:
            number += 1
            key = f"{outcome.target}#{number}"
        keyed[key] = outcome
    return keyed


def _result(reply: Message) -> dict[str, Any]:
    return {"payload": _as_json(reply.payload), "metadata": dict(reply.metadata)}


def _as_json(payload: Payload) -> JSON:
    return b64encode(payload).decode() if isinstance(payload, bytes) else payload
