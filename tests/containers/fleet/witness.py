"""Agents that tell where they ran, and what came by mail."""

import asyncio
import json
import socket

from aixgo import Agent, AgentSpec, Message, agent
from aixgo.runtime.contract import Delivery


@agent(idempotent=True)
async def analyst(message: Message) -> Message:
    return message.with_(metadata={"host": socket.gethostname()})


class Ticket(Agent):
    """Makes a ticket of what it is called with, and says on stdout what it files of its mailbox."""

    idempotent = True

    def __init__(self, spec: AgentSpec) -> None:
        self.name = spec.name

    async def execute(self, message: Message) -> Message:
        return Message({"ticket": message.payload})

    async def start(self) -> None:
        async for delivery in self.runtime.recv():
            try:
                await file(delivery)
            except ValueError as error:
                tell("refused", delivery, str(error))


async def file(delivery: Delivery) -> None:
    """File a message: `hold` never, on its first delivery; `unreadable` not before it was replayed."""
    async with delivery as message:
        if message.text == "hold" and not delivery.redelivered:
            tell("held", delivery, message.text)
            await asyncio.Event().wait()
        replayed = delivery.redelivered and delivery.attempt == 1
        if message.text == "unreadable" and not replayed:
            raise ValueError("cannot read this")
    tell("filed", delivery, message.text)


def tell(what: str, delivery: Delivery, text: str) -> None:
    print(json.dumps({what: text, "redelivered": delivery.redelivered}))
