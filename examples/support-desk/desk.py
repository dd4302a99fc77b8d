"""An agent of one's own: makes a ticket out of what the classifiers said of a message."""

from typing import Any

from aixgo import Agent, AgentSpec, Message


class Ticket(Agent):
    """Called with the classifiers' results as JSON; answers with a ticket, whose priority follows plain rules."""

    idempotent = True

    def __init__(self, spec: AgentSpec) -> None:
        self.name, self.role = spec.name, "ticket"
        self.at_once = set(spec.config.get("at_once", []))

    async def execute(self, message: Message) -> Message:
        said: dict[str, Any] = message.payload if isinstance(message.payload, dict) else {}
        urgent = said.get("urgency") == "urgent"
        upset = said.get("sentiment") == "negative"
        team = said.get("team", "unassigned")
        priority = "P1" if urgent and (upset or team in self.at_once) else "P2" if urgent or upset else "P3"
        return Message({"team": team, "priority": priority, **said})
