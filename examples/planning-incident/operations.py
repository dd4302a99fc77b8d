"""Who changes production: an agent in Python, whose words are orders and whose refusals are errors."""

from aixgo import Agent, AgentSpec, Message
from aixgo.errors import WrongState


class Operations(Agent):
    """Lists changes, rolls back, switches flags off. It refuses a rollback that the database would not survive."""

    def __init__(self, spec: AgentSpec) -> None:
        self.name, self.role = spec.name, "operations"

    async def execute(self, message: Message) -> Message:
        order = message.text.casefold()
        if order.startswith("roll back"):
            raise WrongState("checkout 4.12 has changed the table orders; 4.11 cannot read it any more")
        if order.startswith("switch off"):
            return Message("The flag new-tax-rules is off since 14:02.")
        return Message("13:31 checkout 4.12, with the flag new-tax-rules; 11:05 search 2.9.")
