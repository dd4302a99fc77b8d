"""Sequential: each step's output is the next step's input."""

from __future__ import annotations

from typing import ClassVar

from aixgo.message import Message
from aixgo.orchestration.base import MemberCalls, Orchestrator


class Sequential(Orchestrator):
    """Calls its members one after another; the reply is the last one's.

    The first error ends it and is raised as it is, with `fields["step"]`. Metadata: `step_count`.
    """

    pattern: ClassVar[str] = "sequential"

    async def run(self, message: Message, calls: MemberCalls) -> Message:
        calls.span.set("step_count", len(self._members))
        for number, member in enumerate(self._members, 1):
            message = await calls.step(number, member, message)
        return message.with_metadata(step_count=len(self._members))
