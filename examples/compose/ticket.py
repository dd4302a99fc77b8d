"""An agent of one's own, as a container finds it: beside the YAML, in the folder that is mounted at /app."""

from typing import Any

from aixgo import Agent, AgentSpec, Message


class Ticket(Agent):
    """Called with the classifiers' answers as JSON; answers with a ticket, whose priority follows plain rules."""

    idempotent = True

    def __init__(self, spec: AgentSpec) -> None:
        self.name, self.role = spec.name, "ticket"
        self.at_once = set(spec.config.get("at_once", []))

    async def execute(self, message: Message) -> Message:
        said: dict[str, Any] = message.payload if isinstance(message.payload, dict) else {}
        team, upset = said.get("analyst", "unassigned"), said.get("sentiment") == "negative"
        priority = "P1" if upset and team in self.at_once else "P2" if upset else "P3"
        return Message({"team": team, "priority": priority, "sentiment": said.get("sentiment")})
