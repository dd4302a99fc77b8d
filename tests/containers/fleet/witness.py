"""Agents that tell where they ran."""

import socket

from aixgo import Message, agent


@agent(idempotent=True)
async def analyst(message: Message) -> Message:
    return message.with_(metadata={"host": socket.gethostname()})


@agent(idempotent=True)
async def ticket(message: Message) -> Message:
    return Message({"ticket": message.payload})
