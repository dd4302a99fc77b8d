"""The person who decides when the models do not agree. Here it is a note on a screen."""

from aixgo import Agent, AgentSpec, Message


class OnCall(Agent):
    """Answers `person`: whoever is on call is shown the votes, and calls the patient back."""

    idempotent = True

    def __init__(self, spec: AgentSpec) -> None:
        self.name, self.role = spec.name, "on_call"

    async def execute(self, message: Message) -> Message:
        voters = message.metadata.get("voters", {})
        opinions = ", ".join(f"{who} said {answer}" for answer, names in voters.items() for who in names)
        return Message("person", {"note": f"Call back within 10 minutes. No agreement: {opinions}."})
